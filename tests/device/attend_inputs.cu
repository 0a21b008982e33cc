// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "device_cache.cuh"
#include "device_twin.cuh"
#include "oracle.hpp"
#include "seed.hpp"

// What attend takes and what it refuses: queries of 16 bits in rows that are not contiguous; arguments that the host
// can see to be wrong, each with its status, and with outputs as they were.

namespace {

using namespace kvc_test;
using kvc::status;

/// A composition that needs everything a call can lack: constants, exact rows on both ends, angles.
using spec = compose<shape<1, 4, 2, 64>, half_split<>, storage<16>, exact_ends<2, 5, centred<integer<4, 32>>>>;

constexpr kvc::host::cache_options roomy = {.capacity = 512, .max_sequences = 3, .max_step_rows = 80};
constexpr float poison = -77.0f;
constexpr int query_row = 4 * 64 + 8;  // elements from a row to the next: some lie between them
constexpr int out_row = 4 * 64 + 4;

/// A step of two sequences that was appended on the host, and its memory on the device. T: of the queries.
template <class T>
struct open_step {
  typed_cache<spec> cache{roomy};
  std::vector<std::uint64_t> seeds[2];  ///< of the sequences' rows
  int64 before[2];                      ///< committed ones
  int64 rows = 0;                       ///< of the step
  std::vector<float> queries;           ///< [rows][query_heads][query_width], as T rounds them
  std::unique_ptr<device_twin<spec>> twin;
  std::unique_ptr<device_step> step;
  device_array<T> q;
  device_array<float> out, lse, angles, sinks, workspace;
  kvc::attend_params params;
  int64 bytes = 0;

  open_step(int64 length, int64 other_length, int64 count, int64 other_count) : before{length, other_length} {
    any_cache& any = cache;
    const cache_facts& f = any.facts();
    const int64 counts[] = {count, other_count};
    std::vector<step_request> requests;
    std::vector<std::uint64_t> new_rows;
    for (int i = 0; i < 2; ++i) {
      seeds[i] = part_of(row_seed(5000 + 1000 * static_cast<std::uint64_t>(i)), 0, before[i] + counts[i]);
      const int sequence = any.add();
      fill(any, sequence, std::span(seeds[i]).first(size_of(before[i])), 64);
      requests.push_back({sequence, counts[i]});
      new_rows.insert(new_rows.end(), seeds[i].begin() + before[i], seeds[i].end());
    }
    REQUIRE(any.try_reserve(requests) == status::ok);
    rows = count + other_count;
    append_layers(any, new_rows);
    queries = make_rows(f, 0, new_rows).q;
    std::vector<T> spread(size_of(rows * query_row));
    for (std::size_t i = 0; i < queries.size(); ++i) {
      T& to = spread[i / 256 * query_row + i % 256];
      kvc::from_float(queries[i], to);
      queries[i] = kvc::to_float(to);
    }
    q = device_array<T>(spread);
    out = device_array<float>(std::vector<float>(size_of(rows * out_row), poison));
    lse = device_array<float>(std::vector<float>(size_of(rows * 4), poison));
    params = params_of(f);
    angles = device_array<float>(params.rotary.cos_sin, size_of(params.rotary.positions * params.rotary.pairs * 2));
    params.rotary.cos_sin = angles.data();
    sinks = device_array<float>(std::vector<float>{0.5f, -1.0f, 3.0f, 0.0f, 0.0f});
    twin = std::make_unique<device_twin<spec>>(cache.cache());
    step = std::make_unique<device_step>(cache.cache().step(), nullptr);
    bytes = kvc::cuda::attend_workspace_bytes<spec>(cache.cache().model(), step->bounds);
    workspace = device_array<float>(std::vector<float>(size_of(bytes / 4), poison));
  }
  /// What the rows of sequence i see, of which a second cache has `length`.
  std::vector<head_rows> decoded(int i, int64 length) const {
    typed_cache<spec> other(roomy);
    any_cache& any = other;
    const int sequence = any.add();
    fill(any, sequence, std::span(seeds[i]).first(size_of(before[i])), 64);
    fill(any, sequence, std::span(seeds[i]).subspan(size_of(before[i]), size_of(length - before[i])), 1);
    return gather_rows(any, sequence, 0);
  }
};

/// All arguments of a call.
template <class T>
struct arguments {
  kvc::cache_view<spec> view;
  kvc::step_view step;
  kvc::cuda::step_bounds bounds;
  int layer = 0;
  kvc::rows_view<const T> q;
  kvc::rows_view<float> out;
  float* lse;
  kvc::attend_params params;
  void* workspace;
  int64 bytes;

