// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cmath>
#include <span>
#include <vector>

#include "kvc/testing/failures.hpp"

// What the suites for row transforms (wrappers, dims, rotary) share.

namespace kvc::inline v0_1::testing::detail {

inline constexpr float beside_mark = 77.0f;

/// A row with marked floats on both sides.
class marked_row {
 public:
  explicit marked_row(int count) : count_(count), memory_(static_cast<std::size_t>(count + 2 * margin), beside_mark) {}
  explicit marked_row(const std::vector<float>& x) : marked_row(static_cast<int>(x.size())) {
    for (std::size_t i = 0; i < x.size(); ++i) memory_[i + margin] = x[i];
  }
  float* data() { return memory_.data() + margin; }
  float operator[](int i) const { return memory_[static_cast<std::size_t>(i + margin)]; }
  int count() const { return count_; }
  std::vector<float> values() const { return {memory_.begin() + margin, memory_.end() - margin}; }
  bool intact() const {
    for (std::size_t i = 0; i < margin; ++i) {
      if (memory_[i] != beside_mark || memory_[memory_.size() - 1 - i] != beside_mark) return false;
    }
    return true;
  }

 private:
  static constexpr int margin = 16;
  int count_;
  std::vector<float> memory_;
};

inline std::vector<float> random_row(random_source& r, int count) {
  std::vector<float> x(static_cast<std::size_t>(count));
  for (float& v : x) v = r.normal();
  return x;
}

inline double dot(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

inline double norm(const std::vector<float>& a) {
  return std::sqrt(dot(a, a));
}

/// What fp32 sums of `terms` products may lose on a result of this size.
inline double rounding(int terms, double size) {
  return (terms + 16) * 0x1p-24 * size;
}

/// First index where the rows differ by more than the tolerance, or -1.
inline int first_difference(const std::vector<float>& a, const std::vector<float>& b, double tolerance) {
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (!close(a[i], b[i], tolerance)) return static_cast<int>(i);
  }
  return -1;
}

}  // namespace kvc::inline v0_1::testing::detail
