// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "codec_checks.hpp"

namespace {

using namespace kvc::quant;
using codec_checks::check_one;

}  // namespace

// The runs add up to the width, so each codec has its own widths.
TEST_CASE("graded rows against the independent decoder") {
  check_one<graded<run<8, 4>>, 8>();
  check_one<graded<run<8, 8>, run<8, 2>>, 16>();
  check_one<graded<run<16, 6>, run<16, 4>, run<16, 2>>, 48>();
  check_one<graded<run<8, 8>, run<24, 5>, run<32, 3>>, 64>();
  check_one<graded<run<16, 8, affine>, run<64, 4, affine>>, 80>();
  check_one<graded<run<32, 6, symmetric>, run<32, 4, symmetric>, run<32, 3, symmetric>>, 96>();
  check_one<graded<run<8, 8, symmetric, scale_type::fp32>, run<40, 4>, run<48, 3, affine>, run<32, 2>>, 128>();
  check_one<graded<run<32, 8>, run<96, 6>, run<128, 4>, run<128, 3>, run<128, 2>>, 512>();
}

TEST_CASE("a run is the integer codec of its channels: codes and constants lie one after another") {
  using codec = graded<run<8, 4>, run<16, 2, affine>>;
  CHECK(codec::row_bytes<24> == 4 + 4);
  CHECK(codec::group_bytes<24> == 2 + 4);
  std::vector<float> x(24);
  for (std::size_t i = 0; i < 24; ++i) x[i] = static_cast<float>(i) - 3.5f;
  std::vector<kvc::byte> codes(8), constants(6), first_codes(4), first_constants(2), second_codes(4),
      second_constants(4);
  codec::encode<24>(x.data(), 0, 1, codes.data(), constants.data());
  integer<4, whole_segment, midrise>::encode<8>(x.data(), 0, 1, first_codes.data(), first_constants.data());
  integer<2, whole_segment, affine>::encode<16>(x.data() + 8, 0, 1, second_codes.data(), second_constants.data());
  first_codes.insert(first_codes.end(), second_codes.begin(), second_codes.end());
  first_constants.insert(first_constants.end(), second_constants.begin(), second_constants.end());
  CHECK(codes == first_codes);
  CHECK(constants == first_constants);
}

TEST_CASE("a NaN spoils its own run alone") {
  using codec = graded<run<8, 4>, run<16, 2>>;
  std::vector<float> x(24, 1.0f), y(24);
  x[2] = std::nanf("");
  std::vector<kvc::byte> codes(codec::row_bytes<24>), constants(codec::group_bytes<24>);
  codec::encode<24>(x.data(), 0, 1, codes.data(), constants.data());
  codec::decode<24>(codes.data(), constants.data(), 0, 1, y.data());
  for (std::size_t i = 0; i < 8; ++i) CHECK(y[i] != y[i]);
  for (std::size_t i = 8; i < 24; ++i) CHECK(std::fabs(y[i] - 1.0f) <= 0.2501f);  // half a step of four over [-1, 1]
}

TEST_CASE("tapered rows against the independent decoder") {
  check_one<tapered<run<8, 4>>, 8>();
  check_one<tapered<run<8, 8>, run<8, 2>>, 16>();
  check_one<tapered<run<16, 6>, run<16, 4>, run<16, 2>>, 48>();
  check_one<tapered<run<8, 8>, run<24, 5>, run<32, 3>>, 64>();
  check_one<tapered<run<16, 7>, run<16, 5>, run<64, 3>>, 96>();
  check_one<tapered<run<32, 8>, run<96, 6>, run<128, 4>, run<128, 3>, run<128, 2>>, 512>();
}

TEST_CASE("tapered, by hand: one scale for all runs, the smallest whose steps reach every channel") {
  using codec = tapered<run<8, 4>, run<8, 2>>;
  CHECK(codec::row_bytes<16> == 4 + 2);
  CHECK(codec::group_bytes<16> == 2);
  // 8 steps reach 4.0 and 2 steps reach 1.0 with the scale 0.5 (0x3800).
  std::vector<float> x{4, -4, 0.1f, -0.1f, 1, 2, 3, -3, 1, -1, 0.4f, -0.4f, 0, 0.6f, -0.6f, 0};
  std::vector<float> y(16);
  std::vector<kvc::byte> codes(6), constants(2);
  codec::encode<16>(x.data(), 0, 1, codes.data(), constants.data());
  CHECK(constants == std::vector<kvc::byte>{0x00, 0x38});
  CHECK(codes == std::vector<kvc::byte>{0x0f, 0x78, 0xca, 0x2e, 0x63, 0x8e});
  codec::decode<16>(codes.data(), constants.data(), 0, 1, y.data());
  CHECK(y[0] == 3.75f);
  CHECK(y[1] == -3.75f);
  CHECK(y[8] == 0.75f);
  CHECK(y[9] == -0.75f);
  x[3] = std::nanf("");
  codec::encode<16>(x.data(), 0, 1, codes.data(), constants.data());
  codec::decode<16>(codes.data(), constants.data(), 0, 1, y.data());
  for (const float v : y) CHECK(v != v);  // the whole token
}
