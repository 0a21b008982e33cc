// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Gather and page copies on the GPU: each composition against a plain copy of as many bytes, in one run.
//
//   kvc_bench_pages [--filter TEXT] [--out FILE]     FILE gets one JSON object per line
//
// gather decodes rows of one sequence to bf16; its peer copies what it writes, as gathering a bf16 cache would.
// copy_pages copies pages in random order, as forks do; its peer is the driver's copy of the same bytes in one piece.
// Every launch of a graph has its own pages, and the level-2 cache is overwritten before each replay.

#include <cstdio>
#include <kvc/cuda/copy_pages.cuh>
#include <kvc/cuda/gather.cuh>
#include <kvc/kvc.hpp>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "caches.hpp"
#include "timing.cuh"

namespace {

using namespace kvc_bench;

double ceiling = 0;

void overwrite_cache(cudaStream_t stream) {
  static const device_array<byte> flush(int64{256} << 20);
  check(cudaMemsetAsync(flush.data, 1, std::size_t{256} << 20, stream), "memset");
}

void driver_copy(byte* to, const byte* from, int64 bytes, cudaStream_t stream) {
  check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), cudaMemcpyDeviceToDevice, stream), "memcpy");
}

/// GB/s of the driver's copy, bytes read and written.
double copy_ceiling() {
  const int64 bytes = int64{1} << 30;
  device_array<byte> from(bytes), to(bytes);
  check(cudaMemset(from.data, 0x5a, static_cast<std::size_t>(bytes)), "memset");
  const double us = time_graph(4, [&](int, cudaStream_t s) { driver_copy(to.data, from.data, bytes, s); });
  return 2 * static_cast<double>(bytes) / us * 1e-3;
}

/// bytes: read and written. error: of what was written, or the share of bytes that differ.
void report(const options& o, const std::string& id, const char* what, double us, double bytes, const char* peer,
            double peer_us, double error) {
  const double gb = bytes / us * 1e-3;
  std::printf("%-28s %9.2f us  peer %9.2f us  ratio %5.2f  %6.0f GB/s  error %.1e\n", id.c_str(), us, peer_us,
              peer_us / us, gb, error);
  std::fflush(stdout);
  if (o.out == nullptr) return;
  std::fprintf(o.out,
               "{\"id\": \"%s\", \"what\": \"%s\", \"us\": %.3f, \"gb_per_s\": %.1f, \"share_of_read_ceiling\": %.4f, "
               "\"peer\": \"%s\", \"peer_us\": %.3f, \"ratio\": %.3f, \"error\": %s}\n",
               id.c_str(), what, us, gb, gb / ceiling, peer, peer_us, peer_us / us, number(error).c_str());
}

/// Pages of one sequence of `rows` rows and some more behind them, so that all groups of tokens among the rows are
/// sealed, encoded by the host from normal numbers, and what the host decodes.
template <class Spec>
struct filled_pages {
  static constexpr int page = Spec::tokens_per_page;
  kvc::extents<Spec> model;
  int64 rows;
  int64 blocks = rows / page + 2;
  int64 page_bytes = Spec::page_bytes(model.stored_heads());
  std::vector<byte> pages;
  std::vector<kvc::bf16> k, v;

  explicit filled_pages(int64 count) : rows(count), pages(static_cast<std::size_t>(blocks * page_bytes)) {
    const int64 pattern = 2 * page, appended = pattern + page;  // the first two pages, again and again
    kvc::host::cache<Spec> host({.capacity = appended, .max_sequences = 1, .max_step_rows = appended});
    const int64 heads = model.stored_heads();
    k.resize(static_cast<std::size_t>(appended * heads * Spec::first_stream::model_width));
    v.resize(static_cast<std::size_t>(appended * heads * Spec::second_stream::model_width));
    std::mt19937 random(3);
    std::normal_distribution<float> normal;
    std::vector<float> in(static_cast<std::size_t>(appended * heads * (Spec::is_latent ? Spec::key_width : 0)));
    for (float& x : in) x = normal(random);
    for (auto* rows_of : {&k, &v}) {
      for (kvc::bf16& x : *rows_of) x = kvc::bf16::from(normal(random));
    }
    const int sequence = host.add_sequence();
    host.reserve(sequence, appended);
    for (int layer = 0; layer < model.layers; ++layer) {
      if (!model.writes(layer)) continue;
      if constexpr (Spec::is_latent) {
        host.append(layer, in.data());
      } else {
        host.append(layer, k.data(), v.data());
      }
    }
    host.commit();
    host.gather(sequence, 0, 0, pattern, k.data(), v.data());
    k.resize(static_cast<std::size_t>(pattern * heads * Spec::first_stream::model_width));
    v.resize(static_cast<std::size_t>(pattern * heads * Spec::second_stream::model_width));
    host.reserve(sequence, 0);
    for (int64 b = 0; b < blocks; ++b) {
      __builtin_memcpy(pages.data() + b * page_bytes, host.view().page(0, host.step().block(0, b % 2)),
                       static_cast<std::size_t>(page_bytes));
    }
    host.abandon();
  }
};

