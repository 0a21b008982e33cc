// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: kvc: quant::integer<Bits, Group> has 2 to 8 bits
// expect: kvc: quant::integer<Bits, Group> needs Group >= 1
// expect: kvc: quant::integer per channel groups tokens: give Group, at most 1024
// expect: kvc: quant::none<T> stores float, kvc::bf16 or kvc::fp16
// expect: kvc: quant::fp8_e4m3<Group> needs Group >= 0 \(0: no scale\)
// expect: kvc: quant::run<N, Bits>: N channels do not fill whole bytes at this many bits
// expect: kvc: quant::tapered needs at least one quant::run<N, Bits>
// expect: kvc: quant::graded needs at least one quant::run<N, Bits>
// expect: kvc: quant::exact_ends<First, Last, Codec> needs First >= 0 and Last >= 0
#include <kvc/quant/quant.hpp>

#ifdef KVC_SHOULD_FAIL
template struct kvc::quant::integer<1, 32>;
template struct kvc::quant::integer<4, 0>;
template struct kvc::quant::integer<4, kvc::quant::whole_segment, kvc::quant::affine, kvc::quant::per_channel>;
template struct kvc::quant::none<double>;
template struct kvc::quant::fp8_e4m3<-1>;
template struct kvc::quant::run<12, 3>;
template struct kvc::quant::tapered<>;
template struct kvc::quant::graded<>;
template struct kvc::quant::exact_ends<-1, 4, kvc::quant::none<>>;
#else
template struct kvc::quant::integer<2, 32>;
template struct kvc::quant::integer<4, 1>;
template struct kvc::quant::integer<4, 64, kvc::quant::affine, kvc::quant::per_channel>;
template struct kvc::quant::none<float>;
template struct kvc::quant::fp8_e4m3<0>;
template struct kvc::quant::run<16, 3>;
template struct kvc::quant::tapered<kvc::quant::run<8, 4>>;
template struct kvc::quant::graded<kvc::quant::run<8, 4>>;
template struct kvc::quant::exact_ends<0, 4, kvc::quant::none<>>;
#endif
