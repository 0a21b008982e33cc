// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/dims/concept.hpp"

namespace kvc::inline v0_1::dims {

/// Kept channels of each row, the others read as zero (ThinK, arXiv 2407.21018). Which ones is the calibration's
/// choice per stored head: Kept channel indices, held as floats.
template <int Kept>
struct pruned {
  static_assert(Kept >= 1, "kvc: dims::pruned<N> needs N >= 1 kept channels");

  using axis = dims_axis;
  static constexpr auto name = named("pruned", Kept);

  template <int HeadDim>
  static constexpr int width = Kept;
  template <int HeadDim>
  static constexpr int calibration_floats = Kept;

  /// Without a calibration: the leading channels.
  template <int HeadDim>
  static void initialise(float* constants) {
    for (int i = 0; i < Kept; ++i) constants[i] = static_cast<float>(i);
  }
  template <int HeadDim, class Team = serial_team>
  KVC_HD static void compress(const float* row, float* stored, const float* constants, Team team = {}) {
    for (int i = team.rank(); i < Kept; i += team.size()) stored[i] = row[static_cast<int>(constants[i])];
    team.sync();
  }
  template <int HeadDim, class Team = serial_team>
  KVC_HD static void fold_query(const float* query, float* folded, const float* constants, Team team = {}) {
    compress<HeadDim>(query, folded, constants, team);
  }
  template <int HeadDim, class Team = serial_team>
  KVC_HD static void expand(const float* stored, float* row, const float* constants, Team team = {}) {
    if constexpr (Team::size() == 1) {  // may be in place
      float kept[Kept];
      for (int i = 0; i < Kept; ++i) kept[i] = stored[i];
      for (int i = 0; i < HeadDim; ++i) row[i] = 0;
      for (int i = 0; i < Kept; ++i) row[static_cast<int>(constants[i])] = kept[i];
    } else {
      for (int i = team.rank(); i < HeadDim; i += team.size()) row[i] = 0;
      team.sync();
      for (int i = team.rank(); i < Kept; i += team.size()) row[static_cast<int>(constants[i])] = stored[i];
      team.sync();
    }
  }
};

}  // namespace kvc::inline v0_1::dims
