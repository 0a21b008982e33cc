// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Byte counts of compositions, worked out by hand, and the rules of composing.
#include <doctest/doctest.h>

#include <kvc/methods/clla.hpp>
#include <kvc/methods/published.hpp>
#include <string>
#include <type_traits>

namespace {

using namespace kvc;
using model = shape<32, 16, 16, 128>;

// ---- The flagship: 16 slots of one row: 512 + 64 codes of 4 bit, 4 + 1 groups with fp16 scale and offset.
using clla = clla_cache<model>;
static_assert(clla::first_stream::row_bytes == 256 && clla::first_stream::group_bytes == 16);
static_assert(clla::second_stream::row_bytes == 32 && clla::second_stream::group_bytes == 4);
static_assert(clla::page_bytes(1) == 64 * 308);
static_assert(clla::bytes_per_token == 16 * 308);
static_assert(clla::bytes_per_token == 4928);
static_assert(clla::bytes_per_token_per_layer == 154.0);
static_assert(clla::ratio_to_mha16 > 0.01875 && clla::ratio_to_mha16 <= 0.0188);
static_assert(clla::tail_bytes_per_sequence == 0);
static_assert(!clla::has_tail && !clla::has_ring);
static_assert(clla::key_width == 576 && clla::query_width == 576 && clla::output_width == 512);
static_assert(clla::values_are_first);

// ---- The default is the model's own cache in bf16.
static_assert(std::is_same_v<compose<model>::quant_policy, quant::none<bf16>>);
static_assert(compose<model>::bytes_per_token == 32 * 16 * 2 * 128 * 2);
static_assert(compose<model>::ratio_to_mha16 == 1.0 && compose<model>::ratio_to_model16 == 1.0);
static_assert(compose<model>::tail_bytes_per_sequence == 0);

// ---- Grouped-query attention: the ratios differ.
using gqa_model = shape<30, 9, 3, 64>;
static_assert(compose<gqa_model>::bytes_per_token == 30 * 3 * 2 * 64 * 2);
static_assert(compose<gqa_model>::ratio_to_model16 == 1.0);
static_assert(compose<gqa_model>::ratio_to_mha16 > 0.3333 && compose<gqa_model>::ratio_to_mha16 < 0.3334);

// ---- int4 per token in groups of 32: 64 channels are 32 bytes of codes and 2 * 4 of constants.
using int4 = compose<gqa_model, quant::integer<4, 32>>;
static_assert(int4::bytes_per_token == 30 * 3 * 2 * (32 + 8));
static_assert(int4::bytes_per_token_per_layer == 240.0);
static_assert(int4::ratio_to_model16 == 240.0 / 768.0);

// ---- Keys per channel over 32 tokens: their constants are shared by a group, and the tail is exact.
using kivi = methods::kivi<gqa_model>;
static_assert(kivi::first_stream::row_bytes == 16 && kivi::first_stream::group_bytes == 64 * 4);
static_assert(kivi::bytes_per_token == 30 * 3 * ((16 + 8) + (16 + 8)));
static_assert(kivi::has_ring && !kivi::second_stream::has_ring);
static_assert(kivi::tail_bytes_per_sequence == 30 * 3 * kivi::first_stream::exact_rows * 64 * 2);

// ---- Exact ends: rows beside the pages, of keys and values.
using ends = compose<gqa_model, quant::exact_ends<4, 16, quant::integer<4, 32>>>;
static_assert(ends::bytes_per_token == int4::bytes_per_token);
static_assert(ends::first_stream::first_rows == 4 && ends::first_stream::exact_rows >= 4 + 16);
static_assert(ends::tail_bytes_per_sequence == 30 * 3 * 2 * ends::first_stream::exact_rows * 64 * 2);

// ---- Other axes.
static_assert(methods::cla<model>::bytes_per_token == compose<model>::bytes_per_token / 2);
static_assert(methods::mqa<model>::bytes_per_token == compose<model>::bytes_per_token / 16);
static_assert(methods::gqa<model, 4>::bytes_per_token == compose<model>::bytes_per_token / 4);
static_assert(methods::mla<model>::bytes_per_token == 32 * 576 * 2);
static_assert(methods::think<model, 64>::bytes_per_token == compose<model>::bytes_per_token / 4 * 3);
static_assert(compose<model, dims::low_rank<32>>::bytes_per_token == compose<model>::bytes_per_token / 4);
static_assert(compose<shape<5, 4, 4, 64>, layers::shared<2>>::bytes_per_token == 3 * 4 * 2 * 128);  // 5 layers: 3 slots
static_assert(compose<shape<4, 4, 4, 64>, layers::mapped<0, 0, 0, 3>>::bytes_per_token == 2 * 4 * 2 * 128);
static_assert(compose<model, quant::fp8_e4m3<>>::ratio_to_mha16 == 0.5);
static_assert(compose<model, quant::graded<quant::run<32, 8>, quant::run<96, 2>>>::bytes_per_token ==
              32 * 16 * 2 * (32 + 24 + 4));
static_assert(compose<model, quant::split<quant::integer<8, 128>, quant::integer<4, 128>>>::bytes_per_token ==
              32 * 16 * (132 + 68));
static_assert(compose<model, quant::rotated<quant::centred<quant::integer<4, 128>>>>::bytes_per_token ==
              32 * 16 * 2 * 68);

// ---- A list of policies has no order: one canonical type.
template <class... P>
using small = compose<shape<4, 8, 4, 64>, P...>;
using L = layers::shared<2>;
using H = heads::grouped<4>;
using R = rotary::deferred<>;
using D = dims::low_rank<32>;
using Q = quant::integer<4, 32>;
using T = tokens::sinks_and_window<4, 64>;
using S = storage<32>;
static_assert(std::is_same_v<small<L, H, R, D, Q, T, S>, small<S, T, Q, D, R, H, L>>);
static_assert(std::is_same_v<small<L, H, R, D, Q, T, S>, small<Q, L, T, H, S, R, D>>);
static_assert(std::is_same_v<small<Q, L>, small<L, Q>>);
static_assert(std::is_same_v<small<>, small<quant::none<bf16>, tokens::all, layers::own, storage<>, rotary::applied,
                                            heads::all, dims::full>>);
static_assert(!std::is_same_v<small<Q>, small<quant::integer<4, 64>>>);

// ---- Dynamic extents: the same bytes, from a function; no static members.
template <class Spec>
concept has_static_sizes = requires {
  Spec::bytes_per_token;
};
static_assert(has_static_sizes<compose<model>>);
static_assert(!has_static_sizes<compose<shape<dynamic, 16, 16, 128>>>);
static_assert(!has_static_sizes<compose<shape<32, dynamic, dynamic, 128>>>);

template <class... P>
constexpr int64 dynamic_bytes() {
  extents<compose<shape<dynamic, dynamic, dynamic, 128>, P...>> e;
  e.layers = 32;
  e.query_heads = 16;
  e.kv_heads = 16;
  return bytes_per_token(e);
}
template <class... P>
constexpr bool same_bytes =
    dynamic_bytes<P...>() == compose<model, P...>::bytes_per_token&& bytes_per_token(extents<compose<model, P...>>{}) ==
    compose<model, P...>::bytes_per_token;
static_assert(same_bytes<>);
static_assert(same_bytes<quant::integer<4, 32>, layers::shared<2>>);
static_assert(same_bytes<heads::latent, dims::latent<512, 64>, layers::shared<2>, quant::integer<4, 128>>);
static_assert(same_bytes<heads::grouped<4>, dims::pruned<64>, quant::fp8_e4m3<32>>);
static_assert(dynamic_bytes<heads::latent, dims::latent<512, 64>, layers::shared<2>, quant::integer<4, 128>>() == 4928);

// ---- A user's own policies, written with no registration.
struct half_of_the_layers {
  using axis = layers_axis;
  static constexpr auto name = text("half_of_the_layers");  // the second half reads the first
  KVC_HD static constexpr int leader(int layer, const int32*) { return layer < 16 ? layer : layer - 16; }
};
struct three_bytes_per_pair {
  using axis = quant_axis;
  static constexpr auto name = text("three_bytes_per_pair");
  static constexpr int tokens_per_group = 1;
  template <int Width>
  static constexpr int row_bytes = Width / 2 * 3;
  template <int Width>
  static constexpr int group_bytes = 4;
  template <int Width>
  static void encode(const float*, int, int, byte*, byte*) {}
  template <int Width>
  static void decode(const byte*, const byte*, int, int, float*) {}
  template <int Width>
  static void bound(const float*, int, int, float*) {}
};
using own_policies = compose<model, three_bytes_per_pair, half_of_the_layers>;
static_assert(own_policies::bytes_per_token == 16 * 16 * 2 * (192 + 4));
static_assert(std::is_same_v<own_policies::quant_policy, three_bytes_per_pair>);

}  // namespace

