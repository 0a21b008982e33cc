// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cstdint>
#include <cstdlib>
#include <random>

// The seed of tests whose rows and lengths differ from run to run. Failures name it; KVC_TEST_SEED=N repeats a run.

namespace kvc_test {

inline std::uint64_t test_seed() {
  static const std::uint64_t seed = [] {
    const char* wanted = std::getenv("KVC_TEST_SEED");
    const std::uint64_t chosen = wanted != nullptr ? std::strtoull(wanted, nullptr, 10) : std::random_device{}();
    return chosen & 0xffffffffu;
  }();
  return seed;
}

/// The n-th row of this run (model_cache.hpp makes it from the number), n < 2^24.
inline std::uint64_t row_seed(std::uint64_t n) {
  return (test_seed() << 24) + n;
}

/// Whether a tool of compute-sanitizer watches: it is slow, and repetitions show it nothing new.
inline bool is_sanitized() {
  return std::getenv("KVC_SANITIZED") != nullptr;
}

}  // namespace kvc_test
