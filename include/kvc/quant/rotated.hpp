// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/quant/concept.hpp"

namespace kvc::inline v0_1::quant {

/// +1 or -1 for channel i: the sign diagonal of the rotation, the top bit of a hash (MurmurHash3's finalizer). Part of
/// the format. The signs must look random to the Hadamard matrix: where they resemble one of its rows, as
/// multiplicative hashes do, a constant row would end up in a single channel.
KVC_HD constexpr float hadamard_sign(int i) {
  uint32 h = static_cast<uint32>(i) + 1u;
  h = (h ^ (h >> 16)) * 0x85ebca6bu;
  h = (h ^ (h >> 13)) * 0xc2b2ae35u;
  return ((h ^ (h >> 16)) >> 31) != 0 ? -1.0f : 1.0f;
}

namespace detail {

/// The signs of channels [32 * word, 32 * word + 32), one bit each, set where negative.
KVC_HD constexpr uint32 sign_word(int word) {
  uint32 bits = 0;
  for (int i = 0; i < 32; ++i) bits |= (hadamard_sign(32 * word + i) < 0 ? 1u : 0u) << i;
  return bits;
}
/// The same of words below Words, as a choice among constants.
template <int Words, int Word = 0>
KVC_HD uint32 sign_word_of(int word) {
  constexpr uint32 bits = sign_word(Word);
  if constexpr (Word + 1 >= Words) {
    return bits;
  } else {
    return word == Word ? bits : sign_word_of<Words, Word + 1>(word);
  }
}

/// What a rotation does beside the butterflies: signs before them (forward), after them (inverse).
enum class signs { none, before, after };

/// The butterflies of stride Half and up by a team: eight numbers per thread and pass, three strides of them in
/// registers, so that memory is passed through once per three strides.
template <int Width, int Block, int Half, signs Signs, class Team>
KVC_HD void butterflies(float* x, Team team) {
  constexpr int radix = min_of(8, Block / Half);
  constexpr bool first = Half == 1;
  constexpr bool last = Half * radix == Block;
  const float scale = 1.0f / sqrt_of(static_cast<float>(Block));
  for (int p = team.rank(); p < Width / radix; p += Team::size()) {
    const int i = p % Half + p / Half * (Half * radix);
    float y[radix];
    for (int k = 0; k < radix; ++k) y[k] = x[i + k * Half];
    if constexpr (first && Signs == signs::before) {
      for (int k = 0; k < radix; ++k) y[k] *= hadamard_sign(i + k * Half);
    }
    for (int half = 1; half < radix; half *= 2) {
      for (int k = 0; k < radix; ++k) {
        if ((k & half) != 0) continue;
        const float a = y[k];
        const float b = y[k + half];
        y[k] = a + b;
        y[k + half] = a - b;
      }
    }
    for (int k = 0; k < radix; ++k) {
      if constexpr (last) y[k] *= scale;
      if constexpr (last && Signs == signs::after) y[k] *= hadamard_sign(i + k * Half);
      x[i + k * Half] = y[k];
    }
  }
  team.sync();
  if constexpr (!last) butterflies<Width, Block, Half * radix, Signs>(x, team);
}

}  // namespace detail

namespace detail {

/// The butterflies of strides Half and up, in ascending order. Short strides are written over 16 lanes at a time:
/// compilers turn that into shuffles.
template <int Block, int Half>
KVC_HD void hadamard_stages(float* x) {
  if constexpr (Half < 16 && Block >= 16) {
    for (int base = 0; base < Block; base += 16) {
      float y[16];
      for (int l = 0; l < 16; ++l) {
        const float other = x[base + (l ^ Half)];
        y[l] = (l & Half) != 0 ? other - x[base + l] : x[base + l] + other;
      }
      for (int l = 0; l < 16; ++l) x[base + l] = y[l];
    }
  } else {
    for (int base = 0; base < Block; base += 2 * Half) {
      for (int i = base; i < base + Half; ++i) {
        const float a = x[i];
        const float b = x[i + Half];
        x[i] = a + b;
        x[i + Half] = a - b;
      }
    }
  }
  if constexpr (2 * Half < Block) hadamard_stages<Block, 2 * Half>(x);
}

}  // namespace detail

/// In place: y = H x / sqrt(Block), H the Sylvester-Hadamard matrix of order Block, butterflies in ascending stride.
template <int Block>
KVC_HD void hadamard(float* x) {
  if constexpr (Block > 1) detail::hadamard_stages<Block, 1>(x);
  const float scale = 1.0f / sqrt_of(static_cast<float>(Block));
  for (int i = 0; i < Block; ++i) x[i] = product_of(x[i], scale);
}

/// Rows are rotated before they are encoded: y = H S x in blocks of the largest power of two that divides the segment,
/// S a fixed diagonal of signs (QuaRot, arXiv 2404.00456). Orthonormal, so queries are rotated once instead of rows
/// back, and outputs once after the sum.
template <class Codec>
struct rotated {
  static_assert(is_on_axis<Codec, quant_axis>, "kvc: quant::rotated<Codec> takes a quant policy");

