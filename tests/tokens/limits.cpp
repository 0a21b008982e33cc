// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <kvc/testing/placement.hpp>
#include <kvc/tokens/tokens.hpp>

TEST_CASE("the tokens policies satisfy the suite for users' own, and say what they keep") {
  using namespace kvc::tokens;
  CHECK(kvc::testing::tokens_failures<all>() == "");
  CHECK(kvc::testing::tokens_failures<sinks_and_window<4, 1024>>() == "");
  CHECK(kvc::testing::tokens_failures<sinks_and_window<0, 1>>() == "");
  CHECK(all::window == 0);
  CHECK(sinks_and_window<4, 1024>::sinks == 4);
  CHECK(sinks_and_window<4, 1024>::window == 1024);
  CHECK(std::string(sinks_and_window<4, 1024>::name.c_str()) == "sinks_and_window<4,1024>");
}
