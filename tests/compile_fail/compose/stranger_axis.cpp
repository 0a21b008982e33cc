// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: kvc: compose: every further argument must be a policy
#include <kvc/cache/compose.hpp>

struct colour_axis {};

struct mine {
#ifdef KVC_SHOULD_FAIL
  using axis = colour_axis;  // not one of the library's
#else
  using axis = kvc::tokens_axis;
#endif
  static constexpr auto name = kvc::text("mine");
  static constexpr int sinks = 0, window = 0;
};

using cache = kvc::compose<kvc::shape<4, 8, 4, 64>, mine>;

constexpr auto bytes = cache::bytes_per_token;
