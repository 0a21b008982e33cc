// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace engine {

/// The rotary position embedding: at position p, pair i of a head, that is its elements (2i, 2i + 1), is turned by the
/// angle p * frequency[i]. (Files in GGUF have their weights ordered for such interleaved pairs.) Elements from 2 *
/// pairs() on stay as they are. The table is computed once, in double precision, and does not move: caches that store
/// keys before rotary keep a pointer to it.
class rotary_table {
 public:
  rotary_table(int positions, std::span<const double> frequencies);

  int positions() const { return positions_; }
  int pairs() const { return static_cast<int>(pairs_); }

  // [positions][pairs], row-major
  const float* cos() const { return cos_.data(); }
  const float* sin() const { return sin_.data(); }

  /// Turns `heads` rows of `head_dim` values in place.
  void rotate(float* rows, std::size_t heads, std::size_t head_dim, int position) const;

 private:
  int positions_;
  std::size_t pairs_;
  std::vector<float> cos_, sin_;
};

}  // namespace engine
