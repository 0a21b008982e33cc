// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/dims/concept.hpp"

namespace kvc::inline v0_1::dims {

/// Rows are stored with all their channels. The default.
struct full {
  using axis = dims_axis;
  static constexpr auto name = text("full");
  static constexpr bool is_identity = true;

  template <int HeadDim>
  static constexpr int width = HeadDim;
  template <int HeadDim>
  static constexpr int calibration_floats = 0;

  template <int HeadDim>
  static void initialise(float* /*constants*/) {}
  template <int HeadDim, class Team = serial_team>
  KVC_HD static void compress(const float* row, float* stored, const float* /*constants*/, Team team = {}) {
    for (int i = team.rank(); i < HeadDim; i += team.size()) stored[i] = row[i];
    team.sync();
  }
  template <int HeadDim, class Team = serial_team>
  KVC_HD static void expand(const float* stored, float* row, const float* /*constants*/, Team team = {}) {
    for (int i = team.rank(); i < HeadDim; i += team.size()) row[i] = stored[i];
    team.sync();
  }
  template <int HeadDim, class Team = serial_team>
  KVC_HD static void fold_query(const float* query, float* folded, const float* /*constants*/, Team team = {}) {
    for (int i = team.rank(); i < HeadDim; i += team.size()) folded[i] = query[i];
    team.sync();
  }
};

}  // namespace kvc::inline v0_1::dims
