// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: kvc: a stored row must not have more channels than the head
#include <kvc/cache/compose.hpp>

#ifdef KVC_SHOULD_FAIL
using cache = kvc::compose<kvc::shape<4, 8, 4, 64>, kvc::dims::split<kvc::dims::pruned<128>, kvc::dims::full>>;
#else
using cache = kvc::compose<kvc::shape<4, 8, 4, 64>, kvc::dims::split<kvc::dims::pruned<48>, kvc::dims::full>>;
#endif

constexpr auto bytes = cache::bytes_per_token;
