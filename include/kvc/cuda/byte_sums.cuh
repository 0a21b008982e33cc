// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cuda/byte_block.cuh"

// From scores to sums: maxima, weights in bytes, and their products with the codes of all rows of a tile.

namespace kvc::inline v0_1::cuda::detail {

/// Weights 2^(s - m) in fp16.
template <class Spec, class T, int Queries>
__device__ void byte_block<Spec, T, Queries>::weigh(const scores& s, const float (&to_log2)[own], const float (&m)[own],
                                                    packed_weights& p) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int j = 0; j < own; j += 2) {
      const float x = exp2_of(s[i][j] * to_log2[j] - m[j]);
      const float y = exp2_of(s[i][j + 1] * to_log2[j + 1] - m[j + 1]);
      p[i][j / 2] = pack_half(x, y);
    }
  }
}

template <class Spec, class T, int Queries>
__device__ bool byte_block<Spec, T, Queries>::have_grown(const packed_weights& p) {
  uint32 top = 0;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int j = 0; j < columns; ++j) top = largest_half(top, p[i][j]);
  }
  return (top & 0xffffu) > grown_weight || top >> 16 > grown_weight;
}

/// The largest scores of the warp's rows: [queries][warps], as log 2.
template <class Spec, class T, int Queries>
__device__ void byte_block<Spec, T, Queries>::put_tops(const scores& s, const float (&to_log2)[own], float* tops) {
#pragma unroll
  for (int j = 0; j < own; ++j) {
    float x = fmaxf(s[0][j], s[1][j]) * to_log2[j];
    for (int lanes = 4; lanes < 32; lanes *= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, lanes));
    tops[query_of(j) * score_warps] = x;  // lanes that have the same write the same
  }
}

/// The largest scale of each group among the warp's rows; returns the largest of all.
template <class Spec, class T, int Queries>
__device__ uint32 byte_block<Spec, T, Queries>::put_scale_tops(const row_scales& scale, uint32* scale_tops) const {
  uint32 of_all = 0;
  uint32 tops[scale_pitch] = {};
#pragma unroll
  for (int g = 0; g < latent::groups; ++g) {  // scales are not negative: ordered as their bits
    tops[g] = __reduce_max_sync(~0u, max_of(__float_as_uint(scale[0][g]), __float_as_uint(scale[1][g])));
    of_all = max_of(of_all, tops[g]);
  }
  if (lane() == 0) {
    *reinterpret_cast<uint4*>(scale_tops + warp() * scale_pitch) = make_uint4(tops[0], tops[1], tops[2], tops[3]);
  }
  return of_all;
}

/// The units of the team's sums, 2^m per query and one per group of channels, where maxima have outgrown them. All its
/// warps that score find the same; the first says it to those that sum.
template <class Spec, class T, int Queries>
__device__ void byte_block<Spec, T, Queries>::follow(const float* tops, const uint32* scale_tops, unit_change& change,
                                                     scale_units& unit, offset_sums& offsets) const {
  float* const ms = result(result_warp(), field_m);
  float* const factors = result(result_warp(), field_l);  // results are put there in the end
  for (int n = lane(); n < queries; n += 32) {
    float top = lowest;
    for (int w = 0; w < score_warps; ++w) top = fmaxf(top, tops[n * score_warps + w]);
    const float m = ms[n];
    const float next = top > m + largest_weight ? top - largest_weight : m;
    ms[n] = next;
    factors[n] = exp2_of(m - next);
    if (warp() == 0) change.of_query[n] = factors[n];
  }
  __syncwarp();
#pragma unroll
  for (int k = 0; k < queries / 16; ++k) {
#pragma unroll
    for (int e = 0; e < 4; ++e) offsets[k][e] *= factors[16 * k + e / 2 * 8 + lane() / 4];
  }
#pragma unroll
  for (int g = 0; g < latent::groups; ++g) {
    uint32 largest = 0;
    for (int w = 0; w < score_warps; ++w) largest = max_of(largest, scale_tops[w * scale_pitch + g]);
    const float next = inverse_power(__uint_as_float(largest & 0x7f800000u));
    const bool grows = __uint_as_float(largest) * unit[g] >= largest_ratio;
    if (warp() == 0 && lane() == 0) {
      change.of_group[g] = grows ? next * inverse_power(unit[g]) : 1.0f;
      if (grows) result_units()[g] = inverse_power(next) * sum_unit;
    }
    unit[g] = grows ? next : unit[g];
  }
}

template <class Spec, class T, int Queries>
__device__ void byte_block<Spec, T, Queries>::change_units(const unit_change& change, sums& o) const {
#pragma unroll
  for (int p = 0; p < value_products; ++p) {
    const float of_product = change.of_group[group_of_product(sum_group() * value_products + p)];
#pragma unroll
    for (int j = 0; j < own; ++j) {
      const float factor = of_product * change.of_query[query_of(j)];
      o[p][product_at(0, j)] *= factor;
      o[p][product_at(1, j)] *= factor;
    }
  }
}

