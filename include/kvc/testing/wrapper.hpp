// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cache/transform.hpp"
#include "kvc/testing/rows.hpp"

namespace kvc::inline v0_1::testing {

/// Checks a wrapper (a quant policy with an inner codec: quant::rotated, quant::centred, ...) for rows of `Width`
/// channels, with its own constants as given, or as initialise() leaves them. Empty if all properties hold, else one
/// line per property that does not.
///
///   CHECK(kvc::testing::wrapper_failures<my_wrapper<kvc::quant::integer<4, 32>>, 128>() == "");
template <class Wrapper, int Width>
std::string wrapper_failures(std::span<const float> constants = {}) {
  static_assert(quant::is_wrapper<Wrapper>, "kvc: a wrapper must define 'using inner_codec = Codec'");
  static_assert(quant::detail::check_wrapper<Wrapper, Width>());
  failures f("wrapper " + std::string(Wrapper::name.c_str()) + ", width " + std::to_string(Width));
  f.expect(Wrapper::name.length > 0, "the name is not empty", "");
  using rows = kvc::detail::wrappers<Wrapper, Width>;
  if constexpr (rows::has_rows) {
    constexpr int own = rows::own;
    detail::marked_row initial(own);
    Wrapper::template initialise<Width>(initial.data());
    f.expect(initial.intact(), "initialise writes own_floats constants and no more", own);
    std::vector<float> values = initial.values();
    if (!constants.empty()) {
      f.expect(constants.size() == values.size(), "own_floats constants are given", static_cast<int>(constants.size()),
               " instead of ", own);
      if (constants.size() == values.size()) values.assign(constants.begin(), constants.end());
    }
    const float* c = values.data();

    random_source r(3);
    constexpr int tokens = 5;
    double constant_of_first = 0;
    std::vector<float> query = detail::random_row(r, Width);
    std::vector<float> weighted_rows(Width, 0.0f), weighted_stored(Width, 0.0f);
    float mass = 0;
    for (int t = 0; t < tokens; ++t) {
      const std::vector<float> x = detail::random_row(r, Width);
      const double size = detail::norm(x) + detail::norm(values);

      detail::marked_row stored(x);
      Wrapper::template forward<Width>(stored.data(), c);
      f.expect(stored.intact(), "forward writes its row and no more", "row ", t);
      const std::vector<float> z = stored.values();
      Wrapper::template inverse<Width>(stored.data(), c);
      f.expect(stored.intact(), "inverse writes its row and no more", "row ", t);
      const int at = detail::first_difference(x, stored.values(), detail::rounding(Width, size));
      f.expect(at < 0, "inverse(forward(x)) is x", "row ", t, ", channel ", at);

      detail::marked_row folded(query);
      const double constant = static_cast<double>(Wrapper::template fold_query<Width>(folded.data(), c));
      f.expect(folded.intact(), "fold_query writes its row and no more", "row ", t);
      const double direct = detail::dot(query, x);
      const double through = detail::dot(folded.values(), z) + constant;
      f.expect(close(direct, through, detail::rounding(Width, detail::norm(query) * size)),
               "<q, x> is <fold_query(q), forward(x)> + constant", "row ", t, ": ", direct, " and ", through);
      if (t == 0) constant_of_first = constant;
      f.expect(constant == constant_of_first, "the constant of fold_query is the same for all rows", "row ", t);

      const float weight = t == 0 ? -0.5f : 0.25f + 0.5f * static_cast<float>(t);
      mass += weight;
      for (std::size_t i = 0; i < x.size(); ++i) {
        weighted_rows[i] += weight * x[i];
        weighted_stored[i] += weight * z[i];
      }
    }
    detail::marked_row output(weighted_stored);
    Wrapper::template unfold_output<Width>(output.data(), mass, c);
    f.expect(output.intact(), "unfold_output writes its row and no more", "");
    const double size = tokens * 3.0 * (std::sqrt(static_cast<double>(Width)) + detail::norm(values));
    const int at = detail::first_difference(weighted_rows, output.values(), detail::rounding(Width, size));
    f.expect(at < 0, "unfold_output of a weighted sum of stored rows is the sum of the rows", "channel ", at);
  }
  if constexpr (requires { Wrapper::first_rows; }) {
    f.expect(Wrapper::first_rows >= 0, "first_rows is not negative", Wrapper::first_rows);
  }
  if constexpr (requires { Wrapper::last_rows; }) {
    f.expect(Wrapper::last_rows >= 0, "last_rows is not negative", Wrapper::last_rows);
  }
  return f.lines();
}

}  // namespace kvc::inline v0_1::testing
