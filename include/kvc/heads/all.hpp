// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/heads/concept.hpp"

namespace kvc::inline v0_1::heads {

/// One stored row per KV head that the model produces. The default.
struct all {
  using axis = heads_axis;
  static constexpr auto name = text("all");
  KVC_HD static constexpr int stored(int query_heads, int kv_heads) {
    return query_heads % kv_heads == 0 ? kv_heads : 0;
  }
};

}  // namespace kvc::inline v0_1::heads
