// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: kvc: compose: a latent cache stores its rotary key after the embedding; rotary::deferred does not
#include <kvc/cache/compose.hpp>

#ifdef KVC_SHOULD_FAIL
using cache =
    kvc::compose<kvc::shape<4, 8, 4, 64>, kvc::heads::latent, kvc::dims::latent<128, 32>, kvc::rotary::deferred<>>;
#else
using cache =
    kvc::compose<kvc::shape<4, 8, 4, 64>, kvc::heads::latent, kvc::dims::latent<128, 32>, kvc::rotary::applied>;
#endif

constexpr auto bytes = cache::bytes_per_token;
