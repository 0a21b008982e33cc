// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// link: kvc::calibrate
#include "kvc/calibrate/layer_similarity.hpp"

#include <doctest/doctest.h>

#include <vector>

using namespace kvc;

TEST_SUITE("calibrate") {
  TEST_CASE("pairs of layers come with the most different first") {
    std::vector<Eigen::MatrixXf> rows(3, Eigen::MatrixXf::Zero(5, 4));
    rows[1].setConstant(1);  // distance 2 from layer 0
    rows[2].setConstant(3);  // 6 from layer 0, 4 from layer 1
    const auto pairs = calibrate::layers_by_distance(rows);
    REQUIRE(pairs.size() == 3);
    CHECK(pairs[0].shallow == 0);
    CHECK(pairs[0].deep == 2);
    CHECK(pairs[0].distance == doctest::Approx(6));
    CHECK(pairs[1].shallow == 1);
    CHECK(pairs[2].distance == doctest::Approx(2));
  }

  TEST_CASE("maps are flat, ask before they share, and stop at the count") {
    const std::vector<calibrate::layer_pair> pairs = {{2, 3, 9}, {0, 2, 8}, {1, 3, 7}, {0, 1, 6}};
    const auto all = [](const std::vector<int32>&) { return true; };
    // 3 reads 2, then 2 reads 0: 3 follows to 0, and the pair (1, 3) finds 3 taken.
    CHECK(calibrate::share_layers(pairs, 4, 3, all) == std::vector<int32>{0, 0, 0, 0});
    CHECK(calibrate::share_layers(pairs, 4, 2, all) == std::vector<int32>{0, 1, 0, 0});
    CHECK(calibrate::share_layers(pairs, 4, 0, all) == std::vector<int32>{0, 1, 2, 3});
    const auto never_two = [](const std::vector<int32>& leaders) { return leaders[2] == 2; };
    CHECK(calibrate::share_layers(pairs, 4, 2, never_two) == std::vector<int32>{0, 0, 2, 2});
  }
}
