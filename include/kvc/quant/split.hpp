// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/quant/concept.hpp"

namespace kvc::inline v0_1::quant {

/// One quant policy for keys and another for values; for a latent cache, one for the latent and another for the rotary
/// key.
template <class First, class Second>
struct split {
  static_assert(is_on_axis<First, quant_axis> && is_on_axis<Second, quant_axis>,
                "kvc: quant::split<K, V> takes two quant policies");

  using axis = quant_axis;
  static constexpr auto name = named("split", First::name, Second::name);
  using first_policy = First;
  using second_policy = Second;
};

}  // namespace kvc::inline v0_1::quant