  using axis = quant_axis;
  using inner_codec = Codec;
  static constexpr auto name = named("rotated", Codec::name);
  template <int Width>
  static constexpr int block = Width & -Width;
  template <int Width>
  static constexpr int own_floats = 0;

  template <int Width>
  static void initialise(float* /*constants*/) {}
  /// Row into the codec's space.
  template <int Width, class Team = serial_team>
  KVC_HD static void forward(float* x, const float* /*constants*/, Team team = {}) {
    if constexpr (Team::size() > 1) {
      detail::butterflies<Width, block<Width>, 1, detail::signs::before>(x, team);
    } else if constexpr (requires { team.template rotate<Width, block<Width>>(x); }) {
      team.template rotate<Width, block<Width>>(x);
    } else {
      for (int i = 0; i < Width; ++i) x[i] *= hadamard_sign(i);
      for (int b = 0; b < Width; b += block<Width>) hadamard<block<Width>>(x + b);
    }
  }
  /// The same of a row in its team's registers: short strides within a thread, long ones between threads.
  template <int Width, class Team>
  requires(Width % Team::size() == 0 && 32 % (Width / Team::size()) == 0 && block<Width> % (Width / Team::size()) == 0)
      KVC_HD static void forward_share(float* x, const float* /*constants*/, Team team) {
    constexpr int own = Width / Team::size();
    const int first = team.rank() * own;
    const uint32 negative = detail::sign_word_of<(Width + 31) / 32>(first / 32) >> first % 32;
    for (int k = 0; k < own; ++k) x[k] = bits_float(float_bits(x[k]) ^ (negative >> k << 31));
    for (int half = 1; half < own; half *= 2) {
      for (int k = 0; k < own; ++k) {
        if ((k & half) != 0) continue;
        const float a = x[k];
        const float b = x[k + half];
        x[k] = a + b;
        x[k + half] = a - b;
      }
    }
    for (int half = own; half < block<Width>; half *= 2) {
      // The upper one of a pair takes its own from the other's; the product is exact, contracted or not.
      const float sign = (first & half) != 0 ? -1.0f : 1.0f;
      for (int k = 0; k < own; ++k) x[k] = team.exchange(x[k], half / own) + sign * x[k];
    }
    const float scale = 1.0f / sqrt_of(static_cast<float>(block<Width>));
    for (int k = 0; k < own; ++k) x[k] = product_of(x[k], scale);  // a mean may be taken off next
  }
  /// Row back from the codec's space.
  template <int Width, class Team = serial_team>
  KVC_HD static void inverse(float* x, const float* /*constants*/, Team team = {}) {
    if constexpr (Team::size() > 1) {
      detail::butterflies<Width, block<Width>, 1, detail::signs::after>(x, team);
    } else {
      for (int b = 0; b < Width; b += block<Width>) hadamard<block<Width>>(x + b);
      for (int i = 0; i < Width; ++i) x[i] *= hadamard_sign(i);
    }
  }
  /// Query so that its product with the codec's rows is the product with the rows themselves; returns what is constant
  /// over all rows.
  template <int Width, class Team = serial_team>
  KVC_HD static float fold_query(float* q, const float* constants, Team team = {}) {
    forward<Width>(q, constants, team);
    return 0;
  }
  /// Weighted sum of the codec's rows back to a sum of rows; mass is the sum of the weights.
  template <int Width, class Team = serial_team>
  KVC_HD static void unfold_output(float* o, float /*mass*/, const float* constants, Team team = {}) {
    inverse<Width>(o, constants, team);
  }
};

}  // namespace kvc::inline v0_1::quant
