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
  template <int HeadDim>
  KVC_HD static void compress(const float* row, float* stored, const float* /*constants*/) {
    for (int i = 0; i < HeadDim; ++i) stored[i] = row[i];
  }
  template <int HeadDim>
  KVC_HD static void expand(const float* stored, float* row, const float* /*constants*/) {
    for (int i = 0; i < HeadDim; ++i) row[i] = stored[i];
  }
  template <int HeadDim>
  KVC_HD static void fold_query(const float* query, float* folded, const float* /*constants*/) {
    for (int i = 0; i < HeadDim; ++i) folded[i] = query[i];
  }
};

}  // namespace kvc::inline v0_1::dims
