// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <map>

#include "device_twin.cuh"

// A step is captured once, with upper bounds, and replayed with changed lengths, tables, rows and accepted counts:
// through sealing, forks, copies on write and cuts. The bytes are the host's after every replay, and what it attends is
// what launches one by one attend on a copy of the memory.

namespace {

using namespace kvc_test;
using kvc::int32;
using kvc::status;

constexpr int most_sequences = 3;
constexpr int64 most_rows = 24;  // of one sequence
constexpr int64 most_total = 40;
constexpr int64 most_length = 250;

/// Arrays at addresses that never change, as an engine has them; each step writes new numbers into them.
template <class Spec>
struct fixed_step {
  static constexpr int64 stride = kvc::ceil_div<int64>(most_length, Spec::tokens_per_page);
  device_array<int32> ids{nullptr, most_sequences}, table{nullptr, static_cast<std::size_t>(most_sequences*stride)};
  device_array<int64> lengths{nullptr, most_sequences}, indptr{nullptr, most_sequences + 1},
      accepted{nullptr, most_sequences};
  kvc::step_view view{most_sequences, ids.data(), lengths.data(), indptr.data(), table.data(), stride};
  kvc::cuda::step_bounds bounds;

  explicit fixed_step(kvc::uint32* report) {
    bounds.sequences = most_sequences;
    bounds.total_rows = most_total;
    bounds.max_rows = most_rows;
    bounds.max_length = most_length;
    bounds.report = report;
  }
  /// What the host's step says; sequences that it does not have get no rows.
  void set(const kvc::step_view& s, const std::vector<int64>& rows_accepted) {
    std::vector<int32> new_ids(most_sequences, 0), new_table(table.size(), -1);
    std::vector<int64> new_lengths(most_sequences, 0), new_indptr(most_sequences + 1, s.total_rows()),
        new_accepted(most_sequences, 0);
    for (int i = 0; i < s.sequences; ++i) {
      const auto at = static_cast<std::size_t>(i);
      new_ids[at] = s.sequence_id(i);
      new_lengths[at] = s.seq_lens[i];
      new_indptr[at] = s.row_indptr[i];
      new_accepted[at] = rows_accepted[at];
      for (int64 p = 0; p < s.block_table_stride; ++p)
        new_table[static_cast<std::size_t>(i * stride + p)] = s.block(i, p);
    }
    ids.set(new_ids.data(), new_ids.size());
    table.set(new_table.data(), new_table.size());
    lengths.set(new_lengths.data(), new_lengths.size());
    indptr.set(new_indptr.data(), new_indptr.size());
    accepted.set(new_accepted.data(), new_accepted.size());
  }
};

class captured_graph {
 public:
  template <class Work>
  explicit captured_graph(const Work& work) {
    require_cuda(cudaStreamCreate(&stream_), "cudaStreamCreate");
    require_cuda(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeGlobal), "cudaStreamBeginCapture");
    work(stream_);
    cudaGraph_t graph = nullptr;
    require_cuda(cudaStreamEndCapture(stream_, &graph), "cudaStreamEndCapture");
    require_cuda(cudaGraphInstantiate(&executable_, graph, 0), "cudaGraphInstantiate");
    require_cuda(cudaGraphDestroy(graph), "cudaGraphDestroy");
  }
  ~captured_graph() {
    cudaGraphExecDestroy(executable_);
    cudaStreamDestroy(stream_);
  }
  void replay() const {
    require_cuda(cudaGraphLaunch(executable_, stream_), "cudaGraphLaunch");
    require_cuda(cudaStreamSynchronize(stream_), "a replayed kernel");
  }

 private:
  cudaStream_t stream_ = nullptr;
  cudaGraphExec_t executable_ = nullptr;
};

