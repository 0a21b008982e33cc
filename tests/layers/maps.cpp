// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <kvc/layers/layers.hpp>
#include <kvc/testing/placement.hpp>
#include <vector>

namespace {

using namespace kvc::layers;

template <class Policy>
std::vector<int> leaders(int layers, const kvc::int32* table = nullptr) {
  std::vector<int> all;
  for (int l = 0; l < layers; ++l) all.push_back(Policy::leader(l, table));
  return all;
}

using list = std::vector<int>;

}  // namespace

TEST_CASE("the maps satisfy the suite for users' own") {
  using kvc::testing::layers_failures;
  for (const int layers : {1, 2, 3, 7, 32, 61}) {
    CHECK(layers_failures<own>(layers) == "");
    CHECK(layers_failures<shared<1>>(layers) == "");
    CHECK(layers_failures<shared<2>>(layers) == "");
    CHECK(layers_failures<shared<3>>(layers) == "");
    CHECK(layers_failures<shared<100>>(layers) == "");
  }
  CHECK(layers_failures<mapped<0, 0, 2, 0>>(4) == "");
  const kvc::int32 table[] = {0, 1, 1, 0, 4};
  CHECK(layers_failures<mapped<kvc::dynamic>>(5, table) == "");
}

TEST_CASE("own, shared and mapped name these leaders") {
  CHECK(leaders<own>(4) == list{0, 1, 2, 3});
  CHECK(leaders<shared<1>>(3) == list{0, 1, 2});
  CHECK(leaders<shared<2>>(5) == list{0, 0, 2, 2, 4});
  CHECK(leaders<shared<3>>(7) == list{0, 0, 0, 3, 3, 3, 6});
  CHECK(leaders<mapped<0, 1, 0, 1>>(4) == list{0, 1, 0, 1});
  const kvc::int32 table[] = {0, 0, 2, 2};
  CHECK(leaders<mapped<kvc::dynamic>>(4, table) == list{0, 0, 2, 2});
}

TEST_CASE("slots are numbered in the order of their leaders") {
  CHECK(leaders_before<shared<2>>(0, nullptr) == 0);
  CHECK(leaders_before<shared<2>>(4, nullptr) == 2);
  CHECK(leaders_before<shared<2>>(5, nullptr) == 3);
  using map = mapped<0, 0, 2, 0, 4>;
  CHECK(leaders_before<map>(2, nullptr) == 1);
  CHECK(leaders_before<map>(4, nullptr) == 2);
  CHECK(leaders_before<map>(5, nullptr) == 3);
}

TEST_CASE("a map at run time is refused where a layer reads a later one or one that does not write") {
  using map = mapped<kvc::dynamic>;
  const auto valid = [](const std::vector<kvc::int32>& table) {
    return map_is_valid<map>(static_cast<int>(table.size()), table.data());
  };
  CHECK(valid({0}));
  CHECK(valid({0, 0, 2, 2}));
  CHECK(valid({0, 1, 1, 0}));
  CHECK_FALSE(valid({1, 1}));        // layer 0 reads a later layer
  CHECK_FALSE(valid({0, 0, 1}));     // layer 1 does not write
  CHECK_FALSE(valid({0, -1}));       // no such layer
  CHECK_FALSE(valid({0, 1, 2, 7}));  // no such layer
  CHECK_FALSE(valid({0, 2, 2}));
}

TEST_CASE("names stand in cache files") {
  CHECK(std::string(own::name.c_str()) == "own");
  CHECK(std::string(shared<2>::name.c_str()) == "shared<2>");
  CHECK(std::string(mapped<0, 0, 2>::name.c_str()) == "mapped<0,0,2>");
  CHECK(std::string(mapped<kvc::dynamic>::name.c_str()) == "mapped<dynamic>");
}
