// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: kvc: a dims policy must define 'template <int HeadDim> KVC_HD static void compress\(const float\*
#include <kvc/cache/compose.hpp>

struct mine {
  using axis = kvc::dims_axis;
  static constexpr auto name = kvc::text("mine");
  template <int HeadDim>
  static constexpr int width = HeadDim / 2;
  template <int HeadDim>
  static constexpr int calibration_floats = 0;
  template <int HeadDim>
  static void initialise(float* constants);
#ifndef KVC_SHOULD_FAIL
  template <int HeadDim>
  KVC_HD static void compress(const float* in, float* out, const float* constants);
#endif
  template <int HeadDim>
  KVC_HD static void expand(const float* in, float* out, const float* constants);
  template <int HeadDim>
  KVC_HD static void fold_query(const float* in, float* out, const float* constants);
};

using cache = kvc::compose<kvc::shape<4, 8, 4, 64>, mine>;
constexpr auto bytes = cache::bytes_per_token;
