// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// The tile functions that append and gather are made of, in a kernel of one thread: the same bytes as on the host.

#include <doctest/doctest.h>

#include <cstring>
#include <random>
#include <vector>

#include "kvc/kvc.hpp"

namespace {

using namespace kvc;

constexpr int rows = 150;
using model = shape<2, 4, 2, 64>;

template <class Spec, bool First>
__device__ void append_stream(const cache_view<Spec>& view, const step_view& step, int slot,
                              rows_view<const float> in) {
  int64 begin = 0;
  int64 end = 0;
  touched_pages<Spec>(step, 0, begin, end);
  for (int head = 0; head < view.model.stored_heads(); ++head) {
    for (int64 page = begin; page < end; ++page) {
      const stream_rows<Spec, First> at(view, step, 0, slot, head);
      append_page<Spec, First>(at, in, page);
    }
  }
}

template <class Spec>
__global__ void append_kernel(cache_view<Spec> view, step_view step, int slot, rows_view<const float> k,
                              rows_view<const float> v) {
  append_stream<Spec, true>(view, step, slot, k);
  append_stream<Spec, false>(view, step, slot, v);
}

template <class Spec, bool First>
__global__ void read_kernel(cache_view<Spec> view, step_view step, int slot, int head, float* out) {
  const stream_rows<Spec, First> at(view, step, 0, slot, head);
  for (int64 t = 0; t < step.rows(0); ++t) at.read(t, step.rows(0), out + t * stream_of<Spec, First>::width);
}

template <class T>
struct device_copy {
  explicit device_copy(const T* host, std::size_t count) : bytes(count * sizeof(T)) {
    REQUIRE(cudaMalloc(&data, bytes == 0 ? 1 : bytes) == cudaSuccess);
    if (bytes > 0) REQUIRE(cudaMemcpy(data, host, bytes, cudaMemcpyHostToDevice) == cudaSuccess);
  }
  ~device_copy() { cudaFree(data); }
  std::vector<byte> back() const {
    std::vector<byte> out(bytes);
    if (bytes > 0) REQUIRE(cudaMemcpy(out.data(), data, bytes, cudaMemcpyDeviceToHost) == cudaSuccess);
    return out;
  }
  T* data = nullptr;
  std::size_t bytes;
};

std::vector<byte> bytes_at(const byte* p, int64 count) {
  return std::vector<byte>(p, p + count);
}

template <class Spec>
void same_bytes_as_host() {
  host::cache<Spec> cache({.capacity = 256, .max_step_rows = rows});
  const extents<Spec> e = cache.model();
  std::mt19937 generator(5);
  std::normal_distribution<float> normal;
  std::vector<float> k(rows * (Spec::is_latent ? Spec::key_width : e.kv_heads * Spec::key_width));
  std::vector<float> v(rows * e.kv_heads * Spec::shape_type::head_dim);
  for (float& x : k) x = normal(generator);
  for (float& x : v) x = normal(generator);
  const int key_heads = Spec::is_latent ? 1 : e.kv_heads;

  cache.reserve(cache.add_sequence(), rows);
  cache_view<Spec> view = cache.view();
  const int64 page_bytes = page_pool_bytes<Spec>(e, view.blocks);
  const int64 tail_bytes = tail_pool_bytes<Spec>(e, 1);
  const int64 staged_bytes = staging_bytes<Spec>(e, rows);
  const int64 constants = (Spec::calibration_floats + 0) * e.slots() * e.stored_heads();

  // The device's twin of the same empty memory and step, before the host appends.
  device_copy<byte> pages(view.pages, page_bytes), tails(view.tails, tail_bytes), staging(view.staging, staged_bytes);
  device_copy<float> floats(view.calibration.data, constants), keys(k.data(), k.size()), values(v.data(), v.size());
  step_view step = cache.step();
  device_copy<int64> lengths(step.seq_lens, 1), indptr(step.row_indptr, 2);
  device_copy<int32> table(step.block_table, step.block_table_stride);
  cache_view<Spec> twin = view;
  twin.pages = pages.data;
  twin.tails = tails.data;
  twin.staging = staging.data;
  twin.calibration.data = constants > 0 ? floats.data : nullptr;
  step_view device_step{1, nullptr, lengths.data, indptr.data, table.data, step.block_table_stride};
  const rows_view<const float> device_keys = contiguous_rows<const float>(keys.data, key_heads, Spec::key_width);
  rows_view<const float> device_values =
      contiguous_rows<const float>(values.data, e.kv_heads, Spec::shape_type::head_dim);
  if (Spec::is_latent) {
    device_values = device_keys;
    device_values.data += Spec::first_stream::model_width;
  }

  for (int layer = 0; layer < e.layers; ++layer) {
    if (!e.writes(layer)) continue;
    if constexpr (Spec::is_latent) {
      cache.append(layer, k.data());
    } else {
      cache.append(layer, k.data(), v.data());
    }
    append_kernel<Spec><<<1, 1>>>(twin, device_step, e.slot(layer), device_keys, device_values);
    REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
  }
  CHECK(pages.back() == bytes_at(view.pages, page_bytes));
  CHECK(tails.back() == bytes_at(view.tails, tail_bytes));
  CHECK(staging.back() == bytes_at(view.staging, staged_bytes));

  // Decoding on the device: within one fp32 rounding of the host's, which the contraction of a product may move.
  using stream_type = stream_of<Spec, true>;
  std::vector<float> read(rows * stream_type::width);
  device_copy<float> out(read.data(), read.size());
  read_kernel<Spec, true><<<1, 1>>>(twin, device_step, 0, 0, out.data);
  REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
  const std::vector<byte> raw = out.back();
  std::memcpy(read.data(), raw.data(), raw.size());
  const stream_rows<Spec, true> at(view, cache.step(), 0, 0, 0);
  float worst = 0;
  float expected[stream_type::width];
  for (int64 t = 0; t < rows; ++t) {
    at.read(t, rows, expected);
    for (int i = 0; i < stream_type::width; ++i) {
      worst = std::max(worst, std::abs(read[t * stream_type::width + i] - expected[i]) / (1 + std::abs(expected[i])));
    }
  }
  CHECK(worst <= 1e-6f);

  // The comparison can fail: one nibble changed on one side.
  std::vector<byte> altered = pages.back();
  altered[0] ^= 0x10;
  CHECK(altered != bytes_at(view.pages, page_bytes));
}

using per_channel = quant::integer<4, 32, quant::affine, quant::per_channel>;

}  // namespace