  explicit arguments(const open_step<T>& s)
      : view(s.twin->view()),
        step(s.step->view),
        bounds(s.step->bounds),
        q{s.q.data(), query_row, 64},
        out{s.out.data(), out_row, 64},
        lse(s.lse.data()),
        params(s.params),
        workspace(s.workspace.data()),
        bytes(s.bytes) {
    params.sink_logits = s.sinks.data();
  }
  status call() const {
    return kvc::cuda::attend<spec, T>(view, step, bounds, layer, q, out, lse, params, workspace, bytes, nullptr);
  }
};

/// The same address, some bytes on.
template <class P>
P* moved(P* p, int by) {
  return reinterpret_cast<P*>(reinterpret_cast<std::uintptr_t>(p) + static_cast<std::uintptr_t>(by));
}

template <class T>
void check_queries(int64 length, int64 other_length, int64 count, int64 other_count) {
  const open_step<T> s(length, other_length, count, other_count);
  const cache_facts& f = s.cache.facts();
  arguments<T> a(s);
  a.params.sink_logits = nullptr;
  REQUIRE(a.call() == status::ok);
  require_cuda(cudaDeviceSynchronize(), "attend");
  const std::vector<float> out = s.out.back();
  const std::vector<float> lse = s.lse.back();
  const kvc::attend_params params = params_of(f);
  const int64 counts[] = {count, other_count};
  std::size_t row = 0;
  int mutants = 0, caught = 0;
  for (int i = 0; i < 2; ++i) {
    for (int64 n = 0; n < counts[i]; ++n, ++row) {
      CAPTURE(i);
      CAPTURE(n);
      const int64 position = s.before[i] + n;
      const std::vector<head_rows> rows = s.decoded(i, position + 1);
      std::vector<float> query(s.queries.begin() + static_cast<std::ptrdiff_t>(row * 256),
                               s.queries.begin() + static_cast<std::ptrdiff_t>((row + 1) * 256));
      const auto check = [&] {
        return check_query(f, rows, query.data(), position, params, out.data() + row * out_row, lse.data() + row * 4,
                           device_rounding<spec>);
      };
      const verdict v = check();
      CHECK_MESSAGE(v.holds, v.what);
      for (int gap = 256; gap < out_row; ++gap) CHECK(out[row * out_row + static_cast<std::size_t>(gap)] == poison);
      if (position == 0) continue;  // one row has all the weight, whoever asks
      std::swap_ranges(query.begin(), query.begin() + 64, query.begin() + 64);  // another head's
      ++mutants;
      caught += check().holds ? 0 : 1;
    }
  }
  CHECK(row == size_of(s.rows));
  CHECK(4 * caught > 3 * mutants);  // two heads may ask for much the same
  CHECK(mutants > 0);
}

}  // namespace

TEST_CASE_TEMPLATE("queries of 16 bits are the oracle's with the same numbers", T, kvc::bf16, kvc::fp16) {
  INFO("KVC_TEST_SEED=", test_seed());
  check_queries<T>(70, 0, 1, 1);   // blocks of few queries
  check_queries<T>(41, 15, 9, 5);  // and of many
  check_queries<T>(300, 1, 2, 70);
}

