// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: kvc: compose: groups of tokens must divide the tokens of a page
#include <kvc/cache/compose.hpp>

#ifdef KVC_SHOULD_FAIL
using cache =
    kvc::compose<kvc::shape<4, 8, 4, 64>, kvc::quant::integer<4, 128, kvc::quant::affine, kvc::quant::per_channel>>;
#else
using cache = kvc::compose<kvc::shape<4, 8, 4, 64>,
                           kvc::quant::integer<4, 128, kvc::quant::affine, kvc::quant::per_channel>, kvc::storage<128>>;
#endif

constexpr auto bytes = cache::bytes_per_token;
