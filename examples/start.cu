// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <cstdio>
#include <vector>

#include "kvc/cuda.cuh"

// The cache of start.cpp on the GPU: rows, queries and outputs lie in device memory, and all work goes to one stream.
using model = kvc::shape<2, 8, 2, 64>;
using cache_type = kvc::compose<model, kvc::quant::integer<4, 32>>;

int main() try {
  cudaStream_t stream;
  kvc::cuda::require(cudaStreamCreate(&stream), "cudaStreamCreate");
  kvc::cuda::cache<cache_type> cache({.capacity = 1024}, stream);
  const int sequence = cache.add_sequence();
  const auto on_device = [&](const std::vector<float>& x) {
    float* data;
    kvc::cuda::require(cudaMalloc(&data, x.size() * sizeof(float)), "cudaMalloc");
    kvc::cuda::require(cudaMemcpy(data, x.data(), x.size() * sizeof(float), cudaMemcpyDefault), "cudaMemcpy");
    return data;
  };
  std::vector<float> out(8 * 64);
  float *k = on_device(std::vector<float>(2 * 64, 0.5f)), *v = on_device(std::vector<float>(2 * 64, 0.25f)),
        *q = on_device(std::vector<float>(8 * 64, 1.0f)), *result = on_device(out);

  for (int token = 0; token < 128; ++token) {
    cache.reserve(sequence, 1);
    for (int layer = 0; layer < 2; ++layer) {
      cache.append(layer, k, v);
      cache.attend(layer, q, result, nullptr, {.scale = 0.125f});
    }
    cache.commit();
  }
  cache.synchronize();
  kvc::cuda::require(cudaMemcpy(out.data(), result, out.size() * sizeof(float), cudaMemcpyDefault), "cudaMemcpy");
  std::printf("%lld tokens, %lld bytes each, out[0] = %g\n%s\n", static_cast<long long>(cache.length(sequence)),
              static_cast<long long>(cache_type::bytes_per_token), out[0],
              kvc::cuda::route<cache_type>(kvc::operation::attend).kernel);
} catch (const kvc::error& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
