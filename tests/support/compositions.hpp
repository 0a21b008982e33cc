// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <kvc/kvc.hpp>

// A covering set of compositions: each pair of policies of different axes meets in at least one of them, where the pair
// is legal. Every codec also meets every dims policy on one and the same stream. cache/covering.cpp proves it.
//
// Small on purpose: few layers and heads, narrow rows. All head dims that models have in practice occur.

namespace kvc_test {

using kvc::compose;
using kvc::dynamic;
using kvc::shape;
using kvc::storage;
using kvc::dims::full, kvc::dims::low_rank, kvc::dims::pruned;
using kvc::heads::grouped;
using kvc::heads::single;
using kvc::layers::mapped;
using kvc::layers::shared;
using kvc::quant::affine, kvc::quant::midrise, kvc::quant::per_channel, kvc::quant::per_token;
using kvc::quant::centred, kvc::quant::exact_ends, kvc::quant::graded, kvc::quant::integer, kvc::quant::none;
using kvc::quant::rotated, kvc::quant::run, kvc::quant::scale_type;
using kvc::quant::symmetric, kvc::quant::whole_segment, kvc::quant::fp8_e4m3;
using kvc::tokens::sinks_and_window;

template <class K, class V>
using kv = kvc::quant::split<K, V>;
template <class K, class V>
using kv_dims = kvc::dims::split<K, V>;
template <int Dims = 0>
using interleaved = kvc::rotary::deferred<kvc::rotary::pairs::interleaved, Dims>;
template <int Dims = 0>
using half_split = kvc::rotary::deferred<kvc::rotary::pairs::half_split, Dims>;
template <int Head>
using dynamic_shape = shape<dynamic, dynamic, dynamic, Head>;
template <int Rank, int Rotary>
using latent = kvc::dims::latent<Rank, Rotary>;

template <class... T>
struct list {};

// Keys are named first, values second; of a latent the joint row first, the rotary key second.
using compositions_1 =
    list<compose<shape<4, 4, 2, 32>, shared<2>, half_split<>, sinks_and_window<2, 24>, storage<16>,
                 kv<exact_ends<0, 5, rotated<integer<8, 16>>>,
                    exact_ends<0, 3, graded<run<8, 6>, run<16, 4, affine>, run<8, 2, symmetric>>>>>,
         compose<shape<dynamic, 4, 4, 32>, mapped<dynamic>, grouped<2>, half_split<16>, sinks_and_window<4, 80>,
                 kv_dims<low_rank<16>, full>,
                 kv<exact_ends<0, 7, rotated<integer<4, 16>>>, exact_ends<3, 0, rotated<integer<2, 16>>>>>,
         compose<dynamic_shape<48>, mapped<dynamic>, grouped<2>, pruned<40>, sinks_and_window<3, 20>, storage<16>,
                 kv<exact_ends<2, 4, rotated<none<kvc::bf16>>>, none<kvc::fp16>>>,
         compose<shape<3, 4, 4, 32>, mapped<0, 1, 0>, grouped<2>, interleaved<>, sinks_and_window<0, 40>,
                 kv_dims<full, pruned<24>>,
                 kv<none<kvc::bf16>, centred<graded<run<8, 6>, run<8, 4>, run<8, 3, affine, scale_type::fp32>>>>>,
         compose<shape<2, 4, 2, 64>>>;

using compositions_2 =
    list<compose<dynamic_shape<32>, mapped<dynamic>, grouped<2>, half_split<>, sinks_and_window<1, 33>, storage<32>,
                 kv_dims<pruned<24>, low_rank<16>>,
                 kv<exact_ends<2, 3, centred<integer<2, 8>>>, exact_ends<5, 0, graded<run<8, 6>, run<8, 3>>>>>,
         compose<shape<2, 4, 2, 64>, grouped<2>, half_split<>, storage<32>, kv_dims<low_rank<32>, pruned<48>>,
                 kv<exact_ends<4, 0, rotated<centred<integer<2, 32>>>>, centred<integer<8, whole_segment, symmetric>>>>,
         compose<shape<2, 4, 2, 32>, single, half_split<>, kv_dims<pruned<16>, low_rank<24>>,
                 kv<centred<none<float>>, rotated<graded<run<16, 4>, run<8, 3, affine>>>>>,
         compose<shape<3, 4, 2, 32>, shared<2>, grouped<2>, interleaved<16>, sinks_and_window<4, 48>, storage<32>,
                 low_rank<24>, kv<exact_ends<3, 6, rotated<integer<3, 8>>>, integer<2, 32, affine, per_channel>>>,
         compose<shape<2, 4, 2, 64>, integer<4, 32>, storage<16>>>;

using compositions_3 =
    list<compose<shape<3, 2, 2, 80>, mapped<0, 0, 2>, interleaved<>, storage<32>, kv_dims<full, low_rank<40>>,
                 kv<centred<integer<6, 20>>, exact_ends<6, 0, none<kvc::bf16>>>>,
         compose<shape<3, 2, 1, 96>, mapped<0, 1, 1>, grouped<2>, half_split<32>, kv_dims<full, low_rank<32>>,
                 kv<fp8_e4m3<>, exact_ends<0, 9, rotated<integer<6, 16, symmetric>>>>>,
         compose<shape<2, 4, 2, 32>, mapped<0, 0>, grouped<2>, sinks_and_window<2, 70>, kv_dims<low_rank<16>, full>,
                 kv<integer<4, 64, affine, per_channel>, exact_ends<1, 0, none<kvc::fp16>>>>,
         compose<shape<2, 2, 1, 128>, storage<16>, kv_dims<full, pruned<64>>,
                 kv<integer<3, 32, midrise>, exact_ends<2, 0, fp8_e4m3<32>>>>,
         compose<dynamic_shape<256>, mapped<dynamic>, single, interleaved<64>, storage<32>,
                 kv<fp8_e4m3<64, scale_type::fp32>,
                    exact_ends<0, 10, integer<2, 16, affine, per_channel, scale_type::fp32>>>>>;

using compositions_4 =
    list<compose<shape<4, 6, 6, 32>, shared<2>, grouped<3>, storage<32>, low_rank<24>,
                 kv<exact_ends<3, 0, centred<none<kvc::fp16>>>, centred<fp8_e4m3<whole_segment>>>>,
         compose<dynamic_shape<32>, mapped<dynamic>, half_split<>, kv_dims<pruned<16>, full>,
                 kv<exact_ends<5, 0, integer<2, 16, symmetric, per_channel>>, exact_ends<0, 2, none<float>>>>,
         compose<shape<2, 4, 4, 64>, grouped<2>, interleaved<>, storage<16, kvc::layout::portable, 3>,
                 kv_dims<full, low_rank<32>>,
                 kv<exact_ends<0, 6, integer<4, 16, midrise, per_channel>>, integer<8, 32, midrise>>>,
         compose<shape<2, 4, 2, 16>, single, storage<16>, kv_dims<low_rank<8>, pruned<8>>,
                 kv<none<float>, centred<integer<3, 8, symmetric, per_token, scale_type::fp32>>>>,
         compose<shape<3, 4, 1, 32>, mapped<0, 1, 0>, single, interleaved<>, sinks_and_window<3, 30>, storage<16>,
                 pruned<24>,
                 kv<rotated<integer<4, 24, midrise>>, rotated<exact_ends<2, 3, integer<4, 8, affine, per_channel>>>>>,
         compose<shape<3, 4, 2, 16>, shared<2>, single, interleaved<>, storage<32>, kv_dims<pruned<8>, full>,
                 kv<integer<6, 8>, rotated<integer<4, 16>>>>>;

using compositions_5 =
    list<compose<shape<3, 3, 3, 32>, mapped<0, 0, 2>, kvc::heads::latent, latent<32, 16>, sinks_and_window<2, 50>,
                 kv<integer<2, 16, affine, per_channel>, exact_ends<2, 5, graded<run<8, 6>, run<8, 3>>>>>,
         compose<shape<2, 3, 3, 32>, kvc::heads::latent, latent<48, 16>, sinks_and_window<4, 24>, storage<16>,
                 kv<centred<fp8_e4m3<16>>, exact_ends<4, 0, integer<6, 16>>>>,
         compose<dynamic_shape<32>, mapped<dynamic>, kvc::heads::latent, latent<64, 8>, sinks_and_window<0, 64>,
                 kv<integer<2, 32>, exact_ends<0, 4, integer<4, 32, affine, per_channel>>>>,
         compose<shape<4, 3, 3, 32>, shared<2>, kvc::heads::latent, latent<24, 8>, sinks_and_window<5, 90>,
                 kv<none<kvc::bf16>, exact_ends<3, 2, centred<integer<4, 8, symmetric>>>>>,
         compose<shape<2, 3, 3, 32>, mapped<0, 0>, kvc::heads::latent, latent<32, 8>, storage<32>,
                 kv<integer<8, 16, affine, per_token, scale_type::fp32>, rotated<none<float>>>>,
         compose<dynamic_shape<32>, mapped<dynamic>, kvc::heads::latent, latent<40, 24>,
                 kv<integer<3, 8>, exact_ends<6, 0, rotated<none<kvc::fp16>>>>>,
         kvc::clla_cache<shape<2, 4, 4, 32>, 64, 16>>;

namespace detail {
template <class... Lists>
struct joined;
template <class... A>
struct joined<list<A...>> {
  using type = list<A...>;
};
template <class... A, class... B, class... Rest>
struct joined<list<A...>, list<B...>, Rest...> : joined<list<A..., B...>, Rest...> {};
}  // namespace detail

using all_compositions =
    typename detail::joined<compositions_1, compositions_2, compositions_3, compositions_4, compositions_5>::type;

/// Extents of a composition; where they are dynamic: 3 layers, the last of which reads the first, and 4 query heads.
template <class Spec>
kvc::extents<Spec> extents_of() {
  static constexpr kvc::int32 leaders[] = {0, 1, 0};
  kvc::extents<Spec> e;
  if (e.layers == dynamic) e.layers = 3;
  if (e.query_heads == dynamic) e.query_heads = 4;
  if (e.kv_heads == dynamic) e.kv_heads = 2;
  if constexpr (requires { Spec::layers_policy::needs_table; }) e.leaders = leaders;
  return e;
}

}  // namespace kvc_test
