// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/dims/concept.hpp"

namespace kvc::inline v0_1::dims {

/// Rank channels per stored row: z = E x on append, x ~ D^T z. Attention stays in the compressed space: the query is
/// folded (D q), the output unfolded (D^T o). With rotary::deferred the rows are expanded tile by tile instead.
/// Constants: encode E [Rank][HeadDim], then decode D [Rank][HeadDim]. For an orthonormal basis E = D (PCA); a
/// query-aware basis has E != D (whitened by the queries' second moment: calibrate/low_rank.hpp).
template <int Rank>
struct low_rank {
  static_assert(Rank >= 1, "kvc: dims::low_rank<R> needs R >= 1");

  using axis = dims_axis;
  static constexpr auto name = named("low_rank", Rank);

  template <int HeadDim>
  static constexpr int width = Rank;
  template <int HeadDim>
  static constexpr int calibration_floats = 2 * Rank* HeadDim;

  /// Without a calibration: the leading channels.
  template <int HeadDim>
  static void initialise(float* constants) {
    for (int i = 0; i < 2 * Rank * HeadDim; ++i)
      constants[i] = (i % (Rank * HeadDim)) % (HeadDim + 1) == 0 ? 1.0f : 0.0f;
  }
  template <int HeadDim, class Team = serial_team>
  KVC_HD static void compress(const float* row, float* stored, const float* constants, Team team = {}) {
    multiply<HeadDim>(constants, row, stored, team);
  }
  /// E.
  template <int HeadDim>
  KVC_HD static const float* matrix(const float* constants) {
    return constants;
  }
  template <int HeadDim, class Team = serial_team>
  KVC_HD static void fold_query(const float* query, float* folded, const float* constants, Team team = {}) {
    multiply<HeadDim>(constants + Rank * HeadDim, query, folded, team);
  }
  /// What channel c of the row takes from channel r of the stored one.
  template <int HeadDim>
  KVC_HD static float basis(int r, int c, const float* constants) {
    return constants[(Rank + r) * HeadDim + c];
  }
  /// row = D^T stored
  template <int HeadDim, class Team = serial_team>
  KVC_HD static void expand(const float* stored, float* row, const float* constants, Team team = {}) {
    const float* decode = constants + Rank * HeadDim;
    constexpr int share = ceil_div(HeadDim, Team::size());
    float sum[share] = {};
    for (int r = 0; r < Rank; ++r) {
      for (int i = 0; i < share; ++i) {
        const int c = team.rank() + i * Team::size();
        if (HeadDim % Team::size() == 0 || c < HeadDim) sum[i] += stored[r] * decode[r * HeadDim + c];
      }
    }
    for (int i = 0; i < share; ++i) {
      const int c = team.rank() + i * Team::size();
      if (HeadDim % Team::size() == 0 || c < HeadDim) row[c] = sum[i];
    }
    team.sync();
  }

 private:
  /// out[Rank] = matrix[Rank][HeadDim] in[HeadDim]
  template <int HeadDim, class Team>
  KVC_HD static void multiply(const float* matrix, const float* in, float* out, Team team) {
    if constexpr (splits_rows<HeadDim, Team>) {
      if (reinterpret_cast<size_type>(matrix) % 16 == 0) {
        multiply_split<HeadDim, 16>(matrix, in, out, team);
      } else {
        multiply_split<HeadDim, 4>(matrix, in, out, team);
      }
    } else {
      for (int r = team.rank(); r < Rank; r += team.size()) {
        float sum = 0;
        for (int i = 0; i < HeadDim; ++i) sum += matrix[r * HeadDim + i] * in[i];
        out[r] = sum;
      }
    }
    team.sync();
  }

  /// Whether every thread takes the same channels of all rows of the matrix, so that neighbours read neighbours.
  template <int HeadDim, class Team>
  static constexpr bool splits_rows = [] {
    if constexpr (Team::size() > 1 && Team::size() <= 32 && requires(Team team) { team.exchange(0.0f, 1); }) {
      return HeadDim % (4 * Team::size()) == 0 && HeadDim <= 32 * Team::size() && Rank % Team::size() == 0;
    }
    return false;
  }();

  template <int HeadDim, int Align, class Team>
  KVC_HD static void multiply_split(const float* matrix, const float* in, float* out, Team team) {
    constexpr int size = Team::size();
    constexpr int quads = HeadDim / (4 * size);
    float x[4 * quads];
    for (int j = 0; j < quads; ++j) {
      for (int q = 0; q < 4; ++q) x[4 * j + q] = in[4 * (j * size + team.rank()) + q];
    }
#if defined(__CUDA_ARCH__)
#pragma unroll 1
#endif
    for (int r = 0; r < Rank; r += size) {
      // As many sums as threads: each thread has its part of all of them,
      float sum[size] = {};
      for (int o = 0; o < size; ++o) {
        for (int j = 0; j < quads; ++j) {
          float m[4];
          __builtin_memcpy(
              m, __builtin_assume_aligned(matrix + (r + o) * HeadDim + 4 * (j * size + team.rank()), Align), 16);
          for (int q = 0; q < 4; ++q) sum[o] += m[q] * x[4 * j + q];
        }
      }
      // and gives the other's half away, until it has one whole.
      for (int half = size / 2; half > 0; half /= 2) {
        const bool is_upper = (team.rank() & half) != 0;
        for (int o = 0; o < half; ++o) {
          const float given = is_upper ? sum[o] : sum[o + half];
          sum[o] = (is_upper ? sum[o + half] : sum[o]) + team.exchange(given, half);
        }
      }
      out[r + team.rank()] = sum[0];
    }
  }
};

}  // namespace kvc::inline v0_1::dims
