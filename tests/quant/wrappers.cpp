// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <kvc/quant/quant.hpp>
#include <kvc/testing/testing.hpp>

namespace {

using namespace kvc::quant;
using kvc::testing::wrapper_failures;
using codec = integer<4, 32>;

template <int Width>
void check_wrappers() {
  kvc::testing::random_source r(Width);
  std::vector<float> means(Width);
  for (float& m : means) m = 3.0f * r.normal();
  CHECK(wrapper_failures<rotated<codec>, Width>() == "");
  CHECK(wrapper_failures<centred<codec>, Width>() == "");
  CHECK(wrapper_failures<centred<codec>, Width>(means) == "");
  CHECK(wrapper_failures<exact_ends<4, 16, codec>, Width>() == "");
}

/// Entry (i, j) of the matrix that a rotation applies, from unit vectors.
template <int Width>
std::vector<double> rotation_matrix() {
  std::vector<double> m(Width * Width);
  for (int j = 0; j < Width; ++j) {
    std::vector<float> x(Width, 0.0f);
    x[static_cast<std::size_t>(j)] = 1.0f;
    rotated<codec>::forward<Width>(x.data(), nullptr);
    for (int i = 0; i < Width; ++i)
      m[static_cast<std::size_t>(i * Width + j)] = static_cast<double>(x[static_cast<std::size_t>(i)]);
  }
  return m;
}

/// From docs/formats.md.
double documented_sign(int channel) {
  std::uint32_t h = static_cast<std::uint32_t>(channel + 1);
  h ^= h / 65536;
  h *= 2246822507u;
  h ^= h / 8192;
  h *= 3266489909u;
  h ^= h / 65536;
  return h >= 2147483648u ? -1.0 : 1.0;
}

/// The same from docs/formats.md: a sign per channel, then (-1)^popcount(i & j) / sqrt(block) within a block.
template <int Width>
std::vector<double> documented_matrix(int block) {
  std::vector<double> m(Width * Width, 0.0);
  for (int i = 0; i < Width; ++i) {
    for (int j = 0; j < Width; ++j) {
      if (i / block != j / block) continue;
      const double sign = documented_sign(j);
      const double entry =
          __builtin_popcount(static_cast<unsigned>(i % block) & static_cast<unsigned>(j % block)) % 2 == 0 ? 1.0 : -1.0;
      m[static_cast<std::size_t>(i * Width + j)] = sign * entry / std::sqrt(static_cast<double>(block));
    }
  }
  return m;
}

template <int Width>
void check_rotation(int block) {
  CAPTURE(Width);
  CHECK(rotated<codec>::block<Width> == block);
  const std::vector<double> m = rotation_matrix<Width>();
  const std::vector<double> expected = documented_matrix<Width>(block);
  int wrong = 0, not_orthonormal = 0;
  for (std::size_t i = 0; i < m.size(); ++i) wrong += std::fabs(m[i] - expected[i]) < 1e-6 ? 0 : 1;
  for (int a = 0; a < Width; ++a) {
    for (int b = 0; b < Width; ++b) {
      double product = 0;
      for (int j = 0; j < Width; ++j)
        product += m[static_cast<std::size_t>(a * Width + j)] * m[static_cast<std::size_t>(b * Width + j)];
      not_orthonormal += std::fabs(product - (a == b ? 1.0 : 0.0)) < 1e-5 ? 0 : 1;
    }
  }
  CHECK(wrong == 0);
  CHECK(not_orthonormal == 0);
}

}  // namespace

TEST_CASE("the wrappers satisfy the suite for users' own") {
  check_wrappers<8>();
  check_wrappers<48>();
  check_wrappers<64>();
  check_wrappers<80>();
  check_wrappers<96>();
  check_wrappers<128>();
  check_wrappers<512>();
}

TEST_CASE("the rotation is orthonormal, and the one of the format page") {
  check_rotation<8>(8);
  check_rotation<48>(16);
  check_rotation<64>(64);
  check_rotation<80>(16);
  check_rotation<96>(32);
  check_rotation<128>(128);
}

TEST_CASE("the signs of the rotation do not change: they are part of the format") {
  std::string signs;
  for (int i = 0; i < 32; ++i) signs += hadamard_sign(i) < 0 ? '-' : '+';
  CHECK(signs == "++-+-+++---+---+-----+--+-+++-+-");
  for (int i = 0; i < 4096; ++i) CHECK(static_cast<double>(hadamard_sign(i)) == documented_sign(i));
}

TEST_CASE("the signs do not resemble a row of the Hadamard matrix: a constant row is spread") {
  const auto largest_share = [](auto block) {
    std::vector<float> x(block(), 1.0f);
    rotated<codec>::forward<block()>(x.data(), nullptr);
    float largest = 0;
    for (const float v : x) largest = std::fmax(largest, std::fabs(v));
    return largest / std::sqrt(static_cast<float>(block()));  // 1: all of it in one channel
  };
  CHECK(largest_share(std::integral_constant<int, 16>{}) <= 0.5f);
  CHECK(largest_share(std::integral_constant<int, 32>{}) <= 0.5f);
  CHECK(largest_share(std::integral_constant<int, 64>{}) < 0.32f);
  CHECK(largest_share(std::integral_constant<int, 128>{}) < 0.3f);
  CHECK(largest_share(std::integral_constant<int, 512>{}) < 0.15f);
}

TEST_CASE("a rotation spreads an outlier over its block") {
  std::vector<float> x(64, 0.0f);
  x[20] = 80.0f;
  rotated<codec>::forward<64>(x.data(), nullptr);
  for (const float v : x) CHECK(std::fabs(v) == doctest::Approx(10.0f));
}

TEST_CASE("wrappers stack, outermost first, and unwrap to their codec") {
  using stack = exact_ends<2, 8, centred<rotated<codec>>>;
  CHECK((std::is_same_v<innermost<stack>::type, codec>));
  CHECK((std::is_same_v<innermost<codec>::type, codec>));
  using rows = kvc::detail::wrappers<stack, 64>;
  kvc::testing::random_source r(9);
  std::vector<float> means(64), x(64), by_hand(64);
  for (std::size_t i = 0; i < 64; ++i) {
    means[i] = r.normal();
    x[i] = by_hand[i] = r.normal();
  }
  rows::forward(x.data(), means.data());
  for (std::size_t i = 0; i < 64; ++i) by_hand[i] -= means[i];
  rotated<codec>::forward<64>(by_hand.data(), nullptr);
  CHECK(x == by_hand);
  CHECK(kvc::detail::end_rows<stack>::first == 2);
  CHECK(kvc::detail::end_rows<stack>::last == 8);
}
