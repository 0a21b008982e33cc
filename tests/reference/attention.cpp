// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <cmath>
#include <kvc/reference/attention.hpp>

// The oracle against results that were worked out by hand.

using kvc::reference::attention;
using kvc::reference::attention_input;

TEST_CASE("two rows") {
  // Scores 0 and log 3 give weights 1/4 and 3/4, and an lse of log 4.
  const attention_input in = {.query = {2.0, 0.0},
                              .keys = {{0.0, 5.0}, {std::log(3.0), -1.0}},
                              .values = {{4.0, 0.0, 8.0}, {0.0, 4.0, 8.0}},
                              .visible = {},
                              .scale = 0.5};
  const auto o = attention(in);
  CHECK(o.out[0] == doctest::Approx(1.0).epsilon(1e-14));
  CHECK(o.out[1] == doctest::Approx(3.0).epsilon(1e-14));
  CHECK(o.out[2] == doctest::Approx(8.0).epsilon(1e-14));
  CHECK(o.lse == doctest::Approx(std::log(4.0)).epsilon(1e-14));
}

TEST_CASE("visible rows, sinks and soft cap") {
  attention_input in = {
      .query = {1.0}, .keys = {{0.0}, {100.0}, {0.0}}, .values = {{1.0}, {50.0}, {3.0}}, .visible = {}};
  in.visible = {true, false, true};
  auto o = attention(in);
  CHECK(o.out[0] == doctest::Approx(2.0).epsilon(1e-14));
  CHECK(o.lse == doctest::Approx(std::log(2.0)).epsilon(1e-14));

  in.has_sink = true;
  in.sink = std::log(2.0);  // as much weight as both rows
  o = attention(in);
  CHECK(o.out[0] == doctest::Approx(1.0).epsilon(1e-14));
  CHECK(o.lse == doctest::Approx(std::log(4.0)).epsilon(1e-14));

  in.has_sink = false;
  in.visible = {};
  in.soft_cap = 1.0;  // scores 0, 1 (tanh 100), 0
  o = attention(in);
  CHECK(o.out[0] == doctest::Approx((4.0 + 50.0 * std::exp(1.0)) / (2.0 + std::exp(1.0))).epsilon(1e-14));
}

TEST_CASE("scores that would overflow without their maximum") {
  const auto o = attention({.query = {1.0}, .keys = {{5000.0}, {4999.0}}, .values = {{1.0}, {0.0}}, .visible = {}});
  CHECK(o.out[0] == doctest::Approx(1.0 / (1.0 + std::exp(-1.0))).epsilon(1e-14));
  CHECK(o.lse == doctest::Approx(5000.0 + std::log1p(std::exp(-1.0))).epsilon(1e-14));
}

TEST_CASE("nothing to see") {
  const auto none = attention({.query = {1.0}, .keys = {{1.0}}, .values = {{7.0, 8.0}}, .visible = {false}});
  CHECK(none.out == std::vector<double>{0.0, 0.0});
  CHECK(none.lse == -std::numeric_limits<double>::infinity());
  CHECK(attention({.query = {1.0}, .keys = {}, .values = {}, .visible = {}}).out.empty());
}

TEST_CASE("NaN and infinities") {
  const double nan_value = std::numeric_limits<double>::quiet_NaN();
  const double inf = std::numeric_limits<double>::infinity();
  for (const double key : {nan_value, inf}) {
    const auto o =
        attention({.query = {1.0}, .keys = {{0.0}, {key}, {0.0}}, .values = {{1.0}, {2.0}, {3.0}}, .visible = {}});
    CHECK(std::isnan(o.out[0]));
    CHECK(std::isnan(o.lse));
  }
  const auto ignored = attention({.query = {1.0}, .keys = {{0.0}, {-inf}}, .values = {{1.0}, {2.0}}, .visible = {}});
  CHECK(ignored.out[0] == 1.0);
  const auto channel =
      attention({.query = {1.0}, .keys = {{0.0}, {0.0}}, .values = {{1.0, inf}, {nan_value, 2.0}}, .visible = {}});
  CHECK(std::isnan(channel.out[0]));
  CHECK(channel.out[1] == inf);
}
