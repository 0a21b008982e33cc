// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/heads/concept.hpp"

namespace kvc::inline v0_1::heads {

/// One stored row per Group query heads (GQA, arXiv 2305.13245). With fewer rows than the model has KV heads, those of
/// a group are merged on append by the weights of the calibration, the mean without one.
template <int Group>
struct grouped {
  static_assert(Group >= 1, "kvc: heads::grouped<G> needs G >= 1 query heads per stored row");

  using axis = heads_axis;
  static constexpr auto name = named("grouped", Group);
  KVC_HD static constexpr int stored(int query_heads, int kv_heads) {
    const int rows = query_heads % Group == 0 ? query_heads / Group : 0;
    return rows > 0 && kv_heads % rows == 0 ? rows : 0;
  }
};

}  // namespace kvc::inline v0_1::heads
