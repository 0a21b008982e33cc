// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/layers/concept.hpp"

namespace kvc::inline v0_1::layers {

/// Runs of Share layers read the slot of the run's first layer (CLA, arXiv 2405.12981; CLLA, arXiv 2410.15252).
template <int Share>
struct shared {
  static_assert(Share >= 1, "kvc: layers::shared<S> needs S >= 1 (S = 1 is layers::own)");

  using axis = layers_axis;
  static constexpr auto name = named("shared", Share);
  KVC_HD static constexpr int leader(int layer, const int32* /*table*/) { return layer - layer % Share; }
};

}  // namespace kvc::inline v0_1::layers
