// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: kvc: a heads policy must define 'KVC_HD static constexpr int stored\(int query_heads, int
#include <kvc/cache/compose.hpp>

struct mine {
  using axis = kvc::heads_axis;
  static constexpr auto name = kvc::text("mine");
#ifndef KVC_SHOULD_FAIL
  KVC_HD static constexpr int stored(int, int kv_heads) {
    return kv_heads;
  }
#endif
};

using cache = kvc::compose<kvc::shape<4, 8, 4, 64>, mine>;
constexpr auto bytes = cache::bytes_per_token;
