// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: kvc: a wrapper that transforms rows must define 'template <int Width> KVC_HD static void
#include <kvc/cache/compose.hpp>

struct mine {
  using axis = kvc::quant_axis;
  using inner_codec = kvc::quant::integer<4, 32>;
  static constexpr auto name = kvc::text("mine");
  template <int Width>
  static constexpr int own_floats = 0;
  template <int Width>
  static void initialise(float* constants);
  template <int Width>
  KVC_HD static void forward(float* x, const float* constants);
  template <int Width>
  KVC_HD static void inverse(float* x, const float* constants);
  template <int Width>
  KVC_HD static float fold_query(float* q, const float* constants);
#ifndef KVC_SHOULD_FAIL
  template <int Width>
  KVC_HD static void unfold_output(float* o, float mass, const float* constants);
#endif
};

using cache = kvc::compose<kvc::shape<4, 8, 4, 64>, mine>;
constexpr auto bytes = cache::bytes_per_token;
