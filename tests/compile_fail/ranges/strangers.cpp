// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: kvc: quant::split<K, V> takes two quant policies
// expect: kvc: quant::rotated<Codec> takes a quant policy
// expect: kvc: quant::centred<Codec> takes a quant policy
// expect: kvc: quant::exact_ends<First, Last, Codec> takes a quant policy
// expect: kvc: dims::split<K, V> takes two dims policies
// expect: kvc: dims::split<K, V>: a latent serves keys and values together; use dims::latent alone
#include <kvc/cache/compose.hpp>

#ifdef KVC_SHOULD_FAIL
template struct kvc::quant::split<kvc::quant::none<>, float>;
template struct kvc::quant::rotated<kvc::dims::full>;
template struct kvc::quant::centred<int>;
template struct kvc::quant::exact_ends<1, 1, kvc::bf16>;
template struct kvc::dims::split<kvc::dims::full, kvc::quant::none<>>;
template struct kvc::dims::split<kvc::dims::latent<128, 32>, kvc::dims::full>;
#else
template struct kvc::quant::split<kvc::quant::none<>, kvc::quant::none<float>>;
template struct kvc::quant::rotated<kvc::quant::none<>>;
template struct kvc::quant::centred<kvc::quant::none<>>;
template struct kvc::quant::exact_ends<1, 1, kvc::quant::none<kvc::bf16>>;
template struct kvc::dims::split<kvc::dims::full, kvc::dims::pruned<8>>;
template struct kvc::dims::latent<128, 32>;
#endif
