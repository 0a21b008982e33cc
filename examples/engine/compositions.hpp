// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/kvc.hpp"

// The caches of the engine and its report, each one a composition of kvc policies for a model with heads of D channels.
// Layer and head counts are known only when a model was read.

namespace engine {

template <int D>
struct compositions {
  using model = kvc::shape<kvc::dynamic, kvc::dynamic, kvc::dynamic, D>;

  // Element types.
  using fp32 = kvc::compose<model, kvc::quant::none<float>>;
  using bf16 = kvc::compose<model>;
  using fp8 = kvc::compose<model, kvc::quant::fp8_e4m3<>>;

  // Integers per token. int4 in groups of 32 costs 5 bits with its scales, the others 4.25.
  using int8 = kvc::compose<model, kvc::quant::integer<8, 64, kvc::quant::symmetric>>;
  using int4 = kvc::compose<model, kvc::quant::integer<4, 32>>;
  template <class Codec>
  using after_sinks = kvc::quant::exact_ends<4, 0, Codec>;
  using int4_rotated = kvc::compose<model, kvc::quant::rotated<kvc::quant::integer<4, 64, kvc::quant::midrise>>>;
  using int4_centred = kvc::compose<
      model, after_sinks<kvc::quant::centred<kvc::quant::rotated<kvc::quant::integer<4, 64, kvc::quant::midrise>>>>>;
  using key8_value4 =
      kvc::compose<model,
                   kvc::quant::split<kvc::quant::integer<8, 64, kvc::quant::symmetric>, kvc::quant::integer<4, 32>>>;

  // Keys per channel over 32 tokens, values per token (KIVI).
  template <int Bits>
  using per_channel_keys = kvc::quant::split<kvc::quant::integer<Bits, 32, kvc::quant::affine, kvc::quant::per_channel>,
                                             kvc::quant::integer<Bits, 32>>;
  using channel4 = kvc::compose<model, per_channel_keys<4>>;
  using channel2 = kvc::compose<model, per_channel_keys<2>>;

  // Fewer dimensions, layers, tokens; the elements stay in 16 bit.
  static constexpr int kept = D * 3 / 4 / 8 * 8;  // whole bytes at any width of an element
  using low_rank = kvc::compose<model, kvc::dims::low_rank<kept>>;
  using pruned = kvc::compose<model, kvc::dims::split<kvc::dims::pruned<kept>, kvc::dims::full>>;
  using shared_layers = kvc::compose<model, kvc::layers::mapped<kvc::dynamic>>;
  using sinks_window = kvc::compose<model, kvc::tokens::sinks_and_window<4, 512>>;

  // Keys before their rotary embedding, in a query-aware basis, with bits by variance; values centred and rotated.
  template <int High, int Middle, int Low>
  using graded =
      kvc::quant::graded<kvc::quant::run<D / 4, High>, kvc::quant::run<D / 4, Middle>, kvc::quant::run<D / 2, Low>>;
  template <class Keys, class Values>
  using mixture =
      kvc::compose<model, kvc::rotary::deferred<>, kvc::dims::split<kvc::dims::low_rank<D>, kvc::dims::full>,
                   kvc::quant::split<after_sinks<kvc::quant::centred<Keys>>,
                                     after_sinks<kvc::quant::centred<kvc::quant::rotated<Values>>>>>;
  using mixture4 = mixture<graded<6, 4, 3>, kvc::quant::integer<4, 64, kvc::quant::midrise>>;

  /// Calls f.template operator()<Spec>(name, summary) for each, in the order of the report's table.
  template <class F>
  static void for_each(const F& f) {
    f.template operator()<fp32>("fp32", "keys and values in fp32: the yardstick");
    f.template operator()<bf16>("bf16", "bf16, what most engines store");
    f.template operator()<int8>("int8", "8 bit symmetric, groups of 64 channels of a token");
    f.template operator()<fp8>("fp8", "E4M3 without a scale");
    f.template operator()<key8_value4>("k8-v4", "8-bit keys, 4-bit values");
    f.template operator()<int4>("int4", "4 bit affine, groups of 32 channels of a token");
    f.template operator()<int4_rotated>("int4-rotated", "4 bit, one scale per head and token, Hadamard-rotated");
    f.template operator()<int4_centred>("int4-centred-rotated", "the same, means taken off, first 4 tokens exact");
    f.template operator()<channel4>("channel4", "keys 4 bit per channel over 32 tokens, values 4 bit per token (KIVI)");
    f.template operator()<channel2>("channel2", "the same in 2 bit");
    f.template operator()<mixture4>("mixture", "graded keys before rotary in a query-aware basis, rotated values");
    f.template operator()<low_rank>("low-rank", "three quarters of the dimensions, bf16");
    f.template operator()<pruned>("pruned-keys", "three quarters of the key channels, bf16 (ThinK)");
    f.template operator()<shared_layers>("shared-layers", "four layers read another layer's rows, bf16 (KVSharer)");
    f.template operator()<sinks_window>("sinks-window", "the first 4 and the newest 512 tokens, bf16 (StreamingLLM)");
  }
};

}  // namespace engine
