// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <cmath>
#include <kvc/attention/state.hpp>
#include <kvc/reference/attention.hpp>
#include <limits>
#include <vector>

#include "model_cache.hpp"

using kvc_test::generator;

namespace {

constexpr int width = 8;
constexpr float inf = std::numeric_limits<float>::infinity();
constexpr float nan_value = std::numeric_limits<float>::quiet_NaN();

struct part {
  kvc::softmax_state softmax;
  std::vector<float> o = std::vector<float>(width, 0.0f);

  kvc::attention_state state() { return {&softmax, o.data(), width}; }
  float lse() const { return softmax.lse(); }
};

struct rows {
  std::vector<float> scores;
  std::vector<std::vector<float>> values;
};

rows random_rows(std::uint64_t seed, int count, float spread) {
  generator random(seed);
  rows r;
  for (int t = 0; t < count; ++t) {
    r.scores.push_back(spread * random.normal());
    r.values.emplace_back(width);
    for (float& v : r.values.back()) v = random.normal();
  }
  return r;
}

part pushed(const rows& r, std::size_t begin, std::size_t end) {
  part p;
  for (std::size_t t = begin; t < end; ++t) p.state().push(r.scores[t], r.values[t].data());
  return p;
}

part merged(part a, const part& b) {
  a.state().merge(b.softmax, b.o.data());
  return a;
}

/// The oracle, with scores as one-channel keys.
kvc::reference::attention_output oracle(const rows& r) {
  kvc::reference::attention_input in;
  in.query = {1.0};
  for (std::size_t t = 0; t < r.scores.size(); ++t) {
    in.keys.push_back({static_cast<double>(r.scores[t])});
    in.values.emplace_back(r.values[t].begin(), r.values[t].end());
  }
  return kvc::reference::attention(in);
}

/// Output and lse of a part. Weights are off by 2e-7 per rescaling and one rounding per row, values by as much.
void check_against(part p, const rows& r, double roundings) {
  const kvc::reference::attention_output wanted = oracle(r);
  p.state().normalize();
  const double tolerance = roundings * (0x1p-24 + 2e-7);
  double largest = 0;
  for (const auto& v : r.values) {
    for (const float x : v) largest = std::max(largest, static_cast<double>(std::fabs(x)));
  }
  for (std::size_t c = 0; c < width; ++c) {
    CHECK(std::fabs(static_cast<double>(p.o[c]) - wanted.out[c]) <= 2 * tolerance * largest);
  }
  CHECK(std::fabs(static_cast<double>(p.lse()) - wanted.lse) <= tolerance * (1 + std::fabs(wanted.lse)));
}

bool is_empty(const part& p) {
  for (const float x : p.o) {
    if (x != 0) return false;
  }
  return p.softmax.l == 0 && p.softmax.m == -inf && p.lse() == -inf;
}

}  // namespace

TEST_CASE("pushed rows are attention") {
  for (const float spread : {0.1f, 1.0f, 20.0f, 60.0f}) {
    CAPTURE(spread);
    const rows r = random_rows(1, 50, spread);
    check_against(pushed(r, 0, 50), r, 110);
  }
}

TEST_CASE("merging is associative and commutative up to rounding, and exact where scores do not overlap") {
  const rows r = random_rows(2, 60, 5.0f);
  const part a = pushed(r, 0, 17);
  const part b = pushed(r, 17, 20);
  const part c = pushed(r, 20, 60);
  check_against(merged(merged(a, b), c), r, 110);
  check_against(merged(a, merged(b, c)), r, 110);
  check_against(merged(merged(c, a), b), r, 110);
}

TEST_CASE("the empty part is the identity, on both sides and bit by bit") {
  const part a = pushed(random_rows(3, 9, 3.0f), 0, 9);
  const part empty;
  CHECK(is_empty(empty));
  CHECK(is_empty(merged(empty, empty)));
  for (const part& p : {merged(a, empty), merged(empty, a)}) {
    CHECK(p.softmax.m == a.softmax.m);
    CHECK(p.softmax.l == a.softmax.l);
    CHECK(p.o == a.o);
  }
  part normalized;
  normalized.state().normalize();
  CHECK(is_empty(normalized));
  part cleared = a;
  cleared.state().clear();
  CHECK(is_empty(cleared));
}

