// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: kvc: a stored row must not have more channels than the head \(the R of dims::low_rank<R>, the N of
#include <kvc/cache/compose.hpp>

#ifdef KVC_SHOULD_FAIL
using cache = kvc::compose<kvc::shape<4, 8, 4, 64>, kvc::dims::low_rank<72>>;
#else
using cache = kvc::compose<kvc::shape<4, 8, 4, 64>, kvc::dims::low_rank<64>>;
#endif

constexpr auto bytes = cache::bytes_per_token;
