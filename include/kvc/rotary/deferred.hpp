// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/rotary/pairs.hpp"

namespace kvc::inline v0_1::rotary {

/// Keys arrive and are stored before their rotary embedding; attention rotates row t by the angles of position t, once
/// per row and tile for all the query heads that share it. Dims: how many leading channels turn (0: all of them).
template <pairs Pairs = pairs::interleaved, int Dims = 0>
struct deferred {
  static_assert(Dims >= 0 && Dims % 2 == 0, "kvc: rotary::deferred<Pairs, Dims> turns an even number of channels");

  using axis = rotary_axis;
  static constexpr auto name =
      named("deferred", Pairs == pairs::interleaved ? text("interleaved") : text("half_split"), Dims);
  static constexpr bool is_deferred = true;
  static constexpr pairs layout = Pairs;

  template <int HeadDim>
  static constexpr int pair_count = (Dims == 0 ? HeadDim : Dims) / 2;

  /// key: [HeadDim], turned in place by cos_sin: [pair_count][2].
  template <int HeadDim, class Team = serial_team>
  KVC_HD static void rotate(float* key, const float* cos_sin, Team team = {}) {
    turn<Pairs>(key, cos_sin, pair_count<HeadDim>, team);
  }
};

}  // namespace kvc::inline v0_1::rotary
