// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <kvc/heads/heads.hpp>
#include <kvc/testing/placement.hpp>

using namespace kvc::heads;

TEST_CASE("the maps satisfy the suite for users' own") {
  using kvc::testing::heads_failures;
  CHECK(heads_failures<all>() == "");
  CHECK(heads_failures<single>() == "");
  CHECK(heads_failures<latent>() == "");
  CHECK(heads_failures<grouped<1>>() == "");
  CHECK(heads_failures<grouped<3>>() == "");
  CHECK(heads_failures<grouped<8>>() == "");
}

TEST_CASE("rows that a slot stores per token") {
  CHECK(all::stored(9, 3) == 3);
  CHECK(all::stored(32, 32) == 32);
  CHECK(all::stored(9, 2) == 0);
  CHECK(single::stored(32, 8) == 1);
  CHECK(latent::stored(128, 128) == 1);
  CHECK(grouped<3>::stored(9, 3) == 3);    // as many as the model has
  CHECK(grouped<9>::stored(9, 3) == 1);    // merged
  CHECK(grouped<4>::stored(32, 32) == 8);  // four KV heads in a row
  CHECK(grouped<4>::stored(32, 16) == 8);  // two
}

TEST_CASE("groups that do not divide are refused with 0") {
  CHECK(grouped<2>::stored(9, 3) == 0);   // 2 does not divide 9
  CHECK(grouped<2>::stored(12, 3) == 0);  // six rows of three heads
  CHECK(grouped<2>::stored(12, 4) == 0);
  CHECK(grouped<64>::stored(32, 8) == 0);
  CHECK(grouped<1>::stored(32, 8) == 0);  // more rows than heads
}
