// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: kvc: a heads policy must define 'static constexpr auto name
#include <kvc/cache/compose.hpp>

struct mine {
  using axis = kvc::heads_axis;
#ifndef KVC_SHOULD_FAIL
  static constexpr auto name = kvc::text("mine");
#endif
  KVC_HD static constexpr int stored(int, int kv_heads) {
    return kv_heads;
  }
};

using cache = kvc::compose<kvc::shape<4, 8, 4, 64>, mine>;
constexpr auto bytes = cache::bytes_per_token;