TEST_CASE("tile functions: elements") {
  same_bytes_as_host<compose<model>>();
  same_bytes_as_host<compose<model, quant::none<fp16>>>();
  same_bytes_as_host<compose<model, quant::fp8_e4m3<64>>>();
}

TEST_CASE("tile functions: integers") {
  same_bytes_as_host<compose<model, quant::integer<8, 64, quant::symmetric>>>();
  same_bytes_as_host<compose<model, quant::integer<3, 32>>>();
  same_bytes_as_host<compose<model, quant::split<per_channel, quant::integer<2, 32>>>>();
  same_bytes_as_host<compose<model, quant::graded<quant::run<16, 6>, quant::run<16, 4>, quant::run<32, 3>>>>();
}

TEST_CASE("tile functions: wrappers and dims") {
  same_bytes_as_host<compose<model, quant::exact_ends<4, 16, quant::rotated<quant::integer<4, 64>>>>>();
  same_bytes_as_host<compose<model, quant::centred<quant::integer<4, 32>>, layers::shared<2>>>();
  same_bytes_as_host<compose<model, dims::pruned<48>>>();
  same_bytes_as_host<compose<model, heads::grouped<2>>>();
}

TEST_CASE("tile functions: the flagship") {
  same_bytes_as_host<clla_cache<shape<2, 16, 16, 128>>>();
}
