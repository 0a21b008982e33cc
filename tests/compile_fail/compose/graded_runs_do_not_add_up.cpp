// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: kvc: quant::graded: the runs must add up to the width of the segment
#include <kvc/cache/compose.hpp>

#ifdef KVC_SHOULD_FAIL
using cache = kvc::compose<kvc::shape<4, 8, 4, 64>, kvc::quant::graded<kvc::quant::run<32, 8>, kvc::quant::run<16, 4>>>;
#else
using cache = kvc::compose<kvc::shape<4, 8, 4, 64>, kvc::quant::graded<kvc::quant::run<32, 8>, kvc::quant::run<32, 4>>>;
#endif

constexpr auto bytes = cache::bytes_per_token;
