// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cstdio>
#include <string>

#include "kvc/core/config.hpp"

// What the property suites share: the list of failures that they return, and reproducible random numbers.

namespace kvc::inline v0_1::testing {

/// Collects one line per failed property, with the first example of each: "subject: property: example".
class failures {
 public:
  explicit failures(std::string subject) : subject_(std::move(subject)) {}

  /// Notes a failure unless `holds`. Of a property that failed before, only the first example is kept.
  template <class... Parts>
  bool expect(bool holds, const char* property, const Parts&... example) {
    if (holds) return true;
    const std::string start = subject_ + ": " + property + ": ";
    if (lines_.find(start) == std::string::npos) {
      lines_ += start;
      ((lines_ += written(example)), ...);
      lines_ += '\n';
    }
    return false;
  }
  bool none() const { return lines_.empty(); }
  const std::string& lines() const { return lines_; }

 private:
  static std::string written(const char* s) { return s; }
  static std::string written(int n) { return std::to_string(n); }
  static std::string written(double x) {
    char digits[32];
    std::snprintf(digits, sizeof digits, "%.9g", x);
    return digits;
  }
  std::string subject_;
  std::string lines_;
};

/// splitmix64: the same numbers on every platform, unlike the distributions of the standard library.
class random_source {
 public:
  explicit random_source(uint64 seed) : state_(seed) {}
  uint64 bits() {
    state_ += 0x9e3779b97f4a7c15ull;
    uint64 z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }
  /// Uniform in [-1, 1).
  float uniform() { return static_cast<float>(static_cast<double>(bits() >> 40) * 0x1p-23 - 1.0); }
  /// Bell-shaped with unit variance, within +-6: a sum of twelve uniform numbers.
  float normal() {
    float sum = 0;
    for (int i = 0; i < 12; ++i) sum += uniform();
    return sum * 0.5f;
  }

 private:
  uint64 state_;
};

/// True where a and b differ by at most `tolerance`, or are both NaN.
inline bool close(double a, double b, double tolerance) {
  if (a != a || b != b) return a != a && b != b;
  return a == b || (a > b ? a - b : b - a) <= tolerance;
}

}  // namespace kvc::inline v0_1::testing
