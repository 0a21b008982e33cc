// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/core/policy.hpp"
#include "kvc/core/team.hpp"
#include "kvc/core/text.hpp"

// A rotary policy says whether keys are stored after their rotary embedding (arXiv 2104.09864) or before it.

namespace kvc::inline v0_1::rotary {

/// Angles by position, from the caller: table[position][pair] = {cos, sin}.
struct table_view {
  const float* cos_sin = nullptr;
  int64 positions = 0;
  int pairs = 0;

  KVC_HD const float* at(int64 position) const { return cos_sin + position * pairs * 2; }
};

namespace detail {

template <class P>
concept has_deferred = requires {
  {P::is_deferred || true};
};
template <class P, int HeadDim>
concept has_rotate = requires(float* key, const float* cos_sin) {
  {P::template pair_count<HeadDim> + 0};
  P::template rotate<HeadDim>(key, cos_sin);
};
/// Whether rotate is executed by all threads of a team.
template <class P, int HeadDim, class Team>
concept takes_team = requires(float* key, const float* cos_sin, Team team) {
  P::template rotate<HeadDim>(key, cos_sin, team);
};
template <class P>
concept has_name = requires {
  P::name.c_str();
};

/// Sentences for people; compose calls it for every rotary policy.
template <class P, int HeadDim>
consteval bool check() {
  static_assert(has_name<P>, "kvc: a rotary policy must define 'static constexpr auto name = kvc::text(\"...\")'");
  static_assert(has_deferred<P>,
                "kvc: a rotary policy must define 'static constexpr bool is_deferred' (false: keys arrive rotated)");
  if constexpr (P::is_deferred) {
    static_assert(has_rotate<P, HeadDim>,
                  "kvc: a rotary policy that is deferred must define 'template <int HeadDim> static constexpr int "
                  "pair_count' and 'template <int HeadDim> KVC_HD static void rotate(float* key, const float* "
                  "cos_sin)' (in place, cos_sin: [pair_count][2])");
    static_assert(2 * P::template pair_count<HeadDim> <= HeadDim,
                  "kvc: a rotary policy must not turn more channels than the head has (the Dims of "
                  "rotary::deferred<Pairs, Dims>)");
  }
  return true;
}

}  // namespace detail

}  // namespace kvc::inline v0_1::rotary
