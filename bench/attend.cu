// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Decode attention on the GPU: each composition against the time of reading its bytes, in one run.
//
//   kvc_bench_attend [--filter TEXT] [--out FILE]     FILE gets one JSON object per line
//
// Pages hold random rows, encoded on the host and repeated over the pool. A launch is captured several times into a
// graph that walks over enough memory to keep the level-2 cache cold; the figure is the median of its replays over the
// launches of one.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <kvc/cuda/attend.cuh>
#include <kvc/kvc.hpp>
#include <random>
#include <vector>

#include "attend_error.hpp"
#include "caches.hpp"
#include "timing.cuh"

namespace {

using namespace kvc_bench;

double ceiling = 0;

/// Decode of `rows` new rows per sequence: B sequences of L rows, the new ones included.
template <class Spec>
void bench(const options& o, const char* id, const char* what, int sequences, int64 length, int rows = 1) {
  if (o.skips(id)) return;
  constexpr int page = Spec::tokens_per_page;
  const kvc::extents<Spec> model;
  const int heads = model.stored_heads();
  const int64 per_sequence = (length + page - 1) / page;
  const int64 blocks = per_sequence * sequences;
  const int64 page_bytes = Spec::page_bytes(heads);

  // A host cache of a few pages gives the patterns.
  const int64 patterns = 8;
  kvc::host::cache<Spec> host(
      {.capacity = (patterns + 2) * page, .max_sequences = 1, .max_step_rows = patterns * page});
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  const int64 pattern_rows = patterns * page;
  std::vector<float> k(
      static_cast<std::size_t>(pattern_rows * (Spec::is_latent ? 1 : model.kv_heads) * Spec::key_width));
  std::vector<float> v(static_cast<std::size_t>(pattern_rows * model.kv_heads * Spec::shape_type::head_dim));
  for (float& x : k) x = normal(random);
  for (float& x : v) x = normal(random);
  const int sequence = host.add_sequence();
  host.reserve(sequence, pattern_rows);
  for (int layer = 0; layer < model.layers; ++layer) {
    if (!model.writes(layer)) continue;
    if constexpr (Spec::is_latent) {
      host.append(layer, k.data());
    } else {
      host.append(layer, k.data(), v.data());
    }
  }
  host.commit();
  // Pages whose rows are all sealed.
  const int64 sealed =
      std::min(Spec::first_stream::seal_boundary(pattern_rows), Spec::second_stream::seal_boundary(pattern_rows));
  const int64 whole = std::max<int64>(1, sealed / page);
  const kvc::cache_view<Spec> source = host.view();
  host.reserve(sequence, 0);
  std::vector<const byte*> from;
  for (int64 p = 0; p < whole; ++p) from.push_back(source.page(0, host.step().block(0, p)));
  host.abandon();

  // Enough copies of the pool to keep the cache cold.
  const int64 pool_bytes = blocks * page_bytes;
  const int copies = static_cast<int>(std::clamp<int64>((int64{280} << 20) / pool_bytes + 1, 1, 64));
  device_array<byte> pages(pool_bytes * copies), pattern(whole * page_bytes);
  for (int64 p = 0; p < whole; ++p) {
    check(cudaMemcpy(pattern.data + p * page_bytes, from[static_cast<std::size_t>(p)],
                     static_cast<std::size_t>(page_bytes), cudaMemcpyHostToDevice),
          "memcpy");
  }
  for (int64 b = 0; b < blocks * copies; b += whole) {
    const int64 n = std::min(whole, blocks * copies - b);
    check(cudaMemcpyAsync(pages.data + b * page_bytes, pattern.data, static_cast<std::size_t>(n * page_bytes),
                          cudaMemcpyDeviceToDevice),
          "memcpy");
  }
  device_array<byte> tails(std::max<int64>(16, kvc::tail_pool_bytes<Spec>(model, sequences)));
  device_array<byte> staging(std::max<int64>(16, kvc::staging_bytes<Spec>(model, sequences * rows)));
  check(cudaMemset(tails.data, 0x3c,
                   static_cast<std::size_t>(std::max<int64>(16, kvc::tail_pool_bytes<Spec>(model, sequences)))),
        "memset");
  check(cudaMemset(staging.data, 0x3c,
                   static_cast<std::size_t>(std::max<int64>(16, kvc::staging_bytes<Spec>(model, sequences * rows)))),
        "memset");

  std::vector<int64> lengths(static_cast<std::size_t>(sequences), length - rows), indptr;
  for (int i = 0; i <= sequences; ++i) indptr.push_back(int64{i} * rows);
  std::vector<int32> table(static_cast<std::size_t>(blocks));
  for (int64 b = 0; b < blocks; ++b) table[static_cast<std::size_t>(b)] = static_cast<int32>(b);
  std::shuffle(table.begin(), table.end(), random);
  device_array<int64> d_lengths(lengths), d_indptr(indptr);
  device_array<int32> d_table(table);
  const int64 queries = int64{sequences} * rows * model.query_heads;
  std::vector<kvc::bf16> q(static_cast<std::size_t>(queries * Spec::query_width));
  for (kvc::bf16& x : q) x = kvc::bf16::from(normal(random));
  device_array<kvc::bf16> d_q(q);
  device_array<float> out(queries * Spec::output_width), lse(queries);
  const kvc::calibration<Spec> constants(model);
  const kvc::calibration_view<Spec> host_constants = constants.view();
  const int64 floats = host_constants.head_floats * model.slots() * heads;
  std::vector<float> f(host_constants.data, host_constants.data + floats);
  device_array<float> d_constants(f);
  std::vector<float> angles;
  kvc::attend_params params;
  params.scale = 0.05f;
  if constexpr (Spec::first_stream::is_deferred) {
    constexpr int pairs = Spec::rotary_policy::template pair_count<Spec::shape_type::head_dim>;
    for (int64 t = 0; t < length * pairs; ++t) angles.push_back(0.6f), angles.push_back(0.8f);
    params.rotary = {nullptr, length, pairs};
  }
  device_array<float> d_angles(angles);
  if (!angles.empty()) params.rotary.cos_sin = d_angles.data;

  const kvc::step_view step{sequences, nullptr, d_lengths.data, d_indptr.data, d_table.data, per_sequence};
  const kvc::cuda::step_bounds bounds{sequences, int64{sequences} * rows, rows, length};
  const int64 workspace_bytes = kvc::cuda::attend_workspace_bytes<Spec>(model, bounds);
  device_array<float> workspace(workspace_bytes / 4);
  const auto view_of = [&](int copy) {
    kvc::cache_view<Spec> view{
        model,         pages.data + copy * pool_bytes, blocks,    page_bytes,   pool_bytes,
        tails.data,    Spec::tail_bytes(model),        sequences, staging.data, int64{sequences} * rows,
        host_constants};
    view.calibration.data = floats > 0 ? d_constants.data : nullptr;
    return view;
  };
  const int launches = std::max(copies, 4);
  const auto attend = [&](int i, cudaStream_t stream) {
    const kvc::status s = kvc::cuda::attend<Spec, kvc::bf16>(
        view_of(i % copies), step, bounds, 0,
        kvc::contiguous_rows<const kvc::bf16>(d_q.data, model.query_heads, Spec::query_width),
        kvc::contiguous_rows(out.data, model.query_heads, Spec::output_width), lse.data, params, workspace.data,
        workspace_bytes, stream);
    if (s != kvc::status::ok) {
      std::fprintf(stderr, "%s: %s\n", id, kvc::to_string(s));
      std::exit(1);
    }
  };
  const double us = time_graph(launches, attend);
  check(cudaDeviceSynchronize(), id);

  // The same launch on at most 4096 rows, against the oracle on what the first sequence's rows decode to.
  const int64 checked = std::min<int64>(length, 4096);
  std::fill(lengths.begin(), lengths.end(), checked - rows);
  copy(d_lengths.data, lengths);
  attend(0, nullptr);
  check(cudaDeviceSynchronize(), id);
  const int64 checked_pages = (checked + page - 1) / page;
  std::vector<byte> host_pages, host_tail = copy_back(tails.data, Spec::tail_bytes(model));
  std::vector<byte> host_staging = copy_back(staging.data, kvc::staging_bytes<Spec>(model, int64{sequences} * rows));
  for (int64 p = 0; p < checked_pages; ++p) {
    const std::vector<byte> one = copy_back(pages.data + table[static_cast<std::size_t>(p)] * page_bytes, page_bytes);
    host_pages.insert(host_pages.end(), one.begin(), one.end());
    table[static_cast<std::size_t>(p)] = static_cast<int32>(p);
  }
  const kvc::cache_view<Spec> host_view{model,
                                        host_pages.data(),
                                        checked_pages,
                                        page_bytes,
                                        checked_pages * page_bytes,
                                        host_tail.data(),
                                        Spec::tail_bytes(model),
                                        1,
                                        host_staging.data(),
                                        int64{sequences} * rows,
                                        host_constants};
  kvc::attend_params host_params = params;
  if (!angles.empty()) host_params.rotary.cos_sin = angles.data();
  const int last = rows - 1;  // of the first sequence's new rows
  const std::vector<float> result = copy_back(out.data + int64{last} * model.query_heads * Spec::output_width,
                                              int64{model.query_heads} * Spec::output_width);
  const double error =
      attend_error<Spec>(host_view, {1, nullptr, lengths.data(), indptr.data(), table.data(), checked_pages}, last,
                         host_params, q.data() + int64{last} * model.query_heads * Spec::query_width, result.data());

  int64 read = length;
  if (Spec::tokens_policy::window > 0)
    read = std::min<int64>(length, Spec::tokens_policy::window + Spec::tokens_policy::sinks);
  const double bytes =
      static_cast<double>(sequences) * static_cast<double>(read) * static_cast<double>(page_bytes) / page;
  const double gb = bytes / us * 1e-3;
  // Row i of the newest sees all but those after it.
  const double pairs = static_cast<double>(rows) * static_cast<double>(read) -
                       static_cast<double>(rows) * static_cast<double>(rows - 1) / 2;
  const double tflops =
      2 * pairs * sequences * model.query_heads * (Spec::query_width + Spec::output_width) / us * 1e-6;
  std::printf("%-34s %9.1f us  %7.0f GB/s  %5.1f %% of reading  %5.0f B/row  %6.1f TFLOP/s  error %.1e\n", id, us, gb,
              100 * gb / ceiling, static_cast<double>(page_bytes) / page, tflops, error);
  std::fflush(stdout);
  if (o.out != nullptr) {
    std::fprintf(
        o.out,
        "{\"id\": \"%s\", \"what\": \"%s\", \"us\": %.2f, \"gb_per_s\": %.1f, \"share_of_read_ceiling\": %.4f, "
        "\"row_bytes\": %.1f, \"tflop_per_s\": %.1f, \"error\": %s}\n",
        id, what, us, gb, gb / ceiling, static_cast<double>(page_bytes) / page, tflops, number(error).c_str());
  }
}

}  // namespace

