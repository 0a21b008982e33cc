// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: kvc: append takes keys and values; only a latent cache takes joint rows
#include <kvc/host/cache.hpp>

#ifdef KVC_SHOULD_FAIL
template <class C>
void use(C& cache, const float* rows) {
  cache.append(0, rows);
}
#else
template <class C>
void use(C& cache, const float* rows) {
  cache.append(0, rows, rows);  // keys and values
}
#endif

using plain = kvc::compose<kvc::shape<2, 8, 8, 64>>;
void call(kvc::host::cache<plain>& cache, const float* rows) {
  use(cache, rows);
}
