// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: kvc: compose: heads::latent and dims::latent imply each other; give both or neither
#include <kvc/cache/compose.hpp>

#ifdef KVC_SHOULD_FAIL
using cache = kvc::compose<kvc::shape<4, 8, 4, 64>, kvc::heads::latent>;
#else
using cache = kvc::compose<kvc::shape<4, 8, 4, 64>, kvc::heads::latent, kvc::dims::latent<128, 32> >;
#endif

constexpr auto bytes = cache::bytes_per_token;
