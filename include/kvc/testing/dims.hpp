// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/dims/concept.hpp"
#include "kvc/testing/rows.hpp"

namespace kvc::inline v0_1::testing {

/// Checks a dims policy for heads of `HeadDim` channels, with its constants as given, or as initialise() leaves them.
/// Empty if all properties hold, else one line per property that does not. Given constants must describe a projection:
/// what was expanded is compressed to the same stored row.
///
///   CHECK(kvc::testing::dims_failures<my_dims, 128>() == "");
template <class Dims, int HeadDim>
std::string dims_failures(std::span<const float> constants = {}) {
  failures f("dims " + std::string(Dims::name.c_str()) + ", head dim " + std::to_string(HeadDim));
  f.expect(Dims::name.length > 0, "the name is not empty", "");
  if constexpr (dims::is_latent<Dims>) {
    f.expect(Dims::rank > 0 && Dims::rotary > 0, "rank and rotary are positive", Dims::rank, ", ", Dims::rotary);
  } else {
    static_assert(dims::detail::check<Dims, HeadDim>());
    constexpr int width = Dims::template width<HeadDim>;
    constexpr int floats = Dims::template calibration_floats<HeadDim>;
    f.expect(width >= 1 && width <= HeadDim, "width is positive and not above the head dim", width);
    f.expect(floats >= 0, "calibration_floats is not negative", floats);
    if constexpr (width >= 1 && floats >= 0) {
      detail::marked_row initial(floats);
      Dims::template initialise<HeadDim>(initial.data());
      f.expect(initial.intact(), "initialise writes calibration_floats constants and no more", floats);
      std::vector<float> values = initial.values();
      if (!constants.empty()) {
        f.expect(constants.size() == values.size(), "calibration_floats constants are given",
                 static_cast<int>(constants.size()), " instead of ", floats);
        if (constants.size() == values.size()) values.assign(constants.begin(), constants.end());
      }
      const float* c = values.data();

      random_source r(4);
      std::vector<float> previous_z(width, 0.0f), previous_row(HeadDim, 0.0f);
      for (int t = 0; t < 5; ++t) {
        const std::vector<float> z = detail::random_row(r, width);
        detail::marked_row row(std::vector<float>(HeadDim, 55.0f));  // what was in memory before must not matter
        Dims::template expand<HeadDim>(z.data(), row.data(), c);
        f.expect(row.intact(), "expand writes HeadDim channels and no more", "row ", t);
        const std::vector<float> expanded = row.values();
        const double size = detail::norm(expanded) + detail::norm(z);
        const double rounding = detail::rounding(2 * HeadDim, size);

        detail::marked_row again(std::vector<float>(width, 55.0f));
        Dims::template compress<HeadDim>(expanded.data(), again.data(), c);
        f.expect(again.intact(), "compress writes width channels and no more", "row ", t);
        int at = detail::first_difference(z, again.values(), 8 * rounding);
        f.expect(at < 0, "compress(expand(z)) is z", "row ", t, ", channel ", at);

        const std::vector<float> query = detail::random_row(r, HeadDim);
        detail::marked_row folded(std::vector<float>(width, 55.0f));
        Dims::template fold_query<HeadDim>(query.data(), folded.data(), c);
        f.expect(folded.intact(), "fold_query writes width channels and no more", "row ", t);
        const double compressed = detail::dot(folded.values(), z);
        const double direct = detail::dot(query, expanded);
        f.expect(close(compressed, direct, detail::rounding(2 * HeadDim, detail::norm(query) * size)),
                 "<fold_query(q), z> is <q, expand(z)>", "row ", t, ": ", compressed, " and ", direct);

        // Outputs are expanded after the weighted sum of stored rows, so expand must be linear.
        std::vector<float> sum(z);
        for (std::size_t i = 0; i < sum.size(); ++i) sum[i] = 2.0f * z[i] - previous_z[i];
        detail::marked_row expanded_sum(std::vector<float>(HeadDim, 55.0f));
        std::vector<float> sum_of_expanded(expanded);
        Dims::template expand<HeadDim>(sum.data(), expanded_sum.data(), c);
        for (std::size_t i = 0; i < expanded.size(); ++i) sum_of_expanded[i] = 2.0f * expanded[i] - previous_row[i];
        at = detail::first_difference(expanded_sum.values(), sum_of_expanded, 8 * rounding);
        f.expect(at < 0, "expand is linear", "row ", t, ", channel ", at);
        previous_z = z;
        previous_row = expanded;

        if constexpr (requires { Dims::template basis<HeadDim>(0, 0, c); }) {
          std::vector<float> by_basis(HeadDim, 0.0f);
          for (int i = 0; i < HeadDim; ++i) {
            for (int k = 0; k < width; ++k) by_basis[i] += Dims::template basis<HeadDim>(k, i, c) * z[k];
          }
          at = detail::first_difference(expanded, by_basis, 8 * rounding);
          f.expect(at < 0, "basis is what expand multiplies with", "row ", t, ", channel ", at);
        }
        if constexpr (requires { requires Dims::is_identity; }) {
          const std::vector<float> x = detail::random_row(r, HeadDim);
          detail::marked_row stored(width), back(HeadDim);
          Dims::template compress<HeadDim>(x.data(), stored.data(), c);
          Dims::template expand<HeadDim>(stored.data(), back.data(), c);
          f.expect(x == back.values() && x == stored.values(), "a policy with is_identity keeps rows as they are",
                   "row ", t);
        }
      }
    }
  }
  return f.lines();
}

}  // namespace kvc::inline v0_1::testing
