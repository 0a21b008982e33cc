// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/layers/concept.hpp"

namespace kvc::inline v0_1::layers {

/// Layer l reads the rows of layer Leaders[l]; a layer that names itself writes (KVSharer, arXiv 2410.18517).
template <int... Leaders>
struct mapped {
  using axis = layers_axis;
  static constexpr auto name = named("mapped", Leaders...);
  static constexpr int layer_count = sizeof...(Leaders);

  KVC_HD static constexpr int leader(int layer, const int32* /*table*/) {
    int found = -1;
    int index = 0;
    ((found = index == layer ? Leaders : found, ++index), ...);
    return found;
  }

  static constexpr bool is_valid() {
    constexpr int leaders[] = {Leaders...};
    for (int l = 0; l < layer_count; ++l) {
      if (leaders[l] < 0 || leaders[l] > l || leaders[leaders[l]] != leaders[l]) return false;
    }
    return true;
  }
  static_assert(is_valid(),
                "kvc: layers::mapped: every entry must name a layer that is not later and that names itself (a slot "
                "that nobody writes cannot be read)");
};

/// The same with a table that is known at run time: extents::leaders holds one entry per layer.
template <>
struct mapped<dynamic> {
  using axis = layers_axis;
  static constexpr auto name = text("mapped<dynamic>");
  static constexpr bool needs_table = true;
  KVC_HD static constexpr int leader(int layer, const int32* table) { return table[layer]; }
};

}  // namespace kvc::inline v0_1::layers
