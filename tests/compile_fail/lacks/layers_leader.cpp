// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: kvc: a layers policy must define 'KVC_HD static constexpr int leader\(int layer, const kvc::int32\*
#include <kvc/cache/compose.hpp>

struct mine {
  using axis = kvc::layers_axis;
  static constexpr auto name = kvc::text("mine");
#ifndef KVC_SHOULD_FAIL
  KVC_HD static constexpr int leader(int layer, const kvc::int32*) {
    return layer;
  }
#endif
};

using cache = kvc::compose<kvc::shape<4, 8, 4, 64>, mine>;
constexpr auto bytes = cache::bytes_per_token;
