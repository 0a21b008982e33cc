// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: kvc: quant::split<K, V> stands outside of wrappers: split<rotated<K>, rotated<V>>
#include <kvc/cache/compose.hpp>

#ifdef KVC_SHOULD_FAIL
using cache =
    kvc::compose<kvc::shape<4, 8, 4, 64>,
                 kvc::quant::rotated<kvc::quant::split<kvc::quant::integer<8, 64>, kvc::quant::integer<4, 64>>>>;
#else
using cache = kvc::compose<kvc::shape<4, 8, 4, 64>, kvc::quant::split<kvc::quant::rotated<kvc::quant::integer<8, 64>>,
                                                                      kvc::quant::rotated<kvc::quant::integer<4, 64>>>>;
#endif

constexpr auto bytes = cache::bytes_per_token;
