// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/heads/concept.hpp"

namespace kvc::inline v0_1::heads {

/// One joint row for the keys and values of all heads; the value is a view of it (MLA, arXiv 2405.04434).
/// Goes together with dims::latent.
struct latent {
  using axis = heads_axis;
  static constexpr auto name = text("latent");
  static constexpr bool is_latent = true;
  KVC_HD static constexpr int stored(int /*query_heads*/, int /*kv_heads*/) { return 1; }
};

}  // namespace kvc::inline v0_1::heads
