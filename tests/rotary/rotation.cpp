// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <kvc/rotary/rotary.hpp>
#include <kvc/testing/rotary.hpp>

using namespace kvc::rotary;

TEST_CASE("the rotary policies satisfy the suite for users' own") {
  using kvc::testing::rotary_failures;
  CHECK(rotary_failures<applied, 64>() == "");
  CHECK(rotary_failures<deferred<>, 64>() == "");
  CHECK(rotary_failures<deferred<>, 80>() == "");
  CHECK(rotary_failures<deferred<pairs::half_split>, 64>() == "");
  CHECK(rotary_failures<deferred<pairs::half_split>, 128>() == "");
  CHECK(rotary_failures<deferred<pairs::interleaved, 32>, 80>() == "");
  CHECK(rotary_failures<deferred<pairs::half_split, 32>, 80>() == "");
}

TEST_CASE("a quarter turn, by hand") {
  const float quarter[] = {0, 1, 0, 1};  // {cos, sin} of both pairs
  float a[] = {1, 2, 3, 4};
  deferred<pairs::interleaved>::rotate<4>(a, quarter);
  CHECK(std::vector<float>(a, a + 4) == std::vector<float>{-2, 1, -4, 3});
  float b[] = {1, 2, 3, 4};
  deferred<pairs::half_split>::rotate<4>(b, quarter);
  CHECK(std::vector<float>(b, b + 4) == std::vector<float>{-3, -4, 1, 2});
}

TEST_CASE("only the leading channels turn where that is asked for") {
  const float quarter[] = {0, 1};
  float a[] = {1, 2, 3, 4};
  deferred<pairs::interleaved, 2>::rotate<4>(a, quarter);
  CHECK(std::vector<float>(a, a + 4) == std::vector<float>{-2, 1, 3, 4});
  float b[] = {1, 2, 3, 4};
  deferred<pairs::half_split, 2>::rotate<4>(b, quarter);
  CHECK(std::vector<float>(b, b + 4) == std::vector<float>{-2, 1, 3, 4});
}

TEST_CASE("each pair turns by its own angle") {
  const float angles[] = {1, 0, 0, 1};
  float a[] = {1, 2, 3, 4};
  deferred<>::rotate<4>(a, angles);
  CHECK(std::vector<float>(a, a + 4) == std::vector<float>{1, 2, -4, 3});
}
