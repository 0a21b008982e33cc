// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "rotary.hpp"

#include <cmath>
#include <stdexcept>
#include <string>

namespace engine {

rotary_table::rotary_table(int positions, std::span<const double> frequencies)
    : positions_(positions),
      pairs_(frequencies.size()),
      cos_(static_cast<std::size_t>(positions) * pairs_),
      sin_(cos_.size()) {
  std::size_t at = 0;
  for (int position = 0; position < positions; ++position) {
    for (const double frequency : frequencies) {
      cos_[at] = static_cast<float>(std::cos(position * frequency));
      sin_[at] = static_cast<float>(std::sin(position * frequency));
      ++at;
    }
  }
}

void rotary_table::rotate(float* rows, std::size_t heads, std::size_t head_dim, int position) const {
  if (position < 0 || position >= positions_) {
    throw std::runtime_error("position " + std::to_string(position) + " is outside the context of " +
                             std::to_string(positions_) + " tokens");
  }
  const float* c = cos() + static_cast<std::size_t>(position) * pairs_;
  const float* s = sin() + static_cast<std::size_t>(position) * pairs_;
  for (std::size_t h = 0; h < heads; ++h, rows += head_dim) {
    for (std::size_t i = 0; i < pairs_; ++i) {
      const float a = rows[2 * i], b = rows[2 * i + 1];
      rows[2 * i] = a * c[i] - b * s[i];
      rows[2 * i + 1] = a * s[i] + b * c[i];
    }
  }
}

}  // namespace engine
