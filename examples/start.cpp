// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <cstdio>
#include <vector>

#include "kvc/kvc.hpp"

// A model with 2 layers, 8 query heads and 2 KV heads of 64 channels; keys and values in 4 bit.
using model = kvc::shape<2, 8, 2, 64>;
using cache_type = kvc::compose<model, kvc::quant::integer<4, 32>>;

int main() {
  kvc::host::cache<cache_type> cache({.capacity = 1024});
  const int sequence = cache.add_sequence();
  std::vector<float> k(2 * 64, 0.5f), v(2 * 64, 0.25f), q(8 * 64, 1.0f), out(8 * 64);

  for (int token = 0; token < 128; ++token) {
    cache.reserve(sequence, 1);
    for (int layer = 0; layer < 2; ++layer) {
      cache.append(layer, k.data(), v.data());
      cache.attend(layer, q.data(), out.data(), nullptr, {.scale = 0.125f});
    }
    cache.commit();
  }
  std::printf("%s\n%lld tokens, %lld bytes each instead of %d, out[0] = %g\n", cache_type::name().c_str(),
              static_cast<long long>(cache.length(sequence)), static_cast<long long>(cache_type::bytes_per_token),
              2 * 2 * 2 * 64 * 2, out[0]);
}
