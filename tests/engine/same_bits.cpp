// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// link: kvc_engine_core

// The last bit of a logit decides which way a code is rounded, and a code what later tokens are: a model's output must
// not depend on how many threads there are, or where the heap puts its buffers.

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "caches.hpp"
#include "exact_cache.hpp"
#include "generate.hpp"
#include "matrix.hpp"
#include "model.hpp"
#include "tiny_model.hpp"

using namespace engine;
using namespace engine_test;

namespace {

/// Bytes that every allocation of this program begins past a cache line.
std::atomic<std::size_t> past_line = 16;

}  // namespace

// Keeps malloc's address before the one that it returns. Not inlined, where g++ would think that outside of the object.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  constexpr std::size_t line = 64;
  void* const all = std::malloc(bytes + 3 * line);
  if (all == nullptr) throw std::bad_alloc();
  const auto whole = (reinterpret_cast<std::uintptr_t>(all) + 2 * line - 1) / line * line;
  const auto at = static_cast<std::size_t>(whole - reinterpret_cast<std::uintptr_t>(all)) + past_line.load();
  char* const out = static_cast<char*>(all) + at;
  reinterpret_cast<void**>(out)[-1] = all;
  return out;
}
[[gnu::noinline]] void operator delete(void* p) noexcept {
  if (p != nullptr) std::free(static_cast<void**>(p)[-1]);
}
void operator delete(void* p, std::size_t) noexcept {
  operator delete(p);
}

namespace {

/// All logits of a prompt that takes several steps, with buffers that lie `past` a cache line.
std::vector<float> logits_of(const gguf_file& file, const std::string& cache_name, int threads, std::size_t past) {
  past_line = past;
  model transformer(file, {.threads = threads});
  const auto cache = make_cache(cache_name, transformer.config().attention(),
                                {.context = 256, .threads = threads, .pool = &transformer.pool()});
  std::vector<token> tokens;
  for (int i = 0; i < 150; ++i) tokens.push_back((i * i * 7 + 3 * i + 1) % transformer.config().vocabulary);
  std::vector<float> out;
  feed(transformer, *cache, tokens, 67,
       [&](std::size_t, std::span<const float> logits) { out.insert(out.end(), logits.begin(), logits.end()); });
  past_line = 16;
  return out;
}

}  // namespace

TEST_CASE("logits are the same to the last bit for any number of threads, wherever buffers lie") {
  tiny_model tiny;
  tiny.context = 256;
  tiny.feed_forward = 104;
  tiny.vocabulary = 211;  // several blocks of outputs, the last one lower
  tiny.draw(1);
  const bytes data = tiny.file();
  const auto file = gguf_file::parse(data);
  for (const std::string name : {"exact", "fp32", "int4", "channel4"}) {
    CAPTURE(name);
    const auto expected = logits_of(file, name, 1, 0);
    for (const int threads : {1, 2, 3, 5}) {
      for (const std::size_t past : {0, 16, 48}) {
        CAPTURE(threads);
        CAPTURE(past);
        CHECK(logits_of(file, name, threads, past) == expected);
      }
    }
  }
}

TEST_CASE("products are the same to the last bit for any number of threads") {
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  const auto draw = [&](std::size_t count) {
    std::vector<float> out(count);
    for (float& x : out) x = normal(random);
    return out;
  };
  thread_pool one(1);
  for (const std::size_t outputs : {1u, 40u, 48u, 336u, 500u}) {
    const std::size_t inputs = 200;
    const auto w = draw(outputs * inputs);
    const matrix weight(outputs, inputs, w);
    for (const std::size_t rows : {1u, 2u, 7u, 64u}) {
      CAPTURE(outputs);
      CAPTURE(rows);
      const auto x = draw(rows * inputs);
      std::vector<float> expected(rows * outputs), got(rows * outputs);
      weight.multiply(x.data(), rows, expected.data(), one);
      double worst = 0;
      for (std::size_t r = 0; r < rows; ++r) {
        for (std::size_t o = 0; o < outputs; ++o) {
          double sum = 0;
          for (std::size_t i = 0; i < inputs; ++i) sum += double{x[r * inputs + i]} * double{w[o * inputs + i]};
          worst = std::max(worst, std::abs(sum - double{expected[r * outputs + o]}));
        }
      }
      CHECK(worst < 1e-4);  // sums of 200 products of order 1
      for (const int threads : {2, 3, 4}) {
        thread_pool some(threads);
        weight.multiply(x.data(), rows, got.data(), some);
        CHECK(got == expected);
      }
    }
    std::vector<float> row(inputs);
    weight.copy_row(outputs - 1, row.data());
    CHECK(row == std::vector<float>(w.end() - static_cast<std::ptrdiff_t>(inputs), w.end()));
  }
}