/// Weights times scales of the warp's rows, as operands in fp16: [groups][rows / 16][rows % 16 / 8][queries][8].
template <class Spec, class T, int Queries>
__device__ void byte_block<Spec, T, Queries>::put_weights(const packed_weights& p, const row_scales& scale,
                                                          const scale_units& unit, byte* weights) const {
  byte* to = weights + warp() * operand_bytes + lane() / 8 % 2 * (16 * queries) + (lane() / 16 * 8 + lane() % 8) * 16;
#pragma unroll
  for (int g = 0; g < latent::groups; ++g) {
    const float x = scale[0][g] * unit[g];
    const float y = scale[1][g] * unit[g];
    const uint32 of_row[2] = {pack_half(x, x), pack_half(y, y)};
#pragma unroll
    for (int j = 0; j < columns; j += 2) {
      const uint32 w[4] = {multiply_half(p[0][j], of_row[0]), multiply_half(p[1][j], of_row[1]),
                           multiply_half(p[0][j + 1], of_row[0]), multiply_half(p[1][j + 1], of_row[1])};
      store_matrices_transposed(to + g * weight_bytes + j * 128, w);
    }
  }
}

/// What the warp's weights times its rows' constants add up to; weights and constants as bf16, and of the constants
/// what that leaves.
template <class Spec, class T, int Queries>
__device__ void byte_block<Spec, T, Queries>::add_offsets(const packed_weights& p, const uint32 (&constants)[4],
                                                          offset_sums& offsets) {
  const uint32 mirrored[4] = {transpose(constants[0]), transpose(constants[1]), transpose(constants[2]),
                              transpose(constants[3])};
#pragma unroll
  for (int k = 0; k < queries / 16; ++k) {
    const uint32 of_queries[4] = {transpose(half_to_bf16(p[0][2 * k])), transpose(half_to_bf16(p[0][2 * k + 1])),
                                  transpose(half_to_bf16(p[1][2 * k])), transpose(half_to_bf16(p[1][2 * k + 1]))};
    multiply_add(offsets[k], of_queries, mirrored[0], mirrored[1]);
    multiply_add(offsets[k], of_queries, mirrored[2], mirrored[3]);
  }
}

/// o += the products of a tile. `codes`: this lane's row of matrices.
template <class Spec, class T, int Queries>
__device__ void byte_block<Spec, T, Queries>::accumulate(const byte* codes, const byte* weights, sums& o) const {
  constexpr int fed = fed_products;
  constexpr int parts = rows / 32;  ///< of a tile
  constexpr int loads = value_products / fed * parts;
  const uint64 w = warpgroup_operand(weights, queries);
  // 4 channels of 8 rows each, of 32 rows at a time, loaded a step ahead. A word has two rows of 4 channels: the bits
  // of a code, with all others masked off, are those of a fp16 number, which is 2^-24 times it, or 16 times that.
  const auto load = [&](uint32(&next)[4], int n) {
    load_settled_matrices<true>(next, codes + n % parts * 32 * pitch + n / parts * fed * 32);
  };
  const int shift = splits_nibbles ? 8 : warp() % 2 * 8;
  uint32 next[4];
  uint32 a[2][2][4];  // [batches][steps of 16 rows]
  load(next, 0);
#pragma unroll
  for (int n = 0; n < loads; ++n) {
    const int part = n % parts;
    const uint32 words[4] = {next[0], next[1], next[2], next[3]};
    if (n + 1 < loads) load(next, n + 1);
#pragma unroll
    for (int e = 0; e < fed; ++e) {
      const int batch = n * fed + e;
      const int p = n / parts * fed + e;
      if (batch >= 2) warpgroup_wait<1>();
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32 x = splits_nibbles && e == 0 ? words[i] : words[i] >> shift;
        a[batch % 2][i / 2][i % 2 * 2] = x & 0x000f000fu;
        a[batch % 2][i / 2][i % 2 * 2 + 1] = x & 0x00f000f0u;
      }
      const int g = group_of_product(sum_group() * value_products + p);
      const uint64 of_group = w + static_cast<uint64>((g * weight_bytes + part * 2 * operand_bytes) / 16);
      warpgroup_fence();
      multiply_warpgroup(o[p], a[batch % 2][0], of_group);
      multiply_warpgroup(o[p], a[batch % 2][1], of_group + operand_bytes / 16);
      warpgroup_commit();
    }
  }
  warpgroup_wait<0>();
}

}  // namespace kvc::inline v0_1::cuda::detail