/// Queries and outputs of all layers, at addresses that never change.
template <class Spec>
class fixed_queries {
 public:
  fixed_queries(const kvc::extents<Spec>& e, const kvc::cuda::step_bounds& bounds) : model_(e) {
    REQUIRE(kvc::cuda::current_device(limits_) == status::ok);
    workspace_ = device_array<byte>(nullptr, size_of(kvc::cuda::attend_workspace_bytes<Spec>(e, bounds, limits_)));
    for (int layer = 0; layer < e.layers; ++layer) {
      q_.emplace_back(nullptr, lanes(most_total) * Spec::query_width);
      out_.emplace_back(nullptr, lanes(most_total) * Spec::output_width);
      lse_.emplace_back(nullptr, lanes(most_total));
    }
  }
  /// Other queries.
  void set(std::uint64_t seed) const {
    generator random(seed);
    for (const device_array<kvc::bf16>& q : q_) {
      const std::vector<kvc::bf16> x = elements<kvc::bf16>(step_values(random.next(), q.size(), false));
      q.set(x.data(), x.size());
    }
  }
  status attend(const kvc::cache_view<Spec>& view, const fixed_step<Spec>& step, int layer, cudaStream_t stream) const {
    const auto at = static_cast<std::size_t>(layer);
    const auto q = kvc::contiguous_rows<const kvc::bf16>(q_[at].data(), view.model.query_heads, Spec::query_width);
    const auto out = kvc::contiguous_rows(out_[at].data(), view.model.query_heads, Spec::output_width);
    return kvc::cuda::attend<Spec, kvc::bf16>(view, step.view, step.bounds, layer, q, out, lse_[at].data(),
                                              {.scale = 0.125f}, workspace_.data(),
                                              static_cast<int64>(workspace_.bytes()), stream, limits_);
  }
  void poison() const {
    for (const auto* arrays : {&out_, &lse_}) {
      for (const device_array<float>& x : *arrays) {
        const std::vector<float> wrong(x.size(), poison_value);
        x.set(wrong.data(), wrong.size());
      }
    }
  }
  /// Outputs and lse of all layers.
  std::vector<float> results() const {
    std::vector<float> all;
    for (const auto* arrays : {&out_, &lse_}) {
      for (const device_array<float>& x : *arrays) {
        const std::vector<float> part = x.back();
        all.insert(all.end(), part.begin(), part.end());
      }
    }
    return all;
  }
  /// Numbers of the step's rows that were not written or are not finite.
  int64 missing(const std::vector<float>& results, int64 rows) const {
    int64 count = 0;
    std::size_t begin = 0;
    for (const std::size_t width : {static_cast<std::size_t>(Spec::output_width), std::size_t{1}}) {
      for (std::size_t layer = 0; layer < out_.size(); ++layer) {
        for (std::size_t i = begin; i < begin + lanes(rows) * width; ++i) {
          count += results[i] == poison_value || !std::isfinite(results[i]) ? 1 : 0;
        }
        begin += lanes(most_total) * width;
      }
    }
    CHECK(begin == results.size());
    return count;
  }

 private:
  static constexpr float poison_value = -77;
  std::size_t lanes(int64 rows) const { return size_of(rows * model_.query_heads); }

  kvc::extents<Spec> model_;
  kvc::cuda::device_limits limits_;
  device_array<byte> workspace_;
  std::vector<device_array<kvc::bf16>> q_;
  std::vector<device_array<float>> out_, lse_;
};

