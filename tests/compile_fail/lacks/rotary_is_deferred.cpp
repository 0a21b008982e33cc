// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: kvc: a rotary policy must define 'static constexpr bool is_deferred'
#include <kvc/cache/compose.hpp>

struct mine {
  using axis = kvc::rotary_axis;
  static constexpr auto name = kvc::text("mine");
#ifndef KVC_SHOULD_FAIL
  static constexpr bool is_deferred = true;
#endif
  template <int HeadDim>
  static constexpr int pair_count = HeadDim / 2;
  template <int HeadDim>
  KVC_HD static void rotate(float* key, const float* cos_sin);
};

using cache = kvc::compose<kvc::shape<4, 8, 4, 64>, mine>;
constexpr auto bytes = cache::bytes_per_token;
