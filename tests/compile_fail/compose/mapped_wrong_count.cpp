// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: kvc: compose: layers::mapped needs one entry per layer of the shape
#include <kvc/cache/compose.hpp>

#ifdef KVC_SHOULD_FAIL
using cache = kvc::compose<kvc::shape<4, 8, 4, 64>, kvc::layers::mapped<0, 0, 2>>;
#else
using cache = kvc::compose<kvc::shape<4, 8, 4, 64>, kvc::layers::mapped<0, 0, 2, 2>>;
#endif

constexpr auto bytes = cache::bytes_per_token;
