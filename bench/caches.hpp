// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <kvc/kvc.hpp>

namespace kvc_bench {

/// The compositions that benchmarks measure, for one layer of 32 query heads and 8 KV heads of D channels.
template <int D>
struct caches {
  using model = kvc::shape<1, 32, 8, D>;
  template <int Bits, int Group, kvc::quant::grid Grid = kvc::quant::affine>
  using integer = kvc::quant::integer<Bits, Group, Grid>;
  template <int Bits, int Group = 32>
  using channels = kvc::quant::integer<Bits, Group, kvc::quant::affine, kvc::quant::per_channel>;
  template <class C>
  using ends = kvc::quant::exact_ends<4, 8, C>;

  using bf16 = kvc::compose<model>;
  using fp32 = kvc::compose<model, kvc::quant::none<float>>;
  using fp8 = kvc::compose<model, kvc::quant::fp8_e4m3<>>;
  using int8 = kvc::compose<model, integer<8, 64, kvc::quant::symmetric>>;
  using int4 = kvc::compose<model, integer<4, 128>>;
  using int4_32 = kvc::compose<model, integer<4, 32>>;
  using int3 = kvc::compose<model, integer<3, 128>>;
  using int2 = kvc::compose<model, integer<2, 128>>;
  using rotated = kvc::compose<model, kvc::quant::rotated<integer<4, 64, kvc::quant::midrise>>>;
  using centred =
      kvc::compose<model, ends<kvc::quant::centred<kvc::quant::rotated<integer<4, 64, kvc::quant::midrise>>>>>;
  using k8v4 = kvc::compose<model, kvc::quant::split<integer<8, 64, kvc::quant::symmetric>, integer<4, 32>>>;
  using channel4 = kvc::compose<model, kvc::quant::split<channels<4>, integer<4, 32>>>;
  using channel2 = kvc::compose<model, kvc::quant::split<channels<2>, integer<2, 32>>>;
  using channel2_128 = kvc::compose<model, kvc::quant::split<channels<2, 128>, integer<2, 128>>, kvc::storage<128>>;
  using low_rank = kvc::compose<model, kvc::dims::low_rank<96>>;
  // Keys before their rotary embedding: expanded and turned tile by tile.
  using deferred = kvc::compose<model, kvc::rotary::deferred<>, kvc::quant::split<channels<4>, integer<4, 32>>>;
  template <int N, int Bits>
  using run = kvc::quant::run<N, Bits>;
  using mixture45 = kvc::compose<
      model, kvc::rotary::deferred<>, kvc::dims::split<kvc::dims::low_rank<128>, kvc::dims::full>,
      kvc::quant::split<
          ends<kvc::quant::centred<kvc::quant::tapered<run<16, 8>, run<16, 6>, run<48, 4>, run<32, 3>, run<16, 2>>>>,
          ends<kvc::quant::centred<kvc::quant::rotated<integer<4, 64, kvc::quant::midrise>>>>>>;
  using window = kvc::compose<model, kvc::tokens::sinks_and_window<4, 512>>;
};

using flagship = kvc::clla_cache<kvc::shape<2, 16, 16, 128>>;

}  // namespace kvc_bench
