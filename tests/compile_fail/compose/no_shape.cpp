// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: kvc: compose: the first argument must be a kvc::shape<Layers, QueryHeads, KvHeads, HeadDim>
#include <kvc/cache/compose.hpp>

#ifdef KVC_SHOULD_FAIL
using cache = kvc::compose<kvc::quant::integer<4, 64>, kvc::shape<4, 8, 4, 64>>;
#else
using cache = kvc::compose<kvc::shape<4, 8, 4, 64>, kvc::quant::integer<4, 64>>;
#endif

constexpr auto bytes = cache::bytes_per_token;
