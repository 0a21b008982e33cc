// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/core/math.hpp"
#include "kvc/core/policy.hpp"
#include "kvc/core/team.hpp"
#include "kvc/core/text.hpp"

// A dims policy is a linear row transform, model row [HeadDim] -> stored row [width]. Keys are scored in the stored
// space through a folded query, values are summed there and unfolded once per query; where keys must be turned after
// that (rotary::deferred), rows are expanded tile by tile. Constants come from the calibration (floats per stored
// head).
//
// The row functions may take a team (core/team.hpp) as their last argument, as the built-in ones do; on a GPU one
// thread of the team runs those that do not. A policy may also define
//   template <int HeadDim> KVC_HD static float basis(int r, int c, const float* constants)
// what channel c of an expanded row takes from channel r of the stored one; kernels that expand rows by matrix products
// then need no fold_query of unit vectors. And, where compress is a product with a matrix [width][HeadDim] among the
// constants,
//   template <int HeadDim> KVC_HD static const float* matrix(const float* constants)
// which kernels that append many rows multiply on tensor cores.

namespace kvc::inline v0_1::dims {

namespace detail {

template <class P, int HeadDim>
concept has_width = requires {
  {P::template width<HeadDim> + 0};
  {P::template calibration_floats<HeadDim> + 0};
};
template <class P, int HeadDim>
concept has_transform = requires(const float* in, float* out, const float* constants) {
  P::template compress<HeadDim>(in, out, constants);
  P::template expand<HeadDim>(in, out, constants);
  P::template fold_query<HeadDim>(in, out, constants);
  P::template initialise<HeadDim>(out);
};
/// Whether the row functions are executed by all threads of a team.
template <class P, int HeadDim, class Team>
concept takes_team = requires(const float* in, float* out, const float* constants, Team team) {
  P::template compress<HeadDim>(in, out, constants, team);
  P::template expand<HeadDim>(in, out, constants, team);
  P::template fold_query<HeadDim>(in, out, constants, team);
};
template <class P, int HeadDim>
concept has_matrix = requires(const float* constants) {
  P::template matrix<HeadDim>(constants)[0];
};
template <class P>
concept has_name = requires {
  P::name.c_str();
};

/// Sentences for people; compose calls it for every side of a dims policy.
template <class P, int HeadDim>
consteval bool check() {
  static_assert(has_name<P>, "kvc: a dims policy must define 'static constexpr auto name = kvc::text(\"...\")'");
  static_assert(has_width<P, HeadDim>,
                "kvc: a dims policy must define 'template <int HeadDim> static constexpr int width, "
                "calibration_floats' (channels of a stored row; constants per stored head)");
  static_assert(has_transform<P, HeadDim>,
                "kvc: a dims policy must define 'template <int HeadDim> KVC_HD static void compress(const float* row, "
                "float* stored, const float* constants)', 'expand(stored, row, constants)', 'fold_query(query, "
                "folded, constants)' and 'initialise(float* constants)'");
  static_assert(P::template width<HeadDim> >= 1 && P::template width<HeadDim> <= HeadDim,
                "kvc: a stored row must not have more channels than the head (the R of dims::low_rank<R>, the N of "
                "dims::pruned<N>)");
  return true;
}

}  // namespace detail

/// True for a policy that stores a joint latent and a rotary key instead of keys and values.
template <class P>
inline constexpr bool is_latent = requires {
  requires P::is_latent;
};

}  // namespace kvc::inline v0_1::dims
