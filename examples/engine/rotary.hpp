// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cmath>
#include <cstddef>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace engine {

/// The rotary position embedding: at position p, pair i of a head, that is its elements (2i, 2i + 1), is turned by the
/// angle p * frequency[i]. (Files in GGUF have their weights ordered for such interleaved pairs.) Elements from 2 *
/// pairs() on stay as they are. The table is computed once, in double precision, and does not move: caches that store
/// keys before rotary keep a pointer to it.
class rotary_table {
 public:
  rotary_table(int positions, std::span<const double> frequencies)
      : positions_(positions), pairs_(frequencies.size()), cos_(values()), sin_(values()) {
    for (std::size_t p = 0, at = 0; p < static_cast<std::size_t>(positions); ++p) {
      for (const double frequency : frequencies) {
        const double angle = static_cast<double>(p) * frequency;
        cos_[at] = static_cast<float>(std::cos(angle));
        sin_[at++] = static_cast<float>(std::sin(angle));
      }
    }
  }

  int positions() const { return positions_; }
  int pairs() const { return static_cast<int>(pairs_); }

  // [positions][pairs], row-major
  const float* cos() const { return cos_.data(); }
  const float* sin() const { return sin_.data(); }

  /// Turns `heads` rows of `head_dim` values in place.
  void rotate(float* rows, std::size_t heads, std::size_t head_dim, int position) const {
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

 private:
  std::size_t values() const { return static_cast<std::size_t>(positions_) * pairs_; }

  int positions_;
  std::size_t pairs_;
  std::vector<float> cos_, sin_;
};

}  // namespace engine
