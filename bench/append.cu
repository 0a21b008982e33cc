// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Append on the GPU: each composition against a plain copy of the same input, in one run.
//
//   kvc_bench_append [--filter TEXT] [--out FILE]     FILE gets one JSON object per line
//
// Few rows are one new row of as many sequences (a decoding step), 1024 and more a prompt of one. Every launch of a
// graph has its own input and pages, and the level-2 cache is overwritten before each replay.

#include <cmath>
#include <cstring>
#include <kvc/cuda/append.cuh>
#include <kvc/kvc.hpp>
#include <random>
#include <vector>

#include "caches.hpp"
#include "timing.cuh"

namespace {

using namespace kvc_bench;

double ceiling = 0;

__global__ void copy_kernel(const uint4* from, uint4* to, int64 count) {
  const int64 i = static_cast<int64>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) to[i] = __ldcs(from + i);
}

/// Keys and values are normalised and keys turned on append, as a model's projections give them.
using as_projected = kvc::append_params<kvc::rotary::pairs::half_split>;

/// Weights and angles for `positions` rows of `width` channels.
struct projected_rows {
  std::vector<float> weights, angles;
  int64 positions;
  int pairs;

  projected_rows(int64 rows, int width) : positions(rows), pairs(width / 2) {
    for (int i = 0; i < width; ++i) weights.push_back(1.0f + 0.001f * static_cast<float>(i));
    for (int64 i = 0; i < rows * pairs; ++i) {
      const double f = static_cast<double>(i % pairs) / pairs;
      const double angle = static_cast<double>(i / pairs) * std::pow(10000.0, -f);
      angles.push_back(static_cast<float>(std::cos(angle)));
      angles.push_back(static_cast<float>(std::sin(angle)));
    }
  }
  template <class Params>
  Params params(const float* w, const float* a) const {
    if constexpr (Params::prepares) return {{w, 1e-6f}, {w, 1e-6f}, {a, positions, pairs}};
    return {};
  }
};

/// The share of the bytes of the prompt's first page that differ from what the host writes.
template <class Spec, class Params>
double byte_error(const kvc::extents<Spec>& model, const kvc::bf16* k, const kvc::bf16* v, const byte* page,
                  const Params& params) {
  constexpr int rows = 2 * Spec::tokens_per_page;  // so that no row of the first page is in the tail
  kvc::host::cache<Spec> host({.capacity = rows, .max_sequences = 1, .max_step_rows = rows});
  const int sequence = host.add_sequence();
  host.reserve(sequence, rows);
  if constexpr (Spec::is_latent) {
    host.append(0, k, params);
  } else {
    host.append(0, k, v, params);
  }
  const int64 bytes = Spec::page_bytes(model.stored_heads());
  const std::vector<byte> ours = copy_back(page, bytes);
  const byte* theirs = host.view().page(0, host.step().block(0, 0));
  int64 different = 0;
  for (int64 i = 0; i < bytes; ++i) different += ours[static_cast<std::size_t>(i)] != theirs[i];
  return static_cast<double>(different) / static_cast<double>(bytes);
}

