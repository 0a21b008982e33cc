// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: kvc: compose: two policies of the same axis
#include <kvc/cache/compose.hpp>

#ifdef KVC_SHOULD_FAIL
using cache = kvc::compose<kvc::shape<4, 8, 4, 64>, kvc::storage<32>, kvc::storage<64>>;
#else
using cache = kvc::compose<kvc::shape<4, 8, 4, 64>, kvc::storage<64>>;
#endif

constexpr auto bytes = cache::bytes_per_token;
