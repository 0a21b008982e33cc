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

/// In place, for every block of x [Width]: y = H x / sqrt(Block), H the Sylvester-Hadamard matrix of order Block,
/// butterflies in ascending stride.
template <int Width, int Block, class Team = serial_team>
KVC_HD void hadamard(float* x, Team team = {}) {
  const float scale = 1.0f / sqrt_of(static_cast<float>(Block));
  if constexpr (Team::size() == 1) {
    for (float* block = x; block < x + Width; block += Block) {
      for (int half = 1; half < Block; half *= 2) {
        for (int base = 0; base < Block; base += 2 * half) {
          for (int i = base; i < base + half; ++i) {
            const float a = block[i];
            const float b = block[i + half];
            block[i] = a + b;
            block[i + half] = a - b;
          }
        }
      }
      for (int i = 0; i < Block; ++i) block[i] *= scale;
    }
  } else {  // the same butterflies, numbered through: p-th of Width / 2
    for (int half = 1; half < Block; half *= 2) {
      for (int p = team.rank(); p < Width / 2; p += team.size()) {
        const int i = p + (p & -half);  // 2 * half * (p / half) + p % half
        const float a = x[i];
        const float b = x[i + half];
        x[i] = a + b;
        x[i + half] = a - b;
      }
      team.sync();
    }
    for (int i = team.rank(); i < Width; i += team.size()) x[i] *= scale;
    team.sync();
  }
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
    for (int i = team.rank(); i < Width; i += team.size()) x[i] *= hadamard_sign(i);
    team.sync();
    hadamard<Width, block<Width>>(x, team);
  }
  /// Row back from the codec's space.
  template <int Width, class Team = serial_team>
  KVC_HD static void inverse(float* x, const float* /*constants*/, Team team = {}) {
    hadamard<Width, block<Width>>(x, team);
    for (int i = team.rank(); i < Width; i += team.size()) x[i] *= hadamard_sign(i);
    team.sync();
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