TEST_CASE("rows of score -inf have no weight") {
  rows r = random_rows(4, 6, 1.0f);
  const part without = pushed(r, 1, 6);
  r.scores[0] = -inf;
  const part with = pushed(r, 0, 6);
  CHECK(with.o == without.o);
  CHECK(with.lse() == without.lse());
  for (float& s : r.scores) s = -inf;
  CHECK(is_empty(pushed(r, 0, 6)));
  CHECK(merged(without, pushed(r, 0, 6)).o == without.o);
}

TEST_CASE("a NaN score makes everything NaN, wherever it stands") {
  for (const std::size_t at : {0u, 1u, 4u}) {
    CAPTURE(at);
    rows r = random_rows(5, 5, 1.0f);
    r.scores[at] = nan_value;
    const part p = pushed(r, 0, 5);
    CHECK(std::isnan(p.lse()));
    for (const float x : p.o) CHECK(std::isnan(x));
    for (const part& joined :
         {merged(p, pushed(r, 0, 0)), merged(part{}, p), merged(pushed(random_rows(6, 3, 1), 0, 3), p)}) {
      CHECK(std::isnan(joined.lse()));
      for (const float x : joined.o) CHECK(std::isnan(x));
    }
  }
}

TEST_CASE("an infinite score makes everything NaN, as infinity over infinity is") {
  rows r = random_rows(7, 5, 1.0f);
  r.scores[2] = inf;
  const part p = pushed(r, 0, 5);
  CHECK(std::isnan(p.lse()));
  CHECK(std::isnan(p.o[0]));
}

TEST_CASE("a NaN or infinite value stays in its channel") {
  rows r = random_rows(8, 5, 1.0f);
  r.values[1][3] = nan_value;
  r.values[4][5] = inf;
  part p = pushed(r, 0, 5);
  p.state().normalize();
  for (std::size_t c = 0; c < width; ++c) {
    CHECK(std::isnan(p.o[c]) == (c == 3));
    CHECK(std::isinf(p.o[c]) == (c == 5));
  }
  CHECK(std::isfinite(p.lse()));
}

TEST_CASE("a sink takes weight and has no row") {
  const rows r = random_rows(9, 12, 2.0f);
  for (const float logit : {-3.0f, 1.0f, 30.0f}) {
    CAPTURE(logit);
    rows with_row = r;
    with_row.scores.push_back(logit);
    with_row.values.emplace_back(width, 0.0f);
    part p = pushed(r, 0, 12);
    p.state().push_sink(logit);
    check_against(p, with_row, 40);
  }
  part alone;
  alone.state().push_sink(0.5f);
  alone.state().normalize();
  CHECK(alone.lse() == doctest::Approx(0.5));
  for (const float x : alone.o) CHECK(x == 0.0f);
}

TEST_CASE("outputs merged by their lse are attention over the union") {
  const rows r = random_rows(10, 40, 4.0f);
  for (const std::size_t cut : {0u, 1u, 13u, 40u}) {
    CAPTURE(cut);
    part a = pushed(r, 0, cut);
    part b = pushed(r, cut, 40);
    a.state().normalize();
    b.state().normalize();
    float lse = a.lse();
    kvc::merge_outputs(a.o.data(), lse, b.o.data(), b.lse(), width);
    const kvc::reference::attention_output wanted = oracle(r);
    for (std::size_t c = 0; c < width; ++c) {
      CHECK(std::fabs(static_cast<double>(a.o[c]) - wanted.out[c]) <= 100 * 2.6e-7 * 4);
    }
    CHECK(std::fabs(static_cast<double>(lse) - wanted.lse) <= 100 * 2.6e-7 * (1 + std::fabs(wanted.lse)));
  }
  // Empty with empty is empty, and NaN stays.
  std::vector<float> o(width, 0.0f);
  float lse = -inf;
  kvc::merge_outputs(o.data(), lse, o.data(), -inf, width);
  CHECK(lse == -inf);
  CHECK(o == std::vector<float>(width, 0.0f));
  const std::vector<float> bad(width, nan_value);
  kvc::merge_outputs(o.data(), lse, bad.data(), nan_value, width);
  CHECK(std::isnan(lse));
  CHECK(std::isnan(o[0]));
}
