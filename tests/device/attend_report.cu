// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "device_twin.cuh"

// What attend reports of lengths, tables and sequences that are out of range, steps of fewer sequences than their
// bounds, and captured attends that replay with other lengths and tables.

namespace {

using namespace kvc_test;
using kvc::int32;
using kvc::status;
namespace codes = kvc::cuda::detail;

/// Two sequences with new rows, on both sides.
template <class Spec>
struct attended {
  static constexpr int64 rows = 3;
  kvc::host::cache<Spec> host{{.capacity = 1024, .max_sequences = 3, .max_step_rows = 300}, extents_of<Spec>()};
  std::unique_ptr<device_twin<Spec>> twin;
  std::unique_ptr<device_step> step;
  int heads = extents_of<Spec>().query_heads;
  device_array<float> q, out{nullptr, size(Spec::output_width)}, lse{nullptr, size(1)};
  kvc::attend_params params{.scale = 0.1f};

  std::size_t size(int width) const { return static_cast<std::size_t>(rows * extents_of<Spec>().query_heads * width); }

  attended() {
    const std::vector<step_request> prompt{{host.add_sequence(), 200}, {host.add_sequence(), 70}};
    host.reserve(prompt);
    append(270);
    host.commit();
    host.reserve(std::vector<step_request>{{prompt[0].sequence, 2}, {prompt[1].sequence, 1}});
    append(rows);
    twin = std::make_unique<device_twin<Spec>>(host);
    step = std::make_unique<device_step>(host.step(), twin->report());
    q = device_array<float>(step_values(4, size(Spec::query_width), false));
  }
  void append(int64 count) {
    for (int layer = 0; layer < host.model().layers; ++layer) {
      if (!host.model().writes(layer)) continue;
      layer_rows<Spec, kvc::bf16>(host.model(), count, 7 + static_cast<std::uint64_t>(layer), false)
          .append(host, layer);
    }
  }
  status launch(const kvc::step_view& s, const kvc::cuda::step_bounds& b, void* workspace, int64 bytes,
                cudaStream_t stream = nullptr) const {
    return kvc::cuda::attend<Spec, float>(
        twin->view(), s, b, 0, kvc::contiguous_rows<const float>(q.data(), heads, Spec::query_width),
        kvc::contiguous_rows(out.data(), heads, Spec::output_width), lse.data(), params, workspace, bytes, stream);
  }
  /// Outputs [rows][query_heads][output_width], -77 where nothing was written.
  std::vector<float> attend(const kvc::step_view& s, const kvc::cuda::step_bounds& b) const {
    const int64 bytes = kvc::cuda::attend_workspace_bytes<Spec>(host.model(), b);
    const device_array<float> workspace(nullptr, static_cast<std::size_t>(bytes / 4));
    const std::vector<float> poison(out.size(), -77.0f);
    out.set(poison.data(), poison.size());
    REQUIRE(launch(s, b, workspace.data(), bytes) == status::ok);
    require_cuda(cudaDeviceSynchronize(), "attend");
    return out.back();
  }
  /// The outputs of one sequence of the step.
  std::vector<float> of(const std::vector<float>& outputs, int index) const {
    const kvc::step_view s = host.step();
    const int64 row = static_cast<int64>(heads) * Spec::output_width;
    return {outputs.begin() + s.row_indptr[index] * row, outputs.begin() + s.row_indptr[index + 1] * row};
  }
};

template <class Spec>
void reports() {
  constexpr kvc::text name = Spec::name();
  CAPTURE(name.c_str());
  attended<Spec> a;
  const kvc::cuda::step_bounds bounds = a.step->bounds;
  kvc::cuda::step_bounds unchecked = bounds;
  unchecked.report = nullptr;
  const std::vector<float> good = a.attend(a.step->view, bounds);
  CHECK(a.twin->reported() == codes::nothing_wrong);
  CHECK(good == a.attend(a.step->view, unchecked));
  CHECK(std::count(good.begin(), good.end(), -77.0f) == 0);

  // The second sequence is wrong: it is named, and the first one's outputs are as before.
  const kvc::step_view host_step = a.host.step();
  const auto wrong = [&](const kvc::step_view& s, kvc::uint32 code) {
    const std::vector<float> outputs = a.attend(s, bounds);
    CHECK(a.twin->reported() == code);
    CHECK(a.of(outputs, 0) == a.of(good, 0));
    CHECK(a.of(outputs, 1) != a.of(good, 1));
  };
  const device_array<int64> long_one(std::vector<int64>{200, 202}), negative(std::vector<int64>{200, -1});
  kvc::step_view broken = a.step->view;
  broken.seq_lens = long_one.data();
  wrong(broken, codes::wrong_length);
  broken.seq_lens = negative.data();
  wrong(broken, codes::wrong_length);
  const int64 stride = host_step.block_table_stride;
  std::vector<int32> table(host_step.block_table, host_step.block_table + 2 * stride);
  for (const int32 block : {-1, static_cast<int32>(a.twin->view().blocks)}) {
    std::vector<int32> lost = table;
    lost[static_cast<std::size_t>(stride)] = block;
    const device_array<int32> device_lost(lost);
    broken = a.step->view;
    broken.block_table = device_lost.data();
    wrong(broken, codes::wrong_table);
  }
  const device_array<int64> many(std::vector<int64>{0, 2, 5});
  broken = a.step->view;
  broken.row_indptr = many.data();
  wrong(broken, codes::wrong_rows);
  const device_array<int32> strangers(std::vector<int32>{host_step.sequence_id(0), 9});
  broken = a.step->view;
  broken.sequence_ids = strangers.data();
  if (Spec::has_tail) {
    wrong(broken, codes::wrong_sequence);
  } else {
    CHECK(a.attend(broken, bounds) == good);  // no sequence has a tail
    CHECK(a.twin->reported() == codes::nothing_wrong);
  }

  // Pages that no query sees may be gone.
  a.params.window = 5;
  const std::vector<float> recent = a.attend(a.step->view, bounds);
  std::vector<int32> freed = table;
  freed[0] = freed[static_cast<std::size_t>(stride)] = -1;
  const device_array<int32> device_freed(freed);
  broken = a.step->view;
  broken.block_table = device_freed.data();
  CHECK(a.attend(broken, bounds) == recent);
  CHECK(a.twin->reported() == codes::nothing_wrong);
  CHECK(recent != good);
}

/// How far outputs may be from each other where sequences are split elsewhere: weights are bf16, of at most 8 bits.
bool are_close(const std::vector<float>& x, const std::vector<float>& y) {
  float largest = 0, apart = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    largest = std::max(largest, std::abs(x[i]));
    apart = std::max(apart, std::abs(x[i] - y[i]));
  }
  return x.size() == y.size() && apart <= largest * 0x1p-6f;
}

