// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// The program of docs/engines.md: a cache in the caller's memory, through the launchers of level 2, and the tile
// functions of level 1. Nothing below allocates but the caller's own std::vectors.

#include <iostream>
#include <thread>
#include <vector>

#include "kvc/kvc.hpp"

// [types]
using model = kvc::shape<2, 8, 2, 64>;
using spec = kvc::compose<model, kvc::quant::integer<4, 32>, kvc::storage<16>>;
// [types]
constexpr int blocks = 8, threads = 2;

// Memory of an engine: any allocator will do, as long as it is 16-byte aligned.
struct alignas(16) line {
  kvc::byte bytes[16];
};

// [each_slice]
// Runs a call once per slice, each on a thread of the engine.
template <class F>
kvc::status on_all_threads(const F& call) {
  kvc::status results[threads] = {};
  std::thread workers[threads];
  for (int i = 0; i < threads; ++i) {
    workers[i] = std::thread([&, i] { results[i] = call(kvc::slice{i, threads}); });
  }
  for (std::thread& t : workers) t.join();
  for (const kvc::status s : results) {
    if (s != kvc::status::ok) return s;
  }
  return kvc::status::ok;
}
// [each_slice]

int main() {
  // [memory]
  const kvc::extents<spec> extents;  // all counts are static here
  const kvc::int64 page_bytes = spec::page_bytes(extents.stored_heads());
  std::vector<line> pages(static_cast<std::size_t>(kvc::page_pool_bytes(extents, blocks)) / sizeof(line));

  kvc::cache_view<spec> view;
  view.model = extents;
  view.pages = pages[0].bytes;
  view.blocks = blocks;
  view.block_stride = page_bytes;          // the blocks of a slot follow each other,
  view.slot_stride = blocks * page_bytes;  // then come those of the next slot
  // [memory]
  std::cout << "page " << page_bytes << " bytes, pool " << kvc::page_pool_bytes(extents, blocks) << ", tails "
            << kvc::tail_pool_bytes(extents, 2) << ", staging " << kvc::staging_bytes(extents, 24) << "\n";

  // [step]
  // Two sequences: the first has 20 rows and gets 1, the second is new and gets 18. 19 rows in all.
  kvc::int64 seq_lens[] = {20, 0};
  const kvc::int64 row_indptr[] = {0, 1, 19};
  const kvc::int32 block_table[] = {5, 2, /**/ 0, 3};
  kvc::step_view step;
  step.sequences = 2;
  step.seq_lens = seq_lens;
  step.row_indptr = row_indptr;
  step.block_table = block_table;
  step.block_table_stride = 2;
  // [step]

  std::vector<float> k(19 * 2 * 64, 0.5f), v(19 * 2 * 64, 0.25f), q(19 * 8 * 64, 0.125f), out(q.size()), lse(19 * 8);

  // [append]
  const kvc::rows_view<const float> keys = kvc::contiguous_rows<const float>(k.data(), 2, 64);
  const kvc::rows_view<const float> values = kvc::contiguous_rows<const float>(v.data(), 2, 64);
  kvc::status s = on_all_threads(
      [&](kvc::slice part) { return kvc::host::append<spec, float>(view, step, /*layer*/ 0, keys, values, part); });
  // [append]
  std::cout << "append: " << kvc::to_string(s) << "\n";

  const std::vector<float> weight(64, 1.0f), cos_sin(32 * 32 * 2, 0.5f);
  // [prepared]
  // weight: [head_dim], cos_sin: [32 positions][32 pairs][2]. Channels i and i + 32 form a pair.
  const kvc::append_params<kvc::rotary::pairs::half_split> prepare{.first = {weight.data(), 1e-6f},
                                                                   .rotary = {cos_sin.data(), 32, 32}};
  s = kvc::host::append<spec, float>(view, step, /*layer*/ 1, keys, values, {}, prepare);
  // [prepared]
  std::cout << "append of keys as projected: " << kvc::to_string(s) << "\n";

  // [attend]
  const kvc::int64 bytes = kvc::host::attend_workspace_bytes<spec>(extents, step, threads);
  std::vector<float> workspace(static_cast<std::size_t>(bytes) / sizeof(float));
  const kvc::rows_view<const float> queries = kvc::contiguous_rows<const float>(q.data(), 8, 64);
  const kvc::rows_view<float> outputs = kvc::contiguous_rows(out.data(), 8, 64);
  const kvc::attend_params params{.scale = 0.125f};
  s = on_all_threads([&](kvc::slice part) {
    return kvc::host::attend<spec, float>(view, step, 0, queries, outputs, lse.data(), params, workspace.data(), bytes,
                                          part);
  });
  if (s == kvc::status::ok) {
    s = on_all_threads([&](kvc::slice part) {
      return kvc::host::attend_merge<spec, float>(view, step, 0, queries, outputs, lse.data(), params, workspace.data(),
                                                  bytes, part);
    });
  }
  // [attend]
  std::cout << "attend: " << kvc::to_string(s) << ", workspace " << bytes << " bytes, out " << out[18 * 8 * 64]
            << ", lse " << lse[18 * 8] << " in the last row\n";

  // [advance]
  const kvc::int64 accepted[] = {1, 18};
  s = kvc::host::commit(view, step, accepted);  // nothing to move for this composition
  for (int i = 0; i < 2; ++i) seq_lens[i] += accepted[i];
  // [advance]

  // [slots]
  // By slot mapping: row r goes to block * tokens_per_page + offset, -1 skips it.
  const kvc::int64 slot_mapping[] = {2 * 16 + 5, -1};
  s = kvc::host::append_slots<spec, float>(view, 0, keys, values, slot_mapping, 2);
  // [slots]
  std::cout << "append_slots: " << kvc::to_string(s) << "\n";

  // [route]
  using kivi = kvc::methods::kivi<model>;
  for (const auto op : {kvc::host::operation::append, kvc::host::operation::append_slots}) {
    const kvc::host::route_answer r = kvc::host::route<kivi>(op);
    std::cout << (r.code == kvc::status::ok ? "runs " : "refused: ") << r.kernel << ": " << r.why << "\n";
  }
  // [route]

  // [refused]
  view.pages += 1;  // a mistake
  s = kvc::host::append<spec, float>(view, step, 0, keys, values);
  std::cout << "append: " << kvc::to_string(s) << "\n";
  view.pages -= 1;
  // [refused]

  // [tiles]
  // Level 1: the first eight sealed value rows of sequence 0, head 1, decoded into the caller's registers or shared
  // memory.
  const kvc::stream_rows<spec, false> rows(view, step, 0, /*slot*/ 0, /*head*/ 1);
  float tile[8 * 64];
  rows.decode(0, 8, tile);
  // [tiles]

  // [states]
  // Two parts of one attention: this cache's, and one that another device computed. They merge by (output, lse).
  float part_a[64], part_b[64], lse_a = lse[0], lse_b = lse[8];
  for (int i = 0; i < 64; ++i) {
    part_a[i] = out[static_cast<std::size_t>(i)];
    part_b[i] = out[static_cast<std::size_t>(8 * 64 + i)];
  }
  kvc::merge_outputs(part_a, lse_a, part_b, lse_b, 64);
  // [states]
}
