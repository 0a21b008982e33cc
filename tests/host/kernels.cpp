// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "kvc/host/kernels.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

using namespace kvc::host::detail;

namespace {

std::vector<float> normal_values(std::size_t count, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<float> out(count);
  for (float& x : out) x = normal(engine);
  return out;
}

}  // namespace

TEST_CASE("scores have the same bits in any block of queries and rows, and are dot products") {
  constexpr int queries = 7, rows = 37, width = 96;
  const auto q = normal_values(queries * width, 1), k = normal_values(rows * width, 2);
  std::vector<float> together(queries * rows), twice(queries * rows, 1.0f);
  score<false>(q.data(), queries, width, k.data(), rows, width, width, together.data(), rows);
  score<true>(q.data(), queries, width, k.data(), rows, width, width, twice.data(), rows);
  for (int i = 0; i < queries; ++i) {
    for (int r = 0; r < rows; ++r) {
      CAPTURE(i);
      CAPTURE(r);
      float alone = 0;
      score<false>(q.data() + i * width, 1, width, k.data() + r * width, 1, width, width, &alone, 1);
      const float x = together[static_cast<std::size_t>(i * rows + r)];
      CHECK(x == alone);
      CHECK(twice[static_cast<std::size_t>(i * rows + r)] == 1.0f + alone);
      double dot = 0, size = 0;
      for (int c = 0; c < width; ++c) {
        const double term = static_cast<double>(q[static_cast<std::size_t>(i * width + c)]) *
                            static_cast<double>(k[static_cast<std::size_t>(r * width + c)]);
        dot += term;
        size += std::abs(term);
      }
      CHECK(std::abs(static_cast<double>(x) - dot) <= 12 * 6e-8 * size);  // 6 terms per lane, a tree of 4 levels
    }
  }
}

TEST_CASE("the sum and the greatest of a row of any length") {
  const auto s = normal_values(100, 3);
  for (int count = 0; count <= 100; ++count) {
    CAPTURE(count);
    double sum = 0;
    float top = -3.5f;
    for (int i = 0; i < count; ++i) {
      sum += static_cast<double>(s[static_cast<std::size_t>(i)]);
      top = std::max(top, s[static_cast<std::size_t>(i)]);
    }
    CHECK(sum_of(s.data(), count) == doctest::Approx(sum).epsilon(1e-5));
    CHECK(max_of_row(s.data(), count, -3.5f) == top);
    CHECK(max_of_row(s.data(), count, 9.0f) == 9.0f);
  }
  std::vector<float> with_nan(40, -1.0f);
  with_nan[3] = std::numeric_limits<float>::quiet_NaN();
  with_nan[20] = 2;
  CHECK(max_of_row(with_nan.data(), 40, -5) == 2.0f);
}
