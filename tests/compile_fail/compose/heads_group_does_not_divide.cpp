// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: kvc: compose: the heads policy does not divide the heads: a group must divide the query heads, and
#include <kvc/cache/compose.hpp>

#ifdef KVC_SHOULD_FAIL
using cache = kvc::compose<kvc::shape<4, 8, 4, 64>, kvc::heads::grouped<3>>;
#else
using cache = kvc::compose<kvc::shape<4, 8, 4, 64>, kvc::heads::grouped<4>>;
#endif

constexpr auto bytes = cache::bytes_per_token;
