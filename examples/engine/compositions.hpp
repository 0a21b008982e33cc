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
  using ends = kvc::quant::exact_ends<4, 8, Codec>;  // the first 4 tokens and the newest 8 stay in bf16
  using int4_rotated = kvc::compose<model, kvc::quant::rotated<kvc::quant::integer<4, 64, kvc::quant::midrise>>>;
  using int4_centred =
      kvc::compose<model,
                   ends<kvc::quant::centred<kvc::quant::rotated<kvc::quant::integer<4, 64, kvc::quant::midrise>>>>>;
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

  // Mixtures: keys before their rotary embedding in a query-aware basis, the strong coordinates in more bits than the
  // weak, all centred; values centred and rotated. part<n> is n of 64 channels, for heads of D.
  template <int N>
  static constexpr int part = D* N / 64 / 8 * 8;
  template <class Keys, class Values>
  using mixture = kvc::compose<
      model, kvc::rotary::deferred<>, kvc::dims::split<kvc::dims::low_rank<Keys::channels>, kvc::dims::full>,
      kvc::quant::split<ends<kvc::quant::centred<Keys>>, ends<kvc::quant::centred<kvc::quant::rotated<Values>>>>>;
  template <int Bits>
  using values = kvc::quant::integer<Bits, 64, kvc::quant::midrise>;
  template <int N, int Bits>
  using run = kvc::quant::run<N, Bits>;
  // About 3, 3.5 and 4.5 bits per value with all metadata and exact rows.
  using mixture3 =
      mixture<kvc::quant::tapered<run<part<8>, 6>, run<part<16>, 3>, run<part<48> - part<8> - part<16>, 2>>, values<3>>;
  using mixture35 = mixture<
      kvc::quant::tapered<run<part<8>, 6>, run<part<16>, 4>, run<part<16>, 3>, run<D - part<8> - 2 * part<16>, 2>>,
      values<3>>;
  using mixture45 = mixture<kvc::quant::tapered<run<part<8>, 8>, run<part<8>, 6>, run<part<24>, 4>, run<part<16>, 3>,
                                                run<D - 2 * part<8> - part<24> - part<16>, 2>>,
                            values<4>>;

  /// Calibrated caches are built for the commonest head dims alone, for the sake of compile time.
  static constexpr bool has_calibrated = D == 64 || D == 128;

  /// Calls f.template operator()<Spec>(name, summary) for each, in the order of the report's table.
  template <class F>
  static void for_each(const F& f) {
    for_group<0>(f);
    for_group<1>(f);
    for_group<2>(f);
    for_group<3>(f);
  }

  /// The same for a part of them, which is compiled apart.
  template <int Group, class F>
  static void for_group(const F& f) {
    static_assert(Group >= 0 && Group < 4);
    if constexpr (Group == 0) {
      f.template operator()<fp32>("fp32", "keys and values in fp32: the yardstick");
      f.template operator()<bf16>("bf16", "bf16, what most engines store");
      f.template operator()<int8>("int8", "8 bit symmetric, groups of 64 channels of a token");
      f.template operator()<fp8>("fp8", "E4M3 without a scale");
      f.template operator()<key8_value4>("k8-v4", "8-bit keys, 4-bit values");
    }
    if constexpr (Group == 1) {
      f.template operator()<int4>("int4", "4 bit affine, groups of 32 channels of a token");
      f.template operator()<int4_rotated>("int4-rotated", "4 bit, one scale per head and token, Hadamard-rotated");
      f.template operator()<channel4>("channel4",
                                      "keys 4 bit per channel over 32 tokens, values 4 bit per token (KIVI)");
      f.template operator()<channel2>("channel2", "the same in 2 bit");
      f.template operator()<sinks_window>("sinks-window", "the first 4 and the newest 512 tokens, bf16 (StreamingLLM)");
      f.template operator()<shared_layers>("shared-layers",
                                           "an eighth of the layers read another's rows, bf16 (KVSharer)");
    }
    if constexpr (Group == 2 && has_calibrated) {
      f.template operator()<int4_centred>("int4-centred-rotated",
                                          "4 bit rotated, means taken off, first 4 and newest 8 tokens exact");
      f.template operator()<mixture45>("mixture-4.5",
                                       "tapered keys before rotary in a query-aware basis, rotated values");
      f.template operator()<mixture35>("mixture-3.5", "the same with fewer bits");
    }
    if constexpr (Group == 3 && has_calibrated) {
      f.template operator()<mixture3>("mixture-3", "the same, a quarter of the key coordinates dropped");
      f.template operator()<low_rank>("low-rank", "three quarters of the dimensions, bf16");
      f.template operator()<pruned>("pruned-keys", "three quarters of the key channels, bf16 (ThinK)");
    }
  }
};

}  // namespace engine
