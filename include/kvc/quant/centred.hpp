// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/quant/concept.hpp"

namespace kvc::inline v0_1::quant {

/// A mean per stored head and channel is taken off before encoding; zero without a calibration. Free in bytes. For
/// keys it shifts every score of a query by the same q . mean, which is added to the scores again, so that the
/// log-sum-exp is that of the keys as they came; for values it returns times the sum of the weights.
template <class Codec>
struct centred {
  static_assert(is_on_axis<Codec, quant_axis>, "kvc: quant::centred<Codec> takes a quant policy");

  using axis = quant_axis;
  using inner_codec = Codec;
  static constexpr auto name = named("centred", Codec::name);
  template <int Width>
  static constexpr int own_floats = Width;

  template <int Width>
  static void initialise(float* mean) {
    for (int i = 0; i < Width; ++i) mean[i] = 0;
  }
  template <int Width, class Team = serial_team>
  KVC_HD static void forward(float* x, const float* mean, Team team = {}) {
    for (int i = team.rank(); i < Width; i += team.size()) x[i] -= mean[i];
    team.sync();
  }
  /// The same of a row in its team's registers.
  template <int Width, class Team>
  KVC_HD static void forward_share(float* x, const float* mean, Team team) {
    constexpr int own = Width / Team::size();
    for (int k = 0; k < own; ++k) x[k] -= mean[team.rank() * own + k];
  }
  template <int Width, class Team = serial_team>
  KVC_HD static void inverse(float* x, const float* mean, Team team = {}) {
    for (int i = team.rank(); i < Width; i += team.size()) x[i] += mean[i];
    team.sync();
  }
  template <int Width, class Team = serial_team>
  KVC_HD static float fold_query(float* q, const float* mean, Team team = {}) {
    float constant = 0;
    for (int i = team.rank(); i < Width; i += team.size()) constant += q[i] * mean[i];
    return team.sum(constant);
  }
  template <int Width, class Team = serial_team>
  KVC_HD static void unfold_output(float* o, float mass, const float* mean, Team team = {}) {
    for (int i = team.rank(); i < Width; i += team.size()) o[i] += mass * mean[i];
    team.sync();
  }
};

}  // namespace kvc::inline v0_1::quant
