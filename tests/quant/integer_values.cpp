// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// The integer codecs on groups small enough to work out by hand, and on what is not an ordinary number.
#include <doctest/doctest.h>

#include <cmath>
#include <kvc/quant/integer.hpp>
#include <kvc/testing/failures.hpp>
#include <vector>

namespace {

using namespace kvc::quant;

template <class Codec, int Width>
struct encoded {
  std::vector<kvc::byte> codes = std::vector<kvc::byte>(Codec::template row_bytes<Width>);
  std::vector<kvc::byte> constants = std::vector<kvc::byte>(Codec::template group_bytes<Width>);
  std::vector<float> y = std::vector<float>(Width);
  explicit encoded(const std::vector<float>& x) {
    Codec::template encode<Width>(x.data(), 0, 1, codes.data(), constants.data());
    Codec::template decode<Width>(codes.data(), constants.data(), 0, 1, y.data());
  }
};

using row = std::vector<float>;
using bytes = std::vector<kvc::byte>;

}  // namespace

TEST_CASE("affine, 4 bit: [5.0 5.3 5.6 6.0] keeps its offset") {
  const encoded<integer<4, 4>, 4> e({5.0f, 5.3f, 5.6f, 6.0f});
  // 1 / 15 = 0x2c44.4.. in fp16, rounded up; 5.0 exactly. Codes 0, 4 (4.499), 9 (8.998), 15 (14.996).
  CHECK(e.constants == bytes{0x45, 0x2c, 0x00, 0x45});
  CHECK(e.codes == bytes{0x40, 0xf9});
  const float scale = 1093.0f / 16384;
  CHECK(e.y == row{5.0f, 5.0f + 4 * scale, 5.0f + 9 * scale, 5.0f + 15 * scale});

  // The published example, [5.0 5.2667 5.6 6.0], with fp32 constants: 1 / 15 = 0x3d888889, one step up. (5.3 would be a
  // tie between two levels.)
  const encoded<integer<4, 4, affine, per_token, scale_type::fp32>, 4> f({5.0f, 5.29f, 5.6f, 6.0f});
  CHECK(f.constants == bytes{0x8a, 0x88, 0x88, 0x3d, 0x00, 0x00, 0xa0, 0x40});
  const row expected{5.0f, 5.2666667f, 5.6f, 6.0f};
  for (std::size_t i = 0; i < 4; ++i) CHECK(f.y[i] == doctest::Approx(expected[i]).epsilon(1e-6));
}

TEST_CASE("affine, 2 bit: the offset rounds down and the scale up, so that the levels cover the group") {
  // 1.001 lies above the fp16 number 1 + 2^-10, the offset. A third of the range, 1.00067, lies below it: the scale.
  const encoded<integer<2, 4>, 4> e({1.001f, 4.003f, 2.4f, 2.6f});
  CHECK(e.constants == bytes{0x01, 0x3c, 0x01, 0x3c});
  CHECK(e.codes == bytes{0x9c});  // 0, 3, 1, 2 from the low end
}

TEST_CASE("symmetric, 8 bit: zero is exact and code 0 is unused") {
  const encoded<integer<8, 4, symmetric>, 4> e({127.0f, -127.0f, 0.0f, -3.0f});
  CHECK(e.constants == bytes{0x00, 0x3c});  // 1.0
  CHECK(e.codes == bytes{255, 1, 128, 125});
  CHECK(e.y == row{127.0f, -127.0f, 0.0f, -3.0f});
}

TEST_CASE("symmetric, 3 bit") {
  const encoded<integer<3, 8, symmetric>, 8> e({3.0f, -3.0f, 0.0f, 1.0f, -1.0f, 2.0f, 0.5f, -0.5f});
  CHECK(e.constants == bytes{0x00, 0x3c});
  // codes 7 1 4 5 3 6 4 4: the halves are ties and go to the even number of steps.
  CHECK(e.codes == bytes{0x0f, 0x3b, 0x93});
  CHECK(e.y == row{3.0f, -3.0f, 0.0f, 1.0f, -1.0f, 2.0f, 0.0f, 0.0f});
}

TEST_CASE("midrise, 2 bit: levels at odd multiples of half a step") {
  const encoded<integer<2, 4, midrise>, 4> e({3.0f, -3.0f, 0.5f, -1.9f});
  CHECK(e.constants == bytes{0x00, 0x3e});  // the largest magnitude is 2 steps: 1.5
  CHECK(e.codes == bytes{0x23});            // 3, 0, 2, 0
  CHECK(e.y == row{2.25f, -2.25f, 0.75f, -2.25f});
}

TEST_CASE("the last group of a row may be shorter, and a group longer than the row is one group") {
  using codec = integer<4, 32>;
  CHECK(codec::groups<80> == 3);
  CHECK(codec::group_bytes<80> == 12);
  CHECK(integer<4, 128>::groups<64> == 1);
  CHECK(integer<4>::groups<512> == 1);
  row x(80, 1.0f);
  for (std::size_t i = 64; i < 80; ++i) x[i] = static_cast<float>(i - 64);
  const encoded<codec, 80> e(x);
  CHECK(e.y == x);
  CHECK(e.constants == bytes{0, 0, 0, 0x3c, 0, 0, 0, 0x3c, 0, 0x3c, 0, 0});
}

