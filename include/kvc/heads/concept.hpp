// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/core/policy.hpp"
#include "kvc/core/shape.hpp"
#include "kvc/core/text.hpp"

// A heads policy is a pure index map: how many rows a slot stores per token. Query heads are dealt to stored rows in
// contiguous groups of query_heads / stored; KV heads are merged into stored rows in groups of kv_heads / stored.

namespace kvc::inline v0_1::heads {

namespace detail {

template <class P>
concept has_stored = requires {
  {P::stored(8, 4)};
};
template <class P>
concept has_name = requires {
  P::name.c_str();
};

/// Sentences for people; compose calls it for every heads policy.
template <class P>
consteval bool check() {
  static_assert(has_name<P>, "kvc: a heads policy must define 'static constexpr auto name = kvc::text(\"...\")'");
  static_assert(has_stored<P>,
                "kvc: a heads policy must define 'KVC_HD static constexpr int stored(int query_heads, int kv_heads)' "
                "(rows that a slot stores per token; 0 where the counts do not fit)");
  return true;
}

}  // namespace detail

/// True where a joint K/V row replaces the heads' own rows.
template <class P>
inline constexpr bool is_latent = requires {
  requires P::is_latent;
};

}  // namespace kvc::inline v0_1::heads
