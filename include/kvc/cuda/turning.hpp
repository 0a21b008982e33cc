// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cache/transform.hpp"
#include "kvc/quant/quant.hpp"
#include "kvc/rotary/deferred.hpp"

// Keys that are stored before their rotary embedding: where the two channels of a pair lie, and whether a key can be
// turned as it is decoded.

namespace kvc::inline v0_1::cuda::detail {

/// The order of channels of an expanded row: those of a pair are neighbours. Another policy's pairs are unknown.
template <class Rotary, int Width>
struct pair_order {
  static constexpr bool exists = false;
  static constexpr bool in_chunks = false;
  static constexpr bool halves = false;
  KVC_HD static constexpr int channel(int position) { return position; }
};

template <rotary::pairs Pairs, int Dims, int Width>
struct pair_order<rotary::deferred<Pairs, Dims>, Width> {
  static constexpr bool exists = true;
  static constexpr int count = rotary::deferred<Pairs, Dims>::template pair_count<Width>;
  static constexpr bool is_all = 2 * count >= round_up(Width, 16);  ///< every channel of a chunk is turned
  static constexpr bool halves = Pairs == rotary::pairs::half_split;
  /// Whether a chunk of 16 channels, or two of them, hold whole pairs.
  static constexpr bool in_chunks = !halves || (2 * count == Width && count % 16 == 0);

  /// Of 16 positions, those that a thread has of a product's 2 x 8 columns are two neighbouring pairs: their angles are
  /// one load. Pairs beyond count are channels that are not turned.
  KVC_HD static constexpr int pair(int position) { return position / 16 * 8 + position % 8 / 2 * 2 + position / 8 % 2; }
  KVC_HD static constexpr int channel(int position) {
    const int p = pair(position);
    return halves && p < count ? p + position % 2 * count : 2 * p + position % 2;
  }
};

/// Wrappers that leave a row as it is but for a mean: none, or one quant::centred.
template <class Q>
struct shifting {
  static constexpr bool exists = !quant::is_wrapper<Q>;
  static constexpr bool has_mean = false;
};
template <int First, int Last, class Q>
struct shifting<quant::exact_ends<First, Last, Q>> : shifting<Q> {};
template <class Q>
struct shifting<quant::centred<Q>> {
  static constexpr bool exists = shifting<Q>::exists && !shifting<Q>::has_mean;
  static constexpr bool has_mean = true;
};

/// Rows that are turned as they are decoded, as nothing but a mean stands between what is stored and the model's row.
template <class Stream>
struct turning {
  using order = pair_order<typename Stream::rotary_policy, Stream::model_width>;
  using shift = shifting<typename Stream::quant_policy>;
  static constexpr bool exists =
      Stream::is_deferred && order::in_chunks && transform<Stream>::dims_are_identity && shift::exists;
  static constexpr bool has_mean = shift::has_mean;
  static constexpr int chunks = order::halves ? 2 : 1;  ///< that hold whole pairs
};

}  // namespace kvc::inline v0_1::cuda::detail