TEST_CASE("the name of a composition tells every policy") {
  CHECK(std::string(clla::name().c_str()) ==
        "kvc<shared<2>,latent,applied,latent<512,64>,integer<4,128,affine,per_token,fp16>,all,storage<64,portable,8>>");
  CHECK(std::string(own_policies::name().c_str()).find("three_bytes_per_pair") != std::string::npos);
}

TEST_CASE("run-time extents are refused where they do not fit the composition") {
  using spec = compose<shape<dynamic, dynamic, dynamic, 64>, heads::grouped<4>>;
  extents<spec> e;
  e.layers = 4;
  e.query_heads = 8;
  e.kv_heads = 4;
  CHECK(e.validate() == status::ok);
  CHECK(e.stored_heads() == 2);
  CHECK(e.merged() == 2);
  CHECK(e.group() == 4);
  e.query_heads = 6;
  CHECK(e.validate() == status::bad_extents);
  e.query_heads = 8;
  e.kv_heads = 3;
  CHECK(e.validate() == status::bad_extents);
  e.kv_heads = 4;
  e.layers = 0;
  CHECK(e.validate() == status::bad_extents);

  using fixed = compose<shape<4, 8, 4, 64>>;
  extents<fixed> f;
  CHECK(f.validate() == status::ok);
  f.layers = 5;
  CHECK(f.validate() == status::bad_extents);

  using table = compose<shape<4, 8, 4, 64>, layers::mapped<dynamic>>;
  extents<table> t;
  CHECK(t.validate() == status::null_pointer);
  const int32 good[] = {0, 0, 2, 2};
  const int32 bad[] = {0, 0, 1, 1};
  t.leaders = good;
  CHECK(t.validate() == status::ok);
  CHECK(t.slots() == 2);
  CHECK(t.slot(3) == 1);
  CHECK(t.writes(2));
  CHECK_FALSE(t.writes(3));
  CHECK(bytes_per_token(t) == 2 * 4 * 2 * 128);
  t.leaders = bad;
  CHECK(t.validate() == status::bad_layer_map);
}