template <class Spec, class Params>
void bench(const options& o, const char* name, const char* what, int64 rows) {
  const std::string id = std::string("append-") + name + "-" + std::to_string(rows);
  if (o.skips(id.c_str())) return;
  constexpr int page = Spec::tokens_per_page;
  const kvc::extents<Spec> model;
  const bool prompt = rows >= 1024;
  const int sequences = prompt ? 1 : static_cast<int>(rows);

  // Decoding steps meet groups of tokens at every stage of filling.
  std::vector<int64> lengths, indptr;
  for (int i = 0; i < sequences; ++i) lengths.push_back(prompt ? 0 : i + 7);
  for (int i = 0; i <= sequences; ++i) indptr.push_back(prompt ? i * rows : i);
  const int64 per_sequence = prompt ? (rows + page - 1) / page : (sequences + 7 + page) / page;
  const int64 blocks = per_sequence * sequences;
  std::vector<int32> table(static_cast<std::size_t>(blocks));
  std::mt19937 random(3);
  for (int64 b = 0; b < blocks; ++b) table[static_cast<std::size_t>(b)] = static_cast<int32>(b);
  std::shuffle(table.begin(), table.end(), random);

  // k (or the joint rows), then v, as one array: the copy takes both at once.
  const int64 k_heads = Spec::is_latent ? 1 : model.kv_heads;
  const int64 k_count = rows * k_heads * Spec::key_width;
  const int64 v_count = Spec::is_latent ? 0 : rows * model.kv_heads * Spec::shape_type::head_dim;
  const int64 count = k_count + v_count;
  std::normal_distribution<float> normal;
  std::vector<kvc::bf16> input(static_cast<std::size_t>(count));
  for (kvc::bf16& x : input) x = kvc::bf16::from(normal(random));

  const int64 page_bytes = Spec::page_bytes(model.stored_heads());
  const int64 pool_bytes = blocks * page_bytes * model.slots();
  const int64 input_bytes = count * 2;
  const int copies = static_cast<int>(std::clamp<int64>((int64{280} << 20) / (input_bytes + pool_bytes), 2, 64));
  device_array<kvc::bf16> d_input(count * copies), d_copy(count * copies);
  for (int i = 0; i < copies; ++i) {
    check(cudaMemcpy(d_input.data + i * count, input.data(), static_cast<std::size_t>(input_bytes),
                     cudaMemcpyHostToDevice),
          "cudaMemcpy");
  }
  device_array<byte> pages(pool_bytes * copies);
  const int64 tail_bytes = kvc::tail_pool_bytes<Spec>(model, sequences);
  const int64 staging_bytes = kvc::staging_bytes<Spec>(model, rows);
  device_array<byte> tails(tail_bytes), staging(staging_bytes), flush(int64{256} << 20);
  check(cudaMemset(tails.data, 0, static_cast<std::size_t>(tail_bytes)), "cudaMemset");
  device_array<int64> d_lengths(lengths), d_indptr(indptr);
  device_array<int32> d_table(table);
  const kvc::calibration<Spec> constants(model);
  const kvc::calibration_view<Spec> host_constants = constants.view();
  const int64 floats = host_constants.head_floats * model.slots() * model.stored_heads();
  const device_array<float> d_constants(
      floats > 0 ? std::vector<float>(host_constants.data, host_constants.data + floats) : std::vector<float>());

  const projected_rows projected(Params::prepares ? per_sequence * page : 0, Spec::first_stream::model_width);
  const device_array<float> d_weights(projected.weights), d_angles(projected.angles);
  const Params params = projected.template params<Params>(d_weights.data, d_angles.data);

  const kvc::step_view step{sequences, nullptr, d_lengths.data, d_indptr.data, d_table.data, per_sequence};
  const kvc::cuda::step_bounds bounds{sequences, rows, prompt ? rows : 1, per_sequence * page};
  const auto append = [&](int i, cudaStream_t stream) {
    kvc::cache_view<Spec> view{model,
                               pages.data + i % copies * pool_bytes,
                               blocks,
                               page_bytes,
                               blocks * page_bytes,
                               tails.data,
                               Spec::tail_bytes(model),
                               sequences,
                               staging.data,
                               rows,
                               host_constants};
    view.calibration.data = floats > 0 ? d_constants.data : nullptr;
    const kvc::bf16* k = d_input.data + i % copies * count;
    const auto keys = kvc::contiguous_rows<const kvc::bf16>(k, k_heads, Spec::key_width);
    kvc::status s = kvc::status::ok;
    if constexpr (Spec::is_latent) {
      s = kvc::cuda::append<Spec, kvc::bf16>(view, step, bounds, 0, keys, stream, params);
    } else {
      const auto values =
          kvc::contiguous_rows<const kvc::bf16>(k + k_count, model.kv_heads, Spec::shape_type::head_dim);
      s = kvc::cuda::append<Spec, kvc::bf16>(view, step, bounds, 0, keys, values, stream, params);
    }
    if (s != kvc::status::ok) {
      std::fprintf(stderr, "%s: %s\n", id.c_str(), kvc::to_string(s));
      std::exit(1);
    }
  };
  const auto copy_input = [&](int i, cudaStream_t stream) {
    const int64 n = input_bytes / 16;
    copy_kernel<<<static_cast<unsigned>((n + 255) / 256), 256, 0, stream>>>(
        reinterpret_cast<const uint4*>(d_input.data + i % copies * count),
        reinterpret_cast<uint4*>(d_copy.data + i % copies * count), n);
  };
  const auto overwrite_cache = [&](cudaStream_t stream) {
    check(cudaMemsetAsync(flush.data, 1, std::size_t{256} << 20, stream), "cudaMemset");
  };
  const double us = time_graph(copies, append, overwrite_cache);
  const double copy_us = time_graph(copies, copy_input, overwrite_cache);
  check(cudaDeviceSynchronize(), id.c_str());
  std::string error = "null";
  if (prompt) {
    const Params of_host = projected.template params<Params>(projected.weights.data(), projected.angles.data());
    error = number(
        byte_error<Spec>(model, input.data(), input.data() + k_count, pages.data + table[0] * page_bytes, of_host));
  }

  const double row_bytes = static_cast<double>(page_bytes) / page;
  const double gb = (static_cast<double>(input_bytes) + static_cast<double>(rows) * row_bytes) / us * 1e-3;
  std::printf("%-28s %9.2f us  copy %9.2f us  ratio %5.2f  %6.0f GB/s  bytes that differ %s\n", id.c_str(), us, copy_us,
              copy_us / us, gb, error.c_str());
  std::fflush(stdout);
  if (o.out != nullptr) {
    std::fprintf(o.out,
                 "{\"id\": \"%s\", \"what\": \"%s\", \"us\": %.3f, \"gb_per_s\": %.1f, \"share_of_read_ceiling\": "
                 "%.4f, \"peer\": \"copy\", \"peer_us\": %.3f, \"ratio\": %.3f, \"error\": %s}\n",
                 id.c_str(), what, us, gb, gb / ceiling, copy_us, copy_us / us, error.c_str());
  }
}

template <class Spec, class Params = kvc::rows_as_given>
void bench_rows(const options& o, const char* name, const char* what) {
  for (const int64 rows : {1, 64, 1024, 8192}) bench<Spec, Params>(o, name, what, rows);
}

}  // namespace

int main(int argc, char** argv) {
  const options o(argc, argv);
  ceiling = read_ceiling();
  using c = caches<128>;
  bench_rows<c::int4_32>(o, "int4", "4 bit, groups of 32, 8 heads of 128");
  bench_rows<flagship>(o, "clla-int4", "CLLA int4, one row of 576");
#ifndef KVC_BENCH_FEW
  bench_rows<c::bf16>(o, "bf16", "bf16, 8 heads of 128");
  bench_rows<c::rotated>(o, "int4-rotated", "4 bit rotated, 8 heads of 128");
  bench_rows<c::channel4>(o, "channel4", "keys per channel, 4 bit, 8 heads of 128");
  bench_rows<c::low_rank>(o, "low-rank", "96 of 128 dimensions, bf16, 8 heads");
  bench_rows<c::int4_32, as_projected>(o, "int4-projected", "4 bit, groups of 32, normalised and turned");
#endif
  return 0;
}
