// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: kvc: compose: the heads policy does not divide the heads
#include <kvc/cache/compose.hpp>

#ifdef KVC_SHOULD_FAIL
using cache = kvc::compose<kvc::shape<4, 8, 4, 64>, kvc::heads::grouped<1>>;
#else
using cache = kvc::compose<kvc::shape<4, 8, 4, 64>, kvc::heads::grouped<2>>;
#endif

constexpr auto bytes = cache::bytes_per_token;
