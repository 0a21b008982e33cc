// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: kvc: a layers policy must define 'static constexpr auto name
#include <kvc/cache/compose.hpp>

struct mine {
  using axis = kvc::layers_axis;
#ifndef KVC_SHOULD_FAIL
  static constexpr auto name = kvc::text("mine");
#endif
  KVC_HD static constexpr int leader(int layer, const kvc::int32*) {
    return layer;
  }
};

using cache = kvc::compose<kvc::shape<4, 8, 4, 64>, mine>;
constexpr auto bytes = cache::bytes_per_token;
