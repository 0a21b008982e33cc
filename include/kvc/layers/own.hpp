// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/layers/concept.hpp"

namespace kvc::inline v0_1::layers {

/// Every layer writes and reads its own slot. The default.
struct own {
  using axis = layers_axis;
  static constexpr auto name = text("own");
  KVC_HD static constexpr int leader(int layer, const int32* /*table*/) { return layer; }
};

}  // namespace kvc::inline v0_1::layers
