// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/core/policy.hpp"
#include "kvc/core/text.hpp"

// A tokens policy says which rows a query may still see: the first `sinks` ones and the newest `window` ones, its own
// included (window 0: all). Positions stay absolute: row t has position t, whichever rows were dropped before it.
// Pages whose rows no later query can see are freed.

namespace kvc::inline v0_1::tokens {

namespace detail {

template <class P>
concept has_limits = requires {
  {P::sinks + 0};
  {P::window + 0};
};
template <class P>
concept has_name = requires {
  P::name.c_str();
};

/// Sentences for people; compose calls it for every tokens policy.
template <class P>
consteval bool check() {
  static_assert(has_name<P>, "kvc: a tokens policy must define 'static constexpr auto name = kvc::text(\"...\")'");
  static_assert(has_limits<P>,
                "kvc: a tokens policy must define 'static constexpr int sinks, window' (window = 0 keeps all rows)");
  return true;
}

}  // namespace detail

}  // namespace kvc::inline v0_1::tokens
