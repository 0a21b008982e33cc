// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: kvc: compose: a stored row needs a multiple of 8 channels
#include <kvc/cache/compose.hpp>

#ifdef KVC_SHOULD_FAIL
using cache = kvc::compose<kvc::shape<4, 8, 4, 64>, kvc::dims::pruned<36>>;
#else
using cache = kvc::compose<kvc::shape<4, 8, 4, 64>, kvc::dims::pruned<40>>;
#endif

constexpr auto bytes = cache::bytes_per_token;
