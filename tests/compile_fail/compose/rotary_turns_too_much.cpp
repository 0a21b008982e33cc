// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: kvc: a rotary policy must not turn more channels than the head has
#include <kvc/cache/compose.hpp>

#ifdef KVC_SHOULD_FAIL
using cache = kvc::compose<kvc::shape<4, 8, 4, 64>, kvc::rotary::deferred<kvc::rotary::pairs::half_split, 128>>;
#else
using cache = kvc::compose<kvc::shape<4, 8, 4, 64>, kvc::rotary::deferred<kvc::rotary::pairs::half_split, 32>>;
#endif

constexpr auto bytes = cache::bytes_per_token;
