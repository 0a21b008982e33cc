// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// link: kvc_engine_model
#include "exact_cache.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "gguf_builder.hpp"

using namespace engine;
using engine_test::refusal;

namespace {

constexpr attention_shape shape = {.layers = 2, .query_heads = 6, .kv_heads = 2, .head_dim = 64};
constexpr std::size_t q_row = 6 * 64, kv_row = 2 * 64;
constexpr float scale = 0.2f;

/// Rows as a model would give them, for one layer: q [rows][6][64], k and v [rows][2][64].
struct rows {
  std::vector<float> q, k, v;
};

rows random_rows(int count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  const auto draw = [&](std::size_t size) {
    std::vector<float> out(static_cast<std::size_t>(count) * size);
    for (float& value : out) value = normal(random);
    return out;
  };
  return {draw(q_row), draw(kv_row), draw(kv_row)};
}

/// Row `t` of the output, by the definition of attention, in double precision.
std::vector<double> attended(const rows& all, std::size_t t) {
  std::vector<double> out(q_row, 0.0);
  for (std::size_t head = 0; head < 6; ++head) {
    const std::size_t kv = head / 3 * 64;
    std::vector<double> weight(t + 1);
    double sum = 0;
    for (std::size_t s = 0; s <= t; ++s) {
      double score = 0;
      for (std::size_t i = 0; i < 64; ++i) {
        score += double{all.q[t * q_row + head * 64 + i]} * double{all.k[s * kv_row + kv + i]};
      }
      sum += weight[s] = std::exp(score * double{scale});
    }
    for (std::size_t s = 0; s <= t; ++s) {
      for (std::size_t i = 0; i < 64; ++i) {
        out[head * 64 + i] += weight[s] / sum * double{all.v[s * kv_row + kv + i]};
      }
    }
  }
  return out;
}

/// Appends and attends rows [begin, end) of both layers, and returns the second layer's largest error.
double step(exact_cache& cache, const rows& first, const rows& second, int begin, int end, int keep) {
  const auto b = static_cast<std::size_t>(begin);
  std::vector<float> out(static_cast<std::size_t>(end - begin) * q_row);
  cache.reserve(end - begin);
  cache.append(0, first.k.data() + b * kv_row, first.v.data() + b * kv_row);
  cache.attend(0, first.q.data() + b * q_row, scale, out.data());
  cache.append(1, second.k.data() + b * kv_row, second.v.data() + b * kv_row);
  cache.attend(1, second.q.data() + b * q_row, scale, out.data());
  cache.commit(keep);

  double worst = 0;
  for (std::size_t i = 0; i < static_cast<std::size_t>(end - begin); ++i) {
    const auto wanted = attended(second, b + i);
    for (std::size_t j = 0; j < q_row; ++j) worst = std::max(worst, std::abs(double{out[i * q_row + j]} - wanted[j]));
  }
  return worst;
}

constexpr double tolerance = 2e-5;  // outputs are of order 1

}  // namespace

TEST_CASE("the exact cache attends as attention is defined") {
  const rows first = random_rows(200, 1), second = random_rows(200, 2);
  for (const int threads : {1, 2, 3}) {
    CAPTURE(threads);
    exact_cache cache(shape, 200, threads);
    int begin = 0;
    for (const int end : {1, 2, 65, 66, 194, 200}) {  // single rows, and blocks of 64 that are full, short and many
      CAPTURE(end);
      CHECK(step(cache, first, second, begin, end, end - begin) < tolerance);
      CHECK(cache.length() == end);
      begin = end;
    }
  }
}

TEST_CASE("rows that were not committed, or were truncated, are gone") {
  const rows first = random_rows(50, 3), second = random_rows(50, 4);
  exact_cache cache(shape, 50, 1);
  CHECK(step(cache, first, second, 0, 20, 7) < tolerance);
  CHECK(cache.length() == 7);
  CHECK(step(cache, first, second, 7, 30, 23) < tolerance);
  cache.truncate(11);
  CHECK(cache.length() == 11);
  CHECK(step(cache, first, second, 11, 50, 39) < tolerance);
}

TEST_CASE("large scores do not overflow") {
  rows all = random_rows(2, 5);
  for (float& value : all.q) value *= 1000;
  exact_cache cache(shape, 2, 1);
  std::vector<float> out(2 * q_row);
  cache.reserve(2);
  cache.append(0, all.k.data(), all.v.data());
  cache.attend(0, all.q.data(), scale, out.data());
  CHECK(std::all_of(out.begin(), out.end(), [](float x) { return std::isfinite(x); }));
}

TEST_CASE("a step out of order is refused") {
  const rows some = random_rows(4, 6);
  std::vector<float> out(4 * q_row);
  exact_cache cache(shape, 4, 1);
  CHECK(refusal([&] { cache.append(0, some.k.data(), some.v.data()); }) == "exact cache: append outside a step");
  CHECK(refusal([&] { cache.attend(0, some.q.data(), scale, out.data()); }) == "exact cache: attend outside a step");
  CHECK(refusal([&] { cache.reserve(5); }) == "exact cache: the step does not fit into the context");
  CHECK(refusal([&] { cache.truncate(1); }) == "exact cache: truncate to more than there is");
  cache.reserve(2);
  CHECK(refusal([&] { cache.reserve(1); }) == "exact cache: a step is already open");
  CHECK(refusal([&] { cache.attend(0, some.q.data(), scale, out.data()); }) == "exact cache: attend before append");
  cache.append(0, some.k.data(), some.v.data());
  CHECK(refusal([&] { cache.append(0, some.k.data(), some.v.data()); }) ==
        "exact cache: a layer was appended twice in one step");
  CHECK(refusal([&] { cache.commit(2); }) == "exact cache: a layer was not appended");
  CHECK(refusal([&] { cache.truncate(0); }) == "exact cache: truncate inside a step");
}

TEST_CASE("bytes are what the rows take") {
  const rows some = random_rows(8, 7);
  exact_cache cache(shape, 64, 1);
  CHECK(cache.bytes().pages == 0);
  step(cache, some, some, 0, 8, 8);
  CHECK(cache.bytes().pages >= 8 * 2 * kv_row * 2 * sizeof(float));  // rows, k and v, layers
  CHECK(cache.bytes().tail == 0);
  CHECK(cache.bytes().workspace > 0);
}
