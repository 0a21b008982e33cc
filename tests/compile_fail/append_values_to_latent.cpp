// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: kvc: a latent cache appends one array of \(latent \| rotary key\) rows, and no values
#include <kvc/host/cache.hpp>

#ifdef KVC_SHOULD_FAIL
template <class C>
void use(C& cache, const float* rows) {
  cache.append(0, rows, rows);  // keys and values
}
#else
template <class C>
void use(C& cache, const float* rows) {
  cache.append(0, rows);
}
#endif

using latent = kvc::compose<kvc::shape<2, 8, 8, 64>, kvc::heads::latent, kvc::dims::latent<128, 32>>;
void call(kvc::host::cache<latent>& cache, const float* rows) {
  use(cache, rows);
}
