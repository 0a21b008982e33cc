// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/rotary/concept.hpp"

namespace kvc::inline v0_1::rotary {

/// Keys arrive with their rotary embedding and are stored so. The default.
struct applied {
  using axis = rotary_axis;
  static constexpr auto name = text("applied");
  static constexpr bool is_deferred = false;
};

}  // namespace kvc::inline v0_1::rotary
