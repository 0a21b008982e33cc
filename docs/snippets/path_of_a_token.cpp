// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// The program of docs/path_of_a_token.md: a cache so small that all its bytes can be read.

#include <iomanip>
#include <iostream>

#include "kvc/kvc.hpp"

// [types]
// One layer, two query heads that share one KV head of 8 channels; 4 bit, one scale and offset per row.
using spec = kvc::compose<kvc::shape<1, 2, 1, 8>, kvc::quant::integer<4>, kvc::storage<16>>;
static_assert(spec::first_stream::row_bytes == 4 && spec::first_stream::group_bytes == 4);
// [types]

void print(const char* what, const float* x, int count) {
  std::cout << what;
  for (int i = 0; i < count; ++i) std::cout << " " << x[i];
  std::cout << "\n";
}

void print(const char* what, const kvc::byte* bytes, int count) {
  std::cout << what << std::hex << std::setfill('0');
  for (int i = 0; i < count; ++i) std::cout << " " << std::setw(2) << static_cast<int>(bytes[i]);
  std::cout << std::dec << "\n";
}

int main() {
  kvc::host::cache<spec> cache({.capacity = 16});
  const int sequence = cache.add_sequence();
  // [token]
  const float key[8] = {0, 1, 2, 3, 4, 5, 6, 7.5f};
  const float value[8] = {1, 1, 1, 1, 2, 2, 2, 2};
  const float query[2 * 8] = {1, 0, 0, 0, 0, 0, 0, 1, /**/ 0, 0, 0, 0, 0, 0, 0, 0};
  float out[2 * 8], lse[2];

  cache.reserve(sequence, 1);
  cache.append(0, key, value);
  cache.attend(0, query, out, lse, {.scale = 0.5f});
  cache.commit();
  // [token]

  print("key      ", key, 8);
  const kvc::byte* page = cache.view().page(0, 0);
  print("codes    ", page, 4);
  print("constants", page + spec::first_stream::codes_bytes, 4);
  float k[8], v[8];
  cache.gather(sequence, 0, 0, 1, k, v);
  print("decoded  ", k, 8);
  print("output   ", out, 8);
  print("lse      ", lse, 2);
}