TEST_CASE("all-equal and zero groups") {
  SUBCASE("affine: scale 0 where the offset holds the value exactly") {
    const encoded<integer<4, 8>, 8> e(row(8, -2.5f));
    CHECK(e.constants == bytes{0x00, 0x00, 0x00, 0xc1});
    CHECK(e.codes == bytes{0, 0, 0, 0});
    CHECK(e.y == row(8, -2.5f));
  }
  SUBCASE("affine: within half a step of an fp16 offset that cannot hold the value") {
    const encoded<integer<4, 8>, 8> e(row(8, 0.1f));
    for (const float y : e.y) CHECK(std::fabs(y - 0.1f) < 2e-6f);
  }
  SUBCASE("zeros stay zeros on every grid") {
    CHECK((encoded<integer<4, 8, affine>, 8>(row(8, 0.0f)).y == row(8, 0.0f)));
    CHECK((encoded<integer<4, 8, symmetric>, 8>(row(8, 0.0f)).y == row(8, 0.0f)));
    CHECK((encoded<integer<4, 8, midrise>, 8>(row(8, 0.0f)).y == row(8, 0.0f)));
    CHECK((encoded<integer<4, 8, midrise>, 8>(row(8, 0.0f)).constants == bytes{0, 0}));
  }
}

TEST_CASE("NaN and infinities make their whole group NaN, and leave the next group alone") {
  for (const float special : {std::nanf(""), HUGE_VALF, -HUGE_VALF}) {
    for (const std::size_t place : {0, 3, 7}) {
      row x{1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8};
      const encoded<integer<8, 8>, 16> affine_clean(x);
      const encoded<integer<8, 8, symmetric>, 16> symmetric_clean(x);
      const encoded<integer<8, 8, midrise, per_token, scale_type::fp32>, 16> midrise_clean(x);
      x[place] = special;
      const encoded<integer<8, 8>, 16> affine_row(x);
      const encoded<integer<8, 8, symmetric>, 16> symmetric_row(x);
      const encoded<integer<8, 8, midrise, per_token, scale_type::fp32>, 16> midrise_row(x);
      for (std::size_t i = 0; i < 8; ++i) {
        CHECK(affine_row.y[i] != affine_row.y[i]);
        CHECK(symmetric_row.y[i] != symmetric_row.y[i]);
        CHECK(midrise_row.y[i] != midrise_row.y[i]);
        CHECK(affine_row.y[8 + i] == affine_clean.y[8 + i]);
        CHECK(symmetric_row.y[8 + i] == symmetric_clean.y[8 + i]);
        CHECK(midrise_row.y[8 + i] == midrise_clean.y[8 + i]);
      }
    }
  }
}

TEST_CASE("beyond fp16: offset and scale saturate, and values clip to the levels that remain") {
  SUBCASE("offset") {
    const encoded<integer<4, 4>, 4> e({-70000.0f, -69000.0f, -65000.0f, -65504.0f});
    CHECK(e.constants[2] == 0xff);  // -65504
    CHECK(e.constants[3] == 0xfb);
    CHECK(e.y[0] == -65504.0f);
    CHECK(std::fabs(e.y[2] + 65000.0f) <= 17.0f);  // half of 504 / 15, the step from -65504 up
  }
  SUBCASE("offset above the group") {
    const row x{70000.0f, 70000.0f, 71000.0f, 70500.0f};
    const encoded<integer<4, 4>, 4> e(x);
    // Half of (71000 - 65504) / 15, the step from the largest offset up.
    for (std::size_t i = 0; i < 4; ++i) CHECK(std::fabs(e.y[i] - x[i]) <= 184.0f);
  }
  SUBCASE("scale") {
    const encoded<integer<2, 4, symmetric>, 4> e({1e6f, -1e6f, 0.0f, 65504.0f});
    CHECK(e.constants == bytes{0xff, 0x7b});
    CHECK(e.y == row{65504.0f, -65504.0f, 0.0f, 65504.0f});
  }
  SUBCASE("fp32 constants have room") {
    const encoded<integer<8, 4, symmetric, per_token, scale_type::fp32>, 4> e({1e30f, -1e30f, 0.0f, 5e29f});
    CHECK(e.y[0] == doctest::Approx(1e30).epsilon(1e-6));
    CHECK(e.y[2] == 0.0f);
  }
}

TEST_CASE("subnormal groups keep the order of their values") {
  using codec = integer<4, 4, affine, per_token, scale_type::fp32>;
  const encoded<codec, 4> e({0.0f, 1e-39f, 5e-38f, 1e-37f});
  CHECK(e.y[0] == 0.0f);
  CHECK(e.y[0] <= e.y[1]);
  CHECK(e.y[1] < e.y[2]);
  CHECK(e.y[2] < e.y[3]);
  CHECK(std::fabs(e.y[3] - 1e-37f) <= 5.9e-39f);  // half of the smallest normal number, the smallest scale
}

TEST_CASE("every element takes a nearest level") {
  // Codes are computed with an inverse scale: the chosen level is the nearest, or as near as fp32 can tell.
  using codec = integer<3, 64>;
  kvc::testing::random_source r(11);
  for (int n = 0; n < 200; ++n) {
    row x(64);
    for (float& v : x) v = 3.0f * r.normal();
    const encoded<codec, 64> e(x);
    const kvc::quant::grid_constants k = codec::constants_of::load(e.constants.data());
    for (std::size_t i = 0; i < 64; ++i) {
      double nearest = HUGE_VAL;
      for (int c = 0; c < 8; ++c) {
        nearest =
            std::fmin(nearest, std::fabs(static_cast<double>(x[i]) - (c * static_cast<double>(k.scale) + k.offset)));
      }
      CHECK(std::fabs(static_cast<double>(x[i]) - e.y[i]) <= nearest + 1e-6);
    }
  }
}