/// The share of what was gathered that is not the host's.
double difference(const std::vector<kvc::bf16>& ours, const std::vector<kvc::bf16>& theirs) {
  int64 different = 0;
  for (std::size_t i = 0; i < ours.size(); ++i) different += ours[i].bits != theirs[i % theirs.size()].bits;
  return static_cast<double>(different) / static_cast<double>(ours.size());
}

template <class Spec>
void bench(const options& o, const char* name, const char* what) {
  const std::string gather_id = std::string("gather-") + name + "-8192";
  const std::string copy_id = std::string("copy-pages-") + name + "-128";
  if (o.skips(gather_id.c_str()) && o.skips(copy_id.c_str())) return;
  const filled_pages<Spec> filled(8192);
  const int64 heads = filled.model.stored_heads();
  const int64 pool_bytes = filled.blocks * filled.page_bytes * filled.model.slots();
  const int copies = static_cast<int>(std::clamp<int64>((int64{280} << 20) / pool_bytes, 2, 16));
  device_array<byte> pages(pool_bytes * copies), whole(pool_bytes);
  for (int i = 0; i < copies; ++i) {
    check(cudaMemcpy(pages.data + i * pool_bytes, filled.pages.data(), filled.pages.size(), cudaMemcpyHostToDevice),
          "memcpy");
  }
  const device_array<byte> tails(kvc::tail_pool_bytes<Spec>(filled.model, 1)),
      staging(kvc::staging_bytes<Spec>(filled.model, 1));
  const kvc::calibration<Spec> constants(filled.model);
  kvc::calibration_view<Spec> d_view = constants.view();
  const int64 floats = d_view.head_floats * filled.model.slots() * heads;
  const device_array<float> d_constants(floats > 0 ? std::vector<float>(d_view.data, d_view.data + floats)
                                                   : std::vector<float>());
  if (floats > 0) d_view.data = d_constants.data;
  const auto view_of = [&](int copy) {
    return kvc::cache_view<Spec>{filled.model,
                                 pages.data + copy * pool_bytes,
                                 filled.blocks,
                                 filled.page_bytes,
                                 filled.blocks * filled.page_bytes,
                                 tails.data,
                                 Spec::tail_bytes(filled.model),
                                 1,
                                 staging.data,
                                 1,
                                 d_view};
  };
  const auto expect_ok = [](kvc::status s, const std::string& id) {
    if (s == kvc::status::ok) return;
    std::fprintf(stderr, "%s: %s\n", id.c_str(), kvc::to_string(s));
    std::exit(1);
  };

  if (!o.skips(gather_id.c_str())) {
    std::vector<int32> table(static_cast<std::size_t>(filled.blocks));
    std::iota(table.begin(), table.end(), 0);
    const device_array<int32> d_table(table);
    const device_array<int64> d_lengths(std::vector<int64>{filled.rows + filled.page}),
        d_indptr(std::vector<int64>{0, 0});
    const kvc::step_view step{1, nullptr, d_lengths.data, d_indptr.data, d_table.data, filled.blocks};
    const int64 k_count = filled.rows * heads * Spec::first_stream::model_width;
    const int64 v_count = filled.rows * heads * Spec::second_stream::model_width;
    device_array<kvc::bf16> out(k_count + v_count), from(k_count + v_count);
    const auto gather = [&](int i, cudaStream_t stream) {
      expect_ok(kvc::cuda::gather<Spec, kvc::bf16>(
                    view_of(i % copies), step, 0, 0, 0, filled.rows,
                    kvc::contiguous_rows(out.data, heads, Spec::first_stream::model_width),
                    kvc::contiguous_rows(out.data + k_count, heads, Spec::second_stream::model_width), stream),
                gather_id);
    };
    const int64 out_bytes = (k_count + v_count) * 2;
    const double us = time_graph(copies, gather, overwrite_cache);
    const std::vector<kvc::bf16> k = copy_back(out.data, k_count), v = copy_back(out.data + k_count, v_count);
    const double copy_us = time_graph(
        4,
        [&](int, cudaStream_t s) {
          driver_copy(reinterpret_cast<byte*>(out.data), reinterpret_cast<const byte*>(from.data), out_bytes, s);
        },
        overwrite_cache);
    report(o, gather_id, what, us, static_cast<double>(out_bytes + filled.blocks * filled.page_bytes),
           "copy of the output", copy_us, std::max(difference(k, filled.k), difference(v, filled.v)));
  }
  if (!o.skips(copy_id.c_str())) {
    // The first half of a pool to the second, in random order.
    const int count = static_cast<int>(std::min<int64>(filled.blocks / 2, 128));
    std::vector<int32> from(static_cast<std::size_t>(count)), to = from;
    std::iota(from.begin(), from.end(), 0);
    std::iota(to.begin(), to.end(), static_cast<int32>(filled.blocks / 2));
    std::mt19937 random(5);
    std::shuffle(from.begin(), from.end(), random);
    std::shuffle(to.begin(), to.end(), random);
    const device_array<int32> d_from(from), d_to(to);
    const int64 bytes = count * filled.page_bytes * filled.model.slots();
    for (int i = 0; i < copies; ++i) {
      check(cudaMemset(pages.data + i * pool_bytes + pool_bytes / 2, 0, static_cast<std::size_t>(pool_bytes / 2)),
            "memset");
    }
    const double us = time_graph(
        copies,
        [&](int i, cudaStream_t s) {
          expect_ok(kvc::cuda::copy_pages<Spec>(view_of(i % copies), d_from.data, d_to.data, count, s), copy_id);
        },
        overwrite_cache);
    int64 different = 0;
    const std::vector<byte> pool = copy_back(pages.data, filled.blocks * filled.page_bytes);
    for (int i = 0; i < count; ++i) {
      const auto at = [&](int32 block) { return pool.data() + block * filled.page_bytes; };
      const std::size_t n = static_cast<std::size_t>(i);
      different += __builtin_memcmp(at(from[n]), at(to[n]), static_cast<std::size_t>(filled.page_bytes)) != 0;
    }
    const double copy_us = time_graph(
        copies, [&](int i, cudaStream_t s) { driver_copy(whole.data, pages.data + i * pool_bytes, bytes, s); },
        overwrite_cache);
    report(o, copy_id, what, us, 2.0 * static_cast<double>(bytes), "cudaMemcpy", copy_us,
           static_cast<double>(different) / count);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const options o(argc, argv);
  ceiling = read_ceiling();
  const double copy = copy_ceiling();
  std::printf("copy ceiling %.0f GB/s\n", copy);
  if (o.out != nullptr) std::fprintf(o.out, "{\"id\": \"copy\", \"gb_per_s\": %.1f}\n", copy);
  using c = caches<128>;
  bench<c::int4_32>(o, "int4", "4 bit, groups of 32, 8 heads of 128");
#ifndef KVC_BENCH_FEW
  bench<flagship>(o, "clla-int4", "CLLA int4, one row of 576");
  bench<c::bf16>(o, "bf16", "bf16, 8 heads of 128");
  bench<c::rotated>(o, "int4-rotated", "4 bit rotated, 8 heads of 128");
  bench<c::channel2_128>(o, "channel2-128", "keys per channel, 2 bit, groups of 128, 8 heads of 128");
  bench<c::low_rank>(o, "low-rank", "96 of 128 dimensions, bf16, 8 heads");
#endif
  return 0;
}
