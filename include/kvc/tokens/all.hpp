// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/tokens/concept.hpp"

namespace kvc::inline v0_1::tokens {

/// Every row is kept. The default.
struct all {
  using axis = tokens_axis;
  static constexpr auto name = text("all");
  static constexpr int sinks = 0;
  static constexpr int window = 0;
};

}  // namespace kvc::inline v0_1::tokens
