// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: kvc: layers::mapped: every entry must name a layer that is not later and that names itself
#include <kvc/cache/compose.hpp>

#ifdef KVC_SHOULD_FAIL
using cache = kvc::compose<kvc::shape<4, 8, 4, 64>, kvc::layers::mapped<0, 1, 2, 7>>;
#else
using cache = kvc::compose<kvc::shape<4, 8, 4, 64>, kvc::layers::mapped<0, 1, 2, 0>>;
#endif

constexpr auto bytes = cache::bytes_per_token;
