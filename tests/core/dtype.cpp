// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Conversions against exact double arithmetic: every pattern, every midpoint between neighbours, and random numbers.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <kvc/core/dtype.hpp>
#include <kvc/testing/failures.hpp>
#include <vector>

#include "codec_reference.hpp"

namespace {

using kvc::uint32;

/// The numbers of a format from the smallest to the largest finite one, by the independent decoder, with their
/// patterns.
struct number_line {
  std::vector<double> values;
  std::vector<uint32> patterns;
};

template <class F>
number_line positive_numbers(uint32 infinity_pattern, const F& decode) {
  number_line line;
  for (uint32 p = 0; p < infinity_pattern; ++p) {
    line.values.push_back(decode(p));
    line.patterns.push_back(p);
  }
  return line;
}

/// Nearest number of the line to a positive x, ties to the even pattern; beyond the largest: that one.
uint32 nearest(const number_line& line, double x) {
  const auto above = std::lower_bound(line.values.begin(), line.values.end(), x) - line.values.begin();
  if (above == 0) return line.patterns[0];
  if (above == static_cast<std::ptrdiff_t>(line.values.size())) return line.patterns.back();
  const std::size_t high = static_cast<std::size_t>(above);
  const double to_high = line.values[high] - x;  // exact: neighbours are close, or x is of fp32
  const double to_low = x - line.values[high - 1];
  if (to_high != to_low) return line.patterns[to_high < to_low ? high : high - 1];
  return line.patterns[high] % 2 == 0 ? line.patterns[high] : line.patterns[high - 1];
}

/// Counts where T::from differs from exact rounding: at every number, midway between neighbours and one fp32 step to
/// either side of that, and at random numbers of all sizes.
template <class T>
int wrong_roundings(const number_line& line, uint32 sign_bit) {
  int wrong = 0;
  const auto check = [&](float x) {
    const uint32 expected = nearest(line, std::fabs(static_cast<double>(x)));
    if (T::from(std::fabs(x)).bits != expected) ++wrong;
    if (T::from(-std::fabs(x)).bits != (expected | sign_bit)) ++wrong;
  };
  for (std::size_t i = 0; i + 1 < line.values.size(); ++i) {
    const float middle = static_cast<float>((line.values[i] + line.values[i + 1]) / 2);
    check(static_cast<float>(line.values[i]));
    check(middle);
    check(std::nextafter(middle, 0.0f));
    check(std::nextafter(middle, HUGE_VALF));
  }
  kvc::testing::random_source r(1);
  const float largest = static_cast<float>(line.values.back());
  for (int i = 0; i < 300000; ++i) {
    const float x = kvc::bits_float(static_cast<uint32>(r.bits()));
    if (std::fabs(x) <= largest) check(x);
  }
  return wrong;
}

}  // namespace

TEST_CASE("every pattern of fp16, bf16 and e4m3 has its value and comes back") {
  int wrong = 0;
  const auto check = [&wrong](double value, double expected, uint32 back, uint32 pattern) {
    if (expected != expected) {
      wrong += value != value ? 0 : 1;  // any NaN will do
    } else {
      wrong += value == expected && std::signbit(value) == std::signbit(expected) && back == pattern ? 0 : 1;
    }
  };
  for (uint32 p = 0; p < 65536; ++p) {
    const kvc::fp16 h{static_cast<kvc::uint16>(p)};
    check(static_cast<double>(h.value()), codec_reference::fp16_number(p), kvc::fp16::from(h.value()).bits, p);
    const kvc::bf16 b{static_cast<kvc::uint16>(p)};
    check(static_cast<double>(b.value()), codec_reference::bf16_number(p), kvc::bf16::from(b.value()).bits, p);
  }
  for (uint32 p = 0; p < 256; ++p) {
    const kvc::fp8_e4m3_value e{static_cast<kvc::uint8>(p)};
    check(static_cast<double>(e.value()), codec_reference::e4m3_number(p), kvc::fp8_e4m3_value::from(e.value()).bits,
          p);
  }
  CHECK(wrong == 0);
}

TEST_CASE("rounding is to nearest, ties to even, subnormals included") {
  CHECK(wrong_roundings<kvc::fp16>(positive_numbers(0x7c00, codec_reference::fp16_number), 0x8000) == 0);
  CHECK(wrong_roundings<kvc::bf16>(positive_numbers(0x7f80, codec_reference::bf16_number), 0x8000) == 0);
  CHECK(wrong_roundings<kvc::fp8_e4m3_value>(positive_numbers(0x7f, codec_reference::e4m3_number), 0x80) == 0);
}

