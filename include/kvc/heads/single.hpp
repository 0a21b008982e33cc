// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/heads/concept.hpp"

namespace kvc::inline v0_1::heads {

/// One stored row for all query heads (MQA, arXiv 1911.02150).
struct single {
  using axis = heads_axis;
  static constexpr auto name = text("single");
  KVC_HD static constexpr int stored(int /*query_heads*/, int /*kv_heads*/) { return 1; }
};

}  // namespace kvc::inline v0_1::heads
