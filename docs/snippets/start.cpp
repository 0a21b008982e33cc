// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// The program of docs/start.md, piece by piece.

#include <iostream>
#include <vector>

#include "kvc/kvc.hpp"

// [sizes]
// Layers, query heads, KV heads, channels of a head.
using model = kvc::shape<4, 8, 2, 64>;

// 8-bit keys, 4-bit values; every pair of layers shares one slot.
using keys = kvc::quant::integer<8, 64, kvc::quant::symmetric>;
using values = kvc::quant::integer<4, 32>;
using cache_type = kvc::compose<model, kvc::quant::split<keys, values>, kvc::layers::shared<2>>;

static_assert(cache_type::bytes_per_token == 2 * 2 * (64 + 2 + 32 + 8));
// [sizes]

constexpr int layers = model::layers, q_row = model::query_heads * 64, kv_row = model::kv_heads * 64;

// Stands for a model: some numbers that depend on the token and the layer.
std::vector<float> rows(int count, int width, int seed) {
  std::vector<float> x(static_cast<std::size_t>(count * width));
  unsigned state = static_cast<unsigned>(seed) * 2654435761u + 1;
  for (float& v : x) {
    state = state * 1664525u + 1013904223u;
    v = static_cast<float>(state >> 8) * 0x1p-23f - 1.0f;
  }
  return x;
}

// [step]
// One step: `count` new rows for every layer, whichever sequences they belong to.
std::vector<float> run_layers(kvc::host::cache<cache_type>& cache, int count, int seed) {
  std::vector<float> out(static_cast<std::size_t>(count * q_row));
  for (int layer = 0; layer < layers; ++layer) {
    if (cache.model().writes(layer)) {  // followers read their leader's slot and append nothing
      const std::vector<float> k = rows(count, kv_row, seed + layer), v = rows(count, kv_row, seed + layer + 100);
      cache.append(layer, k.data(), v.data());
    }
    const std::vector<float> q = rows(count, q_row, seed + layer + 200);
    cache.attend(layer, q.data(), out.data(), nullptr, {.scale = 0.125f});
  }
  return out;
}
// [step]

int main() {
  // [cache]
  kvc::host::cache<cache_type> cache({.capacity = 4096, .max_sequences = 4, .max_step_rows = 256});
  // [cache]

  // [prompt]
  const int a = cache.add_sequence();
  cache.reserve(a, 100);  // a prompt of 100 tokens in one step
  run_layers(cache, 100, 1);
  cache.commit();

  for (int token = 0; token < 20; ++token) {  // then one by one
    cache.reserve(a, 1);
    run_layers(cache, 1, 1000 + token);
    cache.commit();
  }
  std::cout << "a has " << cache.length(a) << " rows\n";
  // [prompt]

  // [batch]
  const int b = cache.add_sequence();
  const kvc::host::step_request step[] = {{a, 1}, {b, 7}};
  cache.reserve(step);  // one row of a, then seven of b: 8 rows in this order
  run_layers(cache, 8, 2000);
  cache.commit();
  std::cout << "a has " << cache.length(a) << " rows, b " << cache.length(b) << "\n";
  // [batch]

  // [fork]
  const kvc::int64 before = cache.memory().pages_in_use;
  const int c = cache.fork(a);
  std::cout << "the fork took " << cache.memory().pages_in_use - before << " bytes of pages\n";
  cache.truncate(c, 90);
  std::cout << "c has " << cache.length(c) << " rows, a still " << cache.length(a) << "\n";
  // [fork]

  // [speculate]
  cache.reserve(a, 4);  // four guessed tokens, verified together
  run_layers(cache, 4, 3000);
  cache.commit(2);  // the first two were right
  std::cout << "a has " << cache.length(a) << " rows\n";
  // [speculate]

  // [save]
  const std::vector<kvc::byte> file = cache.save(a);
  cache.remove(a);
  const int d = cache.load(file);
  std::cout << file.size() << " bytes saved, " << cache.length(d) << " rows loaded\n";
  // [save]

  // [errors]
  try {
    cache.reserve(d, 100000);
  } catch (const kvc::error& e) {
    std::cout << e.what() << "\n";
  }
  // [errors]

  // [memory]
  const kvc::host::memory_usage m = cache.memory();
  std::cout << "pages " << m.pages << " (" << m.pages_in_use << " in use), tails " << m.tails << "\n";
  // [memory]
}
