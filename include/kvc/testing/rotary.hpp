// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/rotary/concept.hpp"
#include "kvc/testing/rows.hpp"

namespace kvc::inline v0_1::testing {

/// Checks a rotary policy for heads of `HeadDim` channels. Empty if all properties hold, else one line per property
/// that does not. A policy that is not deferred has nothing to turn.
///
///   CHECK(kvc::testing::rotary_failures<my_rotary, 128>() == "");
template <class Policy, int HeadDim>
std::string rotary_failures() {
  static_assert(rotary::detail::check<Policy, HeadDim>());
  failures f("rotary " + std::string(Policy::name.c_str()) + ", head dim " + std::to_string(HeadDim));
  f.expect(Policy::name.length > 0, "the name is not empty", "");
  if constexpr (Policy::is_deferred) {
    constexpr int pairs = Policy::template pair_count<HeadDim>;
    f.expect(pairs >= 1 && 2 * pairs <= HeadDim, "pair_count is positive and fits into the head", pairs);

    // Angles of a position as a model would tabulate them: [pairs]{cos, sin}.
    const auto angles = [](int position) {
      std::vector<float> table(static_cast<std::size_t>(2 * pairs));
      for (int i = 0; i < pairs; ++i) {
        const double angle = position * std::pow(100.0, -static_cast<double>(i) / pairs);
        table[static_cast<std::size_t>(2 * i)] = static_cast<float>(std::cos(angle));
        table[static_cast<std::size_t>(2 * i + 1)] = static_cast<float>(std::sin(angle));
      }
      return table;
    };
    const auto turned = [&](const std::vector<float>& x, int position) {
      detail::marked_row row(x);
      Policy::template rotate<HeadDim>(row.data(), angles(position).data());
      f.expect(row.intact(), "rotate writes HeadDim channels and no more", "position ", position);
      return row.values();
    };

    random_source r(5);
    for (int t = 0; t < 5; ++t) {
      const std::vector<float> q = detail::random_row(r, HeadDim);
      const std::vector<float> k = detail::random_row(r, HeadDim);
      const double tolerance = 4 * detail::rounding(HeadDim, detail::norm(q) * detail::norm(k));
      f.expect(turned(k, 0) == k, "position 0 turns nothing", "row ", t);
      for (const int position : {1, 7, 100}) {
        const std::vector<float> y = turned(k, position);
        f.expect(y != k, "other positions turn something", "row ", t, ", position ", position);
        f.expect(close(detail::norm(y), detail::norm(k), detail::rounding(HeadDim, detail::norm(k))),
                 "the norm is kept", "row ", t, ", position ", position);
        const double first_score = detail::dot(turned(q, position), turned(k, position + 3));
        const double later_score = detail::dot(turned(q, position + 40), turned(k, position + 43));
        f.expect(close(first_score, later_score, tolerance), "a score depends on the difference of the positions alone",
                 "row ", t, ", positions ", position, " and ", position + 40, ": ", first_score, " and ", later_score);
      }
    }
  }
  return f.lines();
}

}  // namespace kvc::inline v0_1::testing
