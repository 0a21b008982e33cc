// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: kvc: compose: every further argument must be a policy \(a struct with 'using axis =
#include <kvc/cache/compose.hpp>

#ifdef KVC_SHOULD_FAIL
using cache = kvc::compose<kvc::shape<4, 8, 4, 64>, float>;
#else
using cache = kvc::compose<kvc::shape<4, 8, 4, 64>, kvc::quant::none<float> >;
#endif

constexpr auto bytes = cache::bytes_per_token;
