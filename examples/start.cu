// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <thrust/device_vector.h>

#include <cstdio>

#include "kvc/cuda.cuh"

// The cache of start.cpp on the GPU: rows, queries and outputs lie in device memory, and all work goes to one stream.
using cache_type = kvc::compose<kvc::shape<2, 8, 2, 64>, kvc::quant::integer<4, 32>>;

int main() {
  kvc::cuda::cache<cache_type> cache({.capacity = 1024}, cudaStreamLegacy);
  const int sequence = cache.add_sequence();
  thrust::device_vector<float> k(2 * 64, 0.5f), v(2 * 64, 0.25f), q(8 * 64, 1.0f), out(8 * 64);
  for (int token = 0; token < 128; ++token) {
    cache.reserve(sequence, 1);
    for (int layer = 0; layer < 2; ++layer) {
      cache.append(layer, k.data().get(), v.data().get());
      cache.attend(layer, q.data().get(), out.data().get(), nullptr, {.scale = 0.125f});
    }
    cache.commit();
  }
  std::printf("%lld tokens, %lld bytes each, out[0] = %g\n%s\n", static_cast<long long>(cache.length(sequence)),
              static_cast<long long>(cache_type::bytes_per_token), static_cast<float>(out[0]),
              kvc::cuda::route<cache_type>(kvc::operation::attend).kernel);
}
