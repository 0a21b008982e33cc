// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/core/policy.hpp"
#include "kvc/core/shape.hpp"
#include "kvc/core/text.hpp"

// A layers policy is a pure index map: layer -> the layer that writes the slot it reads (its leader).
// A leader reads itself. A writer precedes its readers, so a leader is never a later layer.

namespace kvc::inline v0_1::layers {

namespace detail {

template <class P>
concept has_leader = requires(int layer, const int32* table) {
  {P::leader(layer, table)};
};
template <class P>
concept has_name = requires {
  P::name.c_str();
};

/// Sentences for people; compose calls it for every layers policy.
template <class P>
consteval bool check() {
  static_assert(has_name<P>, "kvc: a layers policy must define 'static constexpr auto name = kvc::text(\"...\")'");
  static_assert(has_leader<P>,
                "kvc: a layers policy must define 'KVC_HD static constexpr int leader(int layer, const kvc::int32* "
                "table)' (the layer whose rows 'layer' reads; itself if it writes)");
  return true;
}

}  // namespace detail

/// Number of leaders among layers [0, layer): the slot index of a leader.
template <class P>
KVC_HD constexpr int leaders_before(int layer, const int32* table) {
  int count = 0;
  for (int l = 0; l < layer; ++l) count += P::leader(l, table) == l ? 1 : 0;
  return count;
}

/// True if every layer reads a leader that is not later than itself and that writes.
template <class P>
KVC_HD constexpr bool map_is_valid(int layer_count, const int32* table) {
  for (int l = 0; l < layer_count; ++l) {
    const int leader = P::leader(l, table);
    if (leader < 0 || leader > l) return false;
    if (P::leader(leader, table) != leader) return false;
  }
  return true;
}

}  // namespace kvc::inline v0_1::layers