TEST_CASE("what is beyond the range, infinite or NaN") {
  const float nan = kvc::quiet_nan();
  const float infinity = kvc::infinity();
  CHECK(kvc::fp16::from(65520.0f).bits == 0x7bff);  // IEEE would round it to infinity
  CHECK(kvc::fp16::from(1e30f).bits == 0x7bff);
  CHECK(kvc::fp16::from(-1e30f).bits == 0xfbff);
  CHECK(kvc::fp16::from(infinity).bits == 0x7c00);
  CHECK(kvc::fp16::from(-infinity).bits == 0xfc00);
  CHECK(kvc::fp16::from(nan).value() != kvc::fp16::from(nan).value());
  CHECK(kvc::bf16::from(3.4e38f).bits == 0x7f80);
  CHECK(kvc::bf16::from(-infinity).bits == 0xff80);
  CHECK(kvc::bf16::from(nan).value() != kvc::bf16::from(nan).value());
  // A NaN whose payload is in the low bits alone must not become an infinity.
  for (const uint32 payload : {0x7f800001u, 0xff800001u, 0x7fffffffu, 0x7f801fffu}) {
    const float quiet = kvc::bits_float(payload);
    CHECK(std::isnan(kvc::bf16::from(quiet).value()));
    CHECK(std::isnan(kvc::fp16::from(quiet).value()));
    CHECK(std::isnan(kvc::fp8_e4m3_value::from(quiet).value()));
    // One NaN, whatever arithmetic left of sign and payload.
    CHECK(kvc::bf16::from(quiet).bits == 0x7fc0u);
    CHECK(kvc::bf16_pair(quiet, -2.0f) == 0xc0007fc0u);
    CHECK(kvc::bf16_pair(1.0f, quiet) == 0x7fc03f80u);
    CHECK(kvc::fp16::from(quiet).bits == 0x7e00u);
    CHECK(kvc::fp8_e4m3_value::from(quiet).bits == 0x7fu);
  }
  CHECK(kvc::fp8_e4m3_value::from(464.0f).bits == 0x7e);
  CHECK(kvc::fp8_e4m3_value::from(1e30f).bits == 0x7e);
  CHECK(kvc::fp8_e4m3_value::from(-449.0f).bits == 0xfe);
  CHECK(std::isnan(kvc::fp8_e4m3_value::from(infinity).value()));
  CHECK(std::isnan(kvc::fp8_e4m3_value::from(-infinity).value()));
}

TEST_CASE("directed fp16 rounding: the nearest number on the wanted side") {
  const number_line line = positive_numbers(0x7c00, codec_reference::fp16_number);
  int wrong = 0;
  const auto check = [&](float x) {
    const auto at = std::lower_bound(line.values.begin(), line.values.end(), std::fabs(static_cast<double>(x)));
    const double outer = at == line.values.end() ? 65504.0 : *at;
    const double inner = outer == std::fabs(static_cast<double>(x)) ? outer
                         : at == line.values.end()                  ? 65504.0
                                                                    : *(at - 1);
    const double above = x < 0 ? -inner : outer;
    const double below = x < 0 ? -outer : inner;
    if (static_cast<double>(kvc::fp16_above(x).value()) != above) ++wrong;
    if (static_cast<double>(kvc::fp16_below(x).value()) != below) ++wrong;
  };
  for (const double v : line.values) {
    for (const float x : {static_cast<float>(v), std::nextafter(static_cast<float>(v), HUGE_VALF)}) {
      check(x);
      check(-x);
    }
    if (v > 0) {
      check(std::nextafter(static_cast<float>(v), 0.0f));
      check(-std::nextafter(static_cast<float>(v), 0.0f));
    }
  }
  kvc::testing::random_source r(2);
  for (int i = 0; i < 300000; ++i) {
    const float x = kvc::bits_float(static_cast<uint32>(r.bits()));
    if (std::isfinite(x)) check(x);
  }
  CHECK(wrong == 0);
}

TEST_CASE("elements as users write them convert both ways") {
  float x = 0;
  kvc::bf16 b{};
  kvc::fp16 h{};
  kvc::from_float(1.5f, x);
  kvc::from_float(1.5f, b);
  kvc::from_float(1.5f, h);
  CHECK(kvc::to_float(x) == 1.5f);
  CHECK(kvc::to_float(b) == 1.5f);
  CHECK(kvc::to_float(h) == 1.5f);
  static_assert(sizeof(kvc::bf16) == 2 && sizeof(kvc::fp16) == 2 && sizeof(kvc::fp8_e4m3_value) == 1);
}
