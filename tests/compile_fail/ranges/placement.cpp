// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: kvc: layers::shared<S> needs S >= 1 \(S = 1 is layers::own\)
// expect: kvc: heads::grouped<G> needs G >= 1 query heads per stored row
// expect: kvc: tokens::sinks_and_window<S, W> needs S >= 0 and W >= 1
// expect: kvc: rotary::deferred<Pairs, Dims> turns an even number of channels
// expect: kvc: dims::low_rank<R> needs R >= 1
// expect: kvc: dims::pruned<N> needs N >= 1 kept channels
// expect: kvc: dims::latent<R, Rotary> needs R >= 1 and Rotary >= 1 channels
// expect: kvc: storage<TokensPerPage> must be a power of two, at least 16
// expect: kvc: storage: RollbackRows must not be negative
#include <kvc/cache/compose.hpp>

#ifdef KVC_SHOULD_FAIL
template struct kvc::layers::shared<0>;
template struct kvc::heads::grouped<0>;
template struct kvc::tokens::sinks_and_window<4, 0>;
template struct kvc::rotary::deferred<kvc::rotary::pairs::interleaved, 3>;
template struct kvc::dims::low_rank<0>;
template struct kvc::dims::pruned<0>;
template struct kvc::dims::latent<512, 0>;
template struct kvc::storage<48>;
template struct kvc::storage<64, kvc::layout::portable, -1>;
#else
template struct kvc::layers::shared<1>;
template struct kvc::heads::grouped<1>;
template struct kvc::tokens::sinks_and_window<4, 1>;
template struct kvc::rotary::deferred<kvc::rotary::pairs::interleaved, 4>;
template struct kvc::dims::low_rank<8>;
template struct kvc::dims::pruned<8>;
template struct kvc::dims::latent<512, 64>;
template struct kvc::storage<64>;
template struct kvc::storage<64, kvc::layout::portable, 0>;
#endif