TEST_CASE("what attend refuses, it refuses with a status of its own, and writes nothing") {
  using T = kvc::bf16;
  INFO("KVC_TEST_SEED=", test_seed());
  const open_step<T> s(70, 33, 3, 2);
  using args = arguments<T>;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  struct refusal {
    const char* what;
    status answer;
    void (*spoil)(args&);
  };
  static const refusal table[] = {
      {"no pages", status::null_pointer, [](args& a) { a.view.pages = nullptr; }},
      {"pages at an odd address", status::misaligned, [](args& a) { a.view.pages += 1; }},
      {"blocks of an odd size", status::misaligned, [](args& a) { a.view.block_stride += 8; }},
      {"slots of an odd size", status::misaligned, [](args& a) { a.view.slot_stride += 8; }},
      {"no tails", status::null_pointer, [](args& a) { a.view.tails = nullptr; }},
      {"tails at an odd address", status::misaligned, [](args& a) { a.view.tails += 4; }},
      {"tails of an odd size", status::misaligned, [](args& a) { a.view.tail_stride += 4; }},
      {"no staging", status::null_pointer, [](args& a) { a.view.staging = nullptr; }},
      {"staging at an odd address", status::misaligned, [](args& a) { a.view.staging += 2; }},
      {"no calibration", status::null_pointer, [](args& a) { a.view.calibration.data = nullptr; }},
      {"no layers", status::bad_extents, [](args& a) { a.view.model.layers = 0; }},
      {"other heads", status::bad_extents, [](args& a) { a.view.model.query_heads = 6; }},
      {"a negative number of sequences", status::invalid_argument, [](args& a) { a.step.sequences = -1; }},
      {"bounds of a negative number", status::invalid_argument, [](args& a) { a.bounds.sequences = -1; }},
      {"negative rows", status::invalid_argument, [](args& a) { a.bounds.total_rows = a.bounds.max_rows = -1; }},
      {"negative rows of one", status::invalid_argument, [](args& a) { a.bounds.max_rows = -1; }},
      {"a negative length", status::invalid_argument, [](args& a) { a.bounds.max_length = -1; }},
      {"one has more than all", status::invalid_argument, [](args& a) { a.bounds.max_rows = a.bounds.total_rows + 1; }},
      {"no lengths", status::null_pointer, [](args& a) { a.step.seq_lens = nullptr; }},
      {"no rows", status::null_pointer, [](args& a) { a.step.row_indptr = nullptr; }},
      {"no table", status::null_pointer, [](args& a) { a.step.block_table = nullptr; }},
      {"a length beyond the table", status::out_of_capacity,
       [](args& a) { a.bounds.max_length = a.step.block_table_stride * spec::tokens_per_page + 1; }},
      {"more rows than staging has", status::out_of_capacity,
       [](args& a) { a.bounds.total_rows = a.view.staging_rows + 1; }},
      {"layer -1", status::bad_layer, [](args& a) { a.layer = -1; }},
      {"the layer after the last", status::bad_layer, [](args& a) { a.layer = a.view.model.layers; }},
      {"no scale", status::invalid_argument, [](args& a) { a.params.scale = 0; }},
      {"a negative scale", status::invalid_argument, [](args& a) { a.params.scale = -a.params.scale; }},
      {"a negative cap", status::invalid_argument, [](args& a) { a.params.soft_cap = -1; }},
      {"a negative window", status::invalid_argument, [](args& a) { a.params.window = -1; }},
      {"no queries", status::null_pointer, [](args& a) { a.q.data = nullptr; }},
      {"no outputs", status::null_pointer, [](args& a) { a.out.data = nullptr; }},
      {"no workspace", status::null_pointer, [](args& a) { a.workspace = nullptr; }},
      {"queries within an element", status::misaligned, [](args& a) { a.q.data = moved(a.q.data, 1); }},
      {"outputs within an element", status::misaligned, [](args& a) { a.out.data = moved(a.out.data, 2); }},
      {"an lse within an element", status::misaligned, [](args& a) { a.lse = moved(a.lse, 1); }},
      {"sinks within an element", status::misaligned,
       [](args& a) { a.params.sink_logits = moved(a.params.sink_logits, 2); }},
      {"a workspace aligned to 4", status::misaligned,
       [](args& a) { a.workspace = moved(static_cast<byte*>(a.workspace), 4); }},
      {"a workspace aligned to 8", status::misaligned,
       [](args& a) { a.workspace = moved(static_cast<byte*>(a.workspace), 8); }},
      {"a workspace that lacks a byte", status::workspace_too_small, [](args& a) { a.bytes -= 1; }},
      {"a workspace of nothing", status::workspace_too_small, [](args& a) { a.bytes = 0; }},
      {"a workspace of less than nothing", status::workspace_too_small, [](args& a) { a.bytes = -1; }},
      {"no angles", status::null_pointer, [](args& a) { a.params.rotary.cos_sin = nullptr; }},
      {"angles aligned to 8", status::misaligned, [](args& a) { a.params.rotary.cos_sin += 2; }},
      {"angles of other pairs", status::invalid_argument, [](args& a) { a.params.rotary.pairs -= 1; }},
      {"angles that end before the last row", status::bad_position,
       [](args& a) { a.params.rotary.positions = a.bounds.max_length - 1; }},
      // Nothing to do is no mistake.
      {"no rows in the bounds", status::ok, [](args& a) { a.bounds.total_rows = a.bounds.max_rows = 0; }},
      {"no sequences in the bounds", status::ok, [](args& a) { a.bounds.sequences = 0; }},
      {"no sequences in the step", status::ok, [](args& a) { a.step.sequences = 0; }},
  };
  const auto untouched = [](const device_array<float>& x) {
    const std::vector<float> now = x.back();
    return std::count(now.begin(), now.end(), poison) == static_cast<std::ptrdiff_t>(now.size());
  };
  const auto refuses = [&](const char* what, status answer, const args& a) {
    CAPTURE(what);
    CHECK(a.call() == answer);
    require_cuda(cudaDeviceSynchronize(), what);  // and the runtime saw no error
    CHECK(cudaGetLastError() == cudaSuccess);
    CHECK(untouched(s.out));
    CHECK(untouched(s.lse));
    CHECK(untouched(s.workspace));
  };
  for (const refusal& r : table) {
    args a(s);
    r.spoil(a);
    refuses(r.what, r.answer, a);
  }
  args not_a_scale(s);
  not_a_scale.params.scale = nan;
  refuses("a scale that is not a number", status::invalid_argument, not_a_scale);

  // The table spoils a call that is right: it writes all that it should, with an lse and without.
  args right(s);
  const auto written = [&](bool with_lse) {
    require_cuda(cudaDeviceSynchronize(), "attend");
    const std::vector<float> out = s.out.back();
    const std::vector<float> lse = s.lse.back();
    const int64 gaps = s.rows * (out_row - 256);
    CHECK(std::count(out.begin(), out.end(), poison) == gaps);
    CHECK(std::count(lse.begin(), lse.end(), poison) == (with_lse ? 0 : s.rows * 4));
  };
  right.lse = nullptr;
  CHECK(right.call() == status::ok);
  written(false);
  right.lse = s.lse.data();
  CHECK(right.call() == status::ok);
  written(true);
}