template <class Spec>
void replays() {
  constexpr kvc::text name = Spec::name();
  CAPTURE(name.c_str());
  const attended<Spec> a;
  const kvc::step_view host_step = a.host.step();
  const int64 stride = host_step.block_table_stride;

  // Bounds of more sequences than the step has: what they size is larger, and the outputs are the same.
  kvc::cuda::step_bounds large = a.step->bounds;
  large.sequences = 5;
  large.total_rows = 10;
  large.max_length = std::min<int64>(300, stride * Spec::tokens_per_page);
  const std::vector<float> good = a.attend(a.step->view, a.step->bounds);
  const std::vector<float> in_large = a.attend(a.step->view, large);
  CHECK(are_close(good, in_large));
  CHECK(a.twin->reported() == codes::nothing_wrong);

  // Captured over arrays of three sequences, with upper bounds.
  device_array<int64> lengths(nullptr, 3), indptr(nullptr, 4);
  device_array<int32> ids(nullptr, 3), table(nullptr, static_cast<std::size_t>(3 * stride));
  const kvc::step_view fixed{3, ids.data(), lengths.data(), indptr.data(), table.data(), stride};
  large.sequences = 3;
  const int64 bytes = kvc::cuda::attend_workspace_bytes<Spec>(a.host.model(), large);
  const device_array<float> workspace(nullptr, static_cast<std::size_t>(bytes / 4));
  cudaStream_t stream = nullptr;
  require_cuda(cudaStreamCreate(&stream), "cudaStreamCreate");
  require_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "cudaStreamBeginCapture");
  CHECK(a.launch(fixed, large, workspace.data(), bytes, stream) == status::ok);
  cudaGraph_t graph = nullptr;
  require_cuda(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
  cudaGraphExec_t executable = nullptr;
  require_cuda(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate");

  // Both sequences; the other one first; shorter ones, as the queries stood further back; none; one too long.
  struct replay {
    int order[2];
    int64 shorter, rows;
  };
  std::vector<std::vector<float>> outputs;
  for (const replay& r : {replay{{0, 1}, 0, 3}, replay{{1, 0}, 0, 3}, replay{{0, 1}, 40, 3}, replay{{0, 1}, 0, 0}}) {
    std::vector<int64> new_lengths(3, 0), new_indptr(4, 0);
    std::vector<int32> new_ids(3, 0), new_table(static_cast<std::size_t>(3 * stride), -1);
    for (int i = 0; i < 2; ++i) {
      const auto at = static_cast<std::size_t>(i);
      const int from = r.order[i];
      new_lengths[at] = host_step.seq_lens[from] - r.shorter;
      new_indptr[at + 1] = new_indptr[at] + (r.rows == 0 ? 0 : host_step.rows(from));
      new_ids[at] = host_step.sequence_id(from);
      for (int64 p = 0; p < stride; ++p) new_table[static_cast<std::size_t>(i * stride + p)] = host_step.block(from, p);
    }
    new_indptr[3] = new_indptr[2];
    lengths.set(new_lengths.data(), 3);
    indptr.set(new_indptr.data(), 4);
    ids.set(new_ids.data(), 3);
    table.set(new_table.data(), new_table.size());
    const std::vector<float> poison(a.out.size(), -77.0f);
    a.out.set(poison.data(), poison.size());
    require_cuda(cudaGraphLaunch(executable, stream), "cudaGraphLaunch");
    require_cuda(cudaStreamSynchronize(stream), "a replayed attend");
    CHECK(a.twin->reported() == codes::nothing_wrong);
    outputs.push_back(a.out.back());
    // The same numbers without a graph.
    CHECK(outputs.back() == (r.rows == 0 ? poison : a.attend(fixed, large)));
  }
  CHECK(are_close(outputs[0], good));
  CHECK(!are_close(outputs[1], good));  // other queries meet other rows
  CHECK(!are_close(outputs[2], good));

  lengths.set(std::vector<int64>{1 << 20, 0, 0}.data(), 3);
  indptr.set(std::vector<int64>{0, 1, 1, 1}.data(), 4);
  require_cuda(cudaGraphLaunch(executable, stream), "cudaGraphLaunch");
  require_cuda(cudaStreamSynchronize(stream), "a replayed attend");
  CHECK(a.twin->reported() == codes::wrong_length);
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
}

using plain = compose<shape<1, 4, 2, 64>, integer<4, 32>, storage<16>>;
using ends = compose<shape<1, 4, 2, 64>, exact_ends<4, 4, integer<4, 32>>, storage<32>>;
using windowed = compose<shape<1, 4, 2, 64>, integer<4, 32>, storage<16>, sinks_and_window<2, 90>>;
using flagship = kvc::clla_cache<shape<2, 16, 16, 128>>;

}  // namespace

TEST_CASE("attend reports what is out of range, and leaves such sequences out") {
  reports<plain>();
  reports<ends>();
  reports<windowed>();
  reports<flagship>();
}

TEST_CASE("a captured attend replays with other lengths and tables") {
  replays<plain>();
  replays<flagship>();
}
