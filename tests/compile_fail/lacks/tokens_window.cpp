// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: kvc: a tokens policy must define 'static constexpr int sinks, window' \(window = 0 keeps all rows\)
#include <kvc/cache/compose.hpp>

struct mine {
  using axis = kvc::tokens_axis;
  static constexpr auto name = kvc::text("mine");
  static constexpr int sinks = 4;
#ifndef KVC_SHOULD_FAIL
  static constexpr int window = 64;
#endif
};

using cache = kvc::compose<kvc::shape<4, 8, 4, 64>, mine>;
constexpr auto bytes = cache::bytes_per_token;