template <class Spec>
void replays(std::uint64_t seed) {
  CAPTURE(seed);
  kvc::host::cache<Spec> cache({.capacity = 1200, .max_sequences = 4, .max_step_rows = most_total}, extents_of<Spec>());
  const device_twin<Spec> twin(cache);
  const kvc::extents<Spec> e = cache.model();
  fixed_step<Spec> step(twin.report());
  std::vector<layer_rows<Spec, kvc::bf16>> rows;
  for (int layer = 0; layer < e.layers; ++layer) rows.emplace_back(e, most_total, 1, false);

  const fixed_queries<Spec> queries(e, step.bounds);
  const device_twin<Spec> copy(cache);
  const auto append_and_attend = [&](const kvc::cache_view<Spec>& view, cudaStream_t stream) {
    for (int layer = 0; layer < e.layers; ++layer) {
      if (e.writes(layer)) {
        CHECK(rows[static_cast<std::size_t>(layer)].append(view, step.view, step.bounds, layer, stream) == status::ok);
      }
      CHECK(queries.attend(view, step, layer, stream) == status::ok);
    }
  };

  const captured_graph graph([&](cudaStream_t stream) {
    append_and_attend(twin.view(), stream);
    CHECK(kvc::cuda::commit<Spec>(twin.view(), step.view, step.bounds, step.accepted.data(), stream) == status::ok);
  });

  generator random(seed);
  std::vector<int> live{cache.add_sequence(), cache.add_sequence()};
  std::map<int, kvc::held_rows> held;
  const auto blocks_of = [&](int id) {
    cache.reserve(id, 0);
    const kvc::step_view s = cache.step();
    std::vector<int32> blocks(s.block_table, s.block_table + s.block_table_stride);
    cache.abandon();
    return blocks;
  };
  int replayed = 0;
  for (int n = 0; n < 30; ++n) {
    CAPTURE(n);
    if (n % 7 == 5 && live.size() < most_sequences) {  // fork
      const int from = live[static_cast<std::size_t>(random.below(static_cast<int64>(live.size())))];
      const int to = cache.fork(from);
      live.push_back(to);
      held[to] = held[from];
      const device_array<int32> a(std::vector<int32>{from}), b(std::vector<int32>{to});
      CHECK(kvc::cuda::copy_tails<Spec>(twin.view(), a.data(), b.data(), 1, nullptr, twin.report()) == status::ok);
    }
    if (n % 5 == 4) {  // a cut, often into the tail
      const int id = live[static_cast<std::size_t>(random.below(static_cast<int64>(live.size())))];
      const int64 kept = std::max<int64>(0, cache.length(id) - random.between(1, 20));
      cache.reserve(id, 0);
      const device_step cut(cache.step(), twin.report());
      cache.abandon();
      const device_array<int64> device_kept(&kept, 1);
      const device_array<kvc::held_rows> device_held(&held[id], 1);
      CHECK(kvc::cuda::truncate<Spec>(twin.view(), cut.view, cut.bounds, device_kept.data(), device_held.data(),
                                      nullptr) == status::ok);
      require_cuda(cudaDeviceSynchronize(), "truncate");
      cache.truncate(id, kept);
    }
    if (n % 11 == 10 && live.size() == most_sequences) {
      held.erase(live.back());
      cache.remove(live.back());
      live.pop_back();
    }

    std::vector<step_request> requests;
    std::vector<int64> accepted;
    std::vector<std::vector<int32>> before;
    int64 total = 0;
    for (const int id : live) {
      const int64 size = random.below(2) == 0 ? 1 : random.between(0, most_rows);
      if (total + size > most_total || cache.length(id) + size > most_length) continue;
      before.push_back(blocks_of(id));
      requests.push_back({id, size});
      accepted.push_back(n % 4 == 3 ? random.between(0, size) : size);
      total += size;
    }
    if (cache.try_reserve(requests) != status::ok) continue;
    // Blocks that a fork shares are copied before they are written.
    std::vector<int32> from, to;
    for (int i = 0; i < cache.step().sequences; ++i) {
      for (std::size_t p = 0; p < before[static_cast<std::size_t>(i)].size(); ++p) {
        const int32 was = before[static_cast<std::size_t>(i)][p];
        const int32 is = cache.step().block(i, static_cast<int64>(p));
        if (was == is || was < 0) continue;
        from.push_back(was);
        to.push_back(is);
      }
    }
    const device_array<int32> device_from(from), device_to(to);
    CHECK(kvc::cuda::copy_pages<Spec>(twin.view(), device_from.data(), device_to.data(), static_cast<int>(from.size()),
                                      nullptr, twin.report()) == status::ok);
    require_cuda(cudaDeviceSynchronize(), "copy_pages");

    step.set(cache.step(), accepted);
    for (int layer = 0; layer < e.layers; ++layer) {
      if (!e.writes(layer)) continue;
      const layer_rows<Spec, kvc::bf16> fresh(e, most_total, random.next(), false);
      const layer_rows<Spec, kvc::bf16>& fixed = rows[static_cast<std::size_t>(layer)];
      fixed.device_k.set(fresh.k.data(), fresh.k.size());
      fixed.device_v.set(fresh.v.data(), fresh.v.size());
      fresh.append(cache, layer);
    }
    queries.set(seed * 100 + static_cast<std::uint64_t>(n));
    queries.poison();
    copy.copy_from(twin);
    append_and_attend(copy.view(), nullptr);
    require_cuda(cudaDeviceSynchronize(), "launches one by one");
    const std::vector<float> wanted = queries.results();
    queries.poison();
    graph.replay();
    ++replayed;
    const std::vector<float> attended = queries.results();
    CHECK(same_bits(attended, wanted));
    CHECK(queries.missing(attended, total) == 0);
    if (total > 0) {  // the comparison can fail: what a replay left as it was
      queries.poison();
      CHECK(queries.missing(queries.results(), total) > 0);
      CHECK_FALSE(same_bits(queries.results(), wanted));
    }
    for (std::size_t i = 0; i < requests.size(); ++i) {
      held[requests[i].sequence].template committed<Spec>(cache.length(requests[i].sequence) + accepted[i]);
    }
    cache.commit(accepted);
    CHECK(twin.reported() == 0);
    const auto snapshot = twin.back();
    for (const int id : live) {
      cache.reserve(id, 0);
      const std::vector<byte> of_device = saved<Spec>(snapshot, cache.step(), 0);
      cache.abandon();
      CHECK(of_device == cache.save(id));
    }
  }
  CHECK(replayed > 10);
}

}  // namespace

TEST_CASE("a captured step replays with changed lengths and tables: groups of tokens, exact ends") {
  replays<compose<shape<2, 4, 2, 64>, kv<integer<4, 16, affine, per_channel>, exact_ends<3, 5, integer<4, 32>>>>>(1);
}

TEST_CASE("a captured step replays with changed lengths and tables: every row at once") {
  replays<kvc::clla_cache<shape<4, 4, 4, 32>, 64, 16>>(2);
}
