// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "codec_checks.hpp"

namespace {

template <class Codec, int Width = 64>
struct encoded {
  std::vector<kvc::byte> codes = std::vector<kvc::byte>(Width);
  std::vector<kvc::byte> constants = std::vector<kvc::byte>(64);
  std::vector<float> y = std::vector<float>(Width);
  explicit encoded(const std::vector<float>& x) {
    Codec::template encode<Width>(x.data(), 0, 1, codes.data(), constants.data());
    Codec::template decode<Width>(codes.data(), constants.data(), 0, 1, y.data());
  }
};

}  // namespace

TEST_CASE("fp8 rows with and without scales, against the independent decoder") {
  codec_checks::check_all(policy_lists::fp8{});
}

TEST_CASE("bytes of a row, written by hand") {
  std::vector<float> x(64, 0.0f);
  x[0] = 1.0f;
  x[1] = -448.0f;
  x[2] = 0.001953125f;  // the smallest subnormal
  x[3] = 17.0f;         // a tie between 16 and 18
  x[4] = 19.0f;         // a tie between 18 and 20
  const encoded<kvc::quant::fp8_e4m3<>> plain(x);
  CHECK(std::vector<kvc::byte>(plain.codes.begin(), plain.codes.begin() + 6) ==
        std::vector<kvc::byte>{0x38, 0xfe, 0x01, 0x58, 0x5a, 0x00});
  // The largest magnitude of a group becomes 448: here 896, so the scale is 2 (0x4000 in fp16).
  x[1] = -896.0f;
  const encoded<kvc::quant::fp8_e4m3<32>> scaled(x);
  CHECK(scaled.constants[0] == 0x00);
  CHECK(scaled.constants[1] == 0x40);
  CHECK(scaled.codes[0] == 0x30);
  CHECK(scaled.codes[1] == 0xfe);
  CHECK(scaled.constants[2] == 0x00);  // the second group is zero and has scale 0
  CHECK(scaled.constants[3] == 0x00);
}

TEST_CASE("without a scale NaN and infinities become NaN alone, and large values saturate") {
  std::vector<float> x(64, 2.0f);
  x[0] = std::nanf("");
  x[1] = HUGE_VALF;
  x[2] = -HUGE_VALF;
  x[3] = 1e9f;
  x[4] = -500.0f;
  const encoded<kvc::quant::fp8_e4m3<>> e(x);
  for (const std::size_t i : {0, 1, 2}) CHECK(e.y[i] != e.y[i]);
  CHECK(e.y[3] == 448.0f);
  CHECK(e.y[4] == -448.0f);
  CHECK(e.y[5] == 2.0f);
}

TEST_CASE("with a scale NaN and infinities spoil their own group alone") {
  for (const float special : {std::nanf(""), HUGE_VALF, -HUGE_VALF}) {
    std::vector<float> x(64, 2.0f);
    x[33] = special;
    const encoded<kvc::quant::fp8_e4m3<32>> e(x);
    for (std::size_t i = 0; i < 64; ++i) {
      CAPTURE(i);
      if (i < 32) CHECK(e.y[i] == doctest::Approx(2.0f).epsilon(0.0625));
      if (i >= 32) CHECK(e.y[i] != e.y[i]);
    }
  }
}

TEST_CASE("subnormal rows with an fp32 scale stay finite: the scale is never below the smallest normal number") {
  const encoded<kvc::quant::fp8_e4m3<32, kvc::quant::scale_type::fp32>> e(std::vector<float>(64, 1e-40f));
  for (const float y : e.y) CHECK(std::fabs(y - 1e-40f) <= 1e-41f);
  CHECK(codec_reference::fp32_number(codec_reference::little_endian(e.constants.data(), 4)) == 0x1p-126);
}
