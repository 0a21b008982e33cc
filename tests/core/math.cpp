// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// The error bounds that the comments of core/math.hpp state.
#include <doctest/doctest.h>

#include <cmath>
#include <initializer_list>
#include <kvc/core/math.hpp>

TEST_CASE("exp_of: relative error below 2e-7 on [-87, 88]") {
  double worst = 0;
  for (float x = -87.0f; x <= 88.0f; x += 1.7e-4f) {
    const double exact = std::exp(static_cast<double>(x));
    worst = std::fmax(worst, std::fabs(static_cast<double>(kvc::exp_of(x)) - exact) / exact);
  }
  for (float x = 1e-30f; x < 1.0f; x *= 1.01f) {
    for (const float y : {x, -x}) {
      const double exact = std::exp(static_cast<double>(y));
      worst = std::fmax(worst, std::fabs(static_cast<double>(kvc::exp_of(y)) - exact) / exact);
    }
  }
  CAPTURE(worst);
  CHECK(worst < 2e-7);
  CHECK(kvc::exp_of(0.0f) == 1.0f);
}

TEST_CASE("exp_of at the ends of its range") {
  CHECK(kvc::exp_of(-87.4f) == 0.0f);
  CHECK(kvc::exp_of(-1000.0f) == 0.0f);
  CHECK(kvc::exp_of(-kvc::infinity()) == 0.0f);
  CHECK(kvc::exp_of(88.73f) == kvc::infinity());
  CHECK(kvc::exp_of(kvc::infinity()) == kvc::infinity());
  CHECK(std::isfinite(kvc::exp_of(88.72f)));
  CHECK(std::isnan(kvc::exp_of(kvc::quiet_nan())));
}

TEST_CASE("tanh_of: absolute error below 3e-7, odd, NaN stays NaN") {
  double worst = 0;
  for (float x = 0.0f; x <= 12.0f; x += 1.3e-5f) {
    worst = std::fmax(worst, std::fabs(static_cast<double>(kvc::tanh_of(x)) - std::tanh(static_cast<double>(x))));
    if (kvc::tanh_of(-x) != -kvc::tanh_of(x)) worst = 1;
  }
  CAPTURE(worst);
  CHECK(worst < 3e-7);
  CHECK(kvc::tanh_of(100.0f) == 1.0f);
  CHECK(kvc::tanh_of(-kvc::infinity()) == -1.0f);
  CHECK(kvc::tanh_of(1e-20f) == doctest::Approx(1e-20));
  CHECK(std::isnan(kvc::tanh_of(kvc::quiet_nan())));
}

TEST_CASE("round_even: nearest, ties to even") {
  CHECK(kvc::round_even(0.5f) == 0.0f);
  CHECK(kvc::round_even(1.5f) == 2.0f);
  CHECK(kvc::round_even(2.5f) == 2.0f);
  CHECK(kvc::round_even(-0.5f) == 0.0f);
  CHECK(kvc::round_even(-1.5f) == -2.0f);
  CHECK(kvc::round_even(2.4999f) == 2.0f);
  CHECK(kvc::round_even(8388609.0f) == 8388609.0f);
}

TEST_CASE("is_finite") {
  CHECK(kvc::is_finite(0.0f));
  CHECK(kvc::is_finite(-3.4e38f));
  CHECK(kvc::is_finite(1e-45f));
  CHECK_FALSE(kvc::is_finite(kvc::infinity()));
  CHECK_FALSE(kvc::is_finite(-kvc::infinity()));
  CHECK_FALSE(kvc::is_finite(kvc::quiet_nan()));
}

TEST_CASE("integers") {
  CHECK(kvc::ceil_div(7, 4) == 2);
  CHECK(kvc::ceil_div(8, 4) == 2);
  CHECK(kvc::round_up(9, 8) == 16);
  CHECK(kvc::round_up(16, 8) == 16);
  CHECK(kvc::min_of(3, -2) == -2);
  CHECK(kvc::max_of(3, -2) == 3);
}