int main(int argc, char** argv) {
  const options o(argc, argv);
  ceiling = read_ceiling();
  std::printf("read ceiling %.0f GB/s\n", ceiling);
  if (o.out != nullptr) std::fprintf(o.out, "{\"id\": \"read\", \"gb_per_s\": %.1f}\n", ceiling);
  using c = caches<128>;
  bench<flagship>(o, "clla-int4-h16-b128-l4096", "CLLA int4, 308-byte rows, 16 heads", 128, 4096);
  bench<c::int4>(o, "gqa-int4-b16-l32768", "int4 K and V, 32/8 heads, d 128", 16, 32768);
#ifndef KVC_BENCH_FEW
  using flagship32 = kvc::clla_cache<kvc::shape<2, 32, 32, 128>>;
  using flagship64 = kvc::clla_cache<kvc::shape<2, 64, 64, 128>>;
  using flagship128 = kvc::clla_cache<kvc::shape<2, 128, 128, 128>>;
  bench<flagship32>(o, "clla-int4-h32-b128-l4096", "CLLA int4, 308-byte rows, 32 heads", 128, 4096);
  bench<flagship64>(o, "clla-int4-h64-b128-l4096", "CLLA int4, 308-byte rows, 64 heads", 128, 4096);
  bench<flagship64>(o, "clla-int4-h64-b32-l8192", "CLLA int4, 64 heads, fewer and longer", 32, 8192);
  bench<flagship128>(o, "clla-int4-h128-b128-l4096", "CLLA int4, 308-byte rows, 128 heads", 128, 4096);
  using key8 = kvc::quant::split<kvc::quant::integer<4, 128>,
                                 kvc::quant::integer<8, kvc::quant::whole_segment, kvc::quant::symmetric>>;
  bench<kvc::clla_cache<kvc::shape<2, 16, 16, 128>, 512, 64, 2, key8>>(
      o, "clla-int4-key8-h16-b128-l4096", "CLLA int4, rotary key int8: 338-byte rows, 16 heads", 128, 4096);
  bench<kvc::clla_cache<kvc::shape<2, 32, 32, 128>, 512, 64, 2, key8>>(
      o, "clla-int4-key8-h32-b128-l4096", "CLLA int4, rotary key int8: 338-byte rows, 32 heads", 128, 4096);
  using key16 = kvc::quant::split<kvc::quant::integer<4, 128>, kvc::quant::none<>>;
  bench<kvc::clla_cache<kvc::shape<2, 16, 16, 128>, 512, 64, 2, key16>>(
      o, "clla-int4-key16-h16-b128-l4096", "CLLA int4, rotary key bf16: 400-byte rows, 16 heads", 128, 4096);
  bench<kvc::clla_cache<kvc::shape<2, 32, 32, 128>, 512, 64, 2, key16>>(
      o, "clla-int4-key16-h32-b128-l4096", "CLLA int4, rotary key bf16: 400-byte rows, 32 heads", 128, 4096);
  bench<flagship>(o, "clla-int4-h16-b1-l65536", "CLLA int4, one long request", 1, 65536);
  bench<flagship>(o, "clla-int4-h16-b1-l4096", "CLLA int4, one request", 1, 4096);
  bench<c::int4>(o, "gqa-int4-b64-l32768", "int4 K and V, 32/8 heads, d 128", 64, 32768);
  bench<c::int2>(o, "gqa-int2-b16-l32768", "int2 K and V in groups of 128, 32/8 heads, d 128", 16, 32768);
  bench<c::bf16>(o, "bf16-b64-l8192", "bf16", 64, 8192);
  bench<c::fp32>(o, "fp32-b64-l8192", "fp32", 64, 8192);
  bench<c::fp8>(o, "fp8-b64-l8192", "E4M3 without a scale", 64, 8192);
  bench<c::int8>(o, "int8-b64-l8192", "8 bit symmetric, groups of 64", 64, 8192);
  bench<c::k8v4>(o, "k8-v4-b64-l8192", "8-bit keys, 4-bit values", 64, 8192);
  bench<c::int4>(o, "int4-128-b64-l8192", "4 bit, groups of 128", 64, 8192);
  bench<c::int4_32>(o, "int4-b64-l8192", "4 bit, groups of 32", 64, 8192);
  bench<c::rotated>(o, "int4-rotated-b64-l8192", "4 bit rotated", 64, 8192);
  bench<c::centred>(o, "int4-centred-rotated-b64-l8192", "4 bit centred, rotated, ends exact", 64, 8192);
  bench<c::int3>(o, "int3-b64-l8192", "3 bit, groups of 128", 64, 8192);
  bench<c::int2>(o, "int2-b64-l8192", "2 bit, groups of 128", 64, 8192);
  bench<c::channel4>(o, "channel4-b64-l8192", "keys per channel, 4 bit", 64, 8192);
  bench<c::channel2>(o, "channel2-b64-l8192", "keys per channel, 2 bit", 64, 8192);
  bench<c::low_rank>(o, "low-rank-b64-l8192", "96 of 128 dimensions, bf16", 64, 8192);
  bench<c::deferred>(o, "channel4-deferred-b64-l8192", "keys per channel before rotary, 4 bit", 64, 8192);
  bench<c::mixture45>(o, "mixture-4.5-b64-l8192", "tapered keys before rotary in a basis, rotated values", 64, 8192);
  bench<c::window>(o, "sinks-window-b64-l8192", "first 4 and newest 512 tokens", 64, 8192);
  // Several query rows, as speculative decoding has them, and prompts.
  bench<flagship>(o, "clla-int4-h16-r2-b128-l4096", "CLLA int4, 16 heads, 2 query rows", 128, 4096, 2);
  bench<flagship>(o, "clla-int4-h16-r4-b128-l4096", "CLLA int4, 16 heads, 4 query rows", 128, 4096, 4);
  bench<flagship>(o, "clla-int4-h16-r8-b128-l4096", "CLLA int4, 16 heads, 8 query rows", 128, 4096, 8);
  bench<c::bf16>(o, "bf16-r2-b64-l8192", "bf16, 2 query rows", 64, 8192, 2);
  bench<c::int4>(o, "int4-128-r2-b64-l8192", "4 bit, groups of 128, 2 query rows", 64, 8192, 2);
  bench<c::bf16>(o, "bf16-r4-b64-l8192", "bf16, 4 query rows", 64, 8192, 4);
  bench<c::int4>(o, "int4-128-r4-b64-l8192", "4 bit, groups of 128, 4 query rows", 64, 8192, 4);
  bench<c::bf16>(o, "bf16-r8-b64-l8192", "bf16, 8 query rows", 64, 8192, 8);
  bench<c::int4>(o, "int4-128-r8-b64-l8192", "4 bit, groups of 128, 8 query rows", 64, 8192, 8);
  bench<c::bf16>(o, "bf16-prompt-b4-l2048", "bf16, a prompt of 2048 rows", 4, 2048, 2048);
  bench<c::int4>(o, "int4-128-prompt-b4-l2048", "4 bit, groups of 128, a prompt of 2048 rows", 4, 2048, 2048);
  bench<flagship>(o, "clla-int4-h16-prompt-b4-l2048", "CLLA int4, 16 heads, a prompt of 2048 rows", 4, 2048, 2048);
#endif
  return 0;
}
