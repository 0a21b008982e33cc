// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cuda/byte_block.cuh"

// From scores to sums: maxima, weights in bytes, and their products with the codes of all rows of a tile.

namespace kvc::inline v0_1::cuda::detail {

/// The largest scores of the warp's rows, of query top_query and those after it: each step halves the queries that a
/// lane has.
template <class Spec, class T, int Queries>
__device__ void byte_block<Spec, T, Queries>::put_tops(const scores& s, float* to) {
  float x[own];
#pragma unroll
  for (int j = 0; j < own; ++j) x[j] = fmaxf(s[0][j], s[1][j]);
  int bit = 4;
#pragma unroll
  for (int half = own / 2; half >= top_queries; half /= 2) {
    const bool upper = lane() & bit;
#pragma unroll
    for (int j = 0; j < half; ++j) {
      const float kept = upper ? x[j + half] : x[j];
      const float given = upper ? x[j] : x[j + half];
      x[j] = fmaxf(kept, __shfl_xor_sync(~0u, given, bit));
    }
    bit *= 2;
  }
  if constexpr (own == 4) x[0] = fmaxf(x[0], __shfl_xor_sync(~0u, x[0], 16));
#pragma unroll
  for (int j = 0; j < top_queries; ++j) to[j * team_warps] = x[j];  // lanes that have the same write the same
}

template <class Spec, class T, int Queries>
__device__ int byte_block<Spec, T, Queries>::top_query() {
  int j = 0;
  int bit = 4;
#pragma unroll
  for (int half = own / 2; half >= top_queries; half /= 2) {
    if (lane() & bit) j += half;
    bit *= 2;
  }
  return query_of(j);
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

/// The units of the team's sums, 2^m per query and one per group of channels, where maxima have outgrown them.
template <class Spec, class T, int Queries>
__device__ void byte_block<Spec, T, Queries>::follow(const float (&top)[own], const uint32* scale_tops,
                                                     scale_units& unit, float (&m)[own], sums& o) const {
  float of_query[own];
  float* const units_of_queries = result(warp_index, field_m);
#pragma unroll
  for (int j = 0; j < own; ++j) {
    const float next = top[j] > m[j] + (largest_weight + growth) ? top[j] - largest_weight : m[j];
    of_query[j] = exp2_of(m[j] - next);
    m[j] = next;
  }
  __syncwarp();
#pragma unroll
  for (int j = 0; j < own; j += 2) {
    *reinterpret_cast<float2*>(units_of_queries + query_of(j)) = make_float2(m[j], m[j + 1]);
  }
#pragma unroll
  for (int f = field_l; f < fields; ++f) {
    if (lane() / 4 != f - field_l) continue;
#pragma unroll
    for (int j = 0; j < own; j += 2) {
      float2& sum = *reinterpret_cast<float2*>(result(warp_index, f) + query_of(j));
      sum = make_float2(sum.x * of_query[j], sum.y * of_query[j + 1]);
    }
  }
  __syncwarp();
  scale_units of_group;
  uint32 largest_scales[scale_pitch];
  load_scale_tops(scale_tops, largest_scales);
#pragma unroll
  for (int g = 0; g < latent::groups; ++g) {
    const uint32 largest = largest_scales[g];
    const float next = inverse_power(__uint_as_float(largest & 0x7f800000u));
    const bool grows = __uint_as_float(largest) * unit[g] >= largest_ratio;
    of_group[g] = grows ? next * inverse_power(unit[g]) : 1.0f;
    unit[g] = grows ? next : unit[g];
  }
#pragma unroll
  for (int p = 0; p < value_products; ++p) {
    const float of_product = of_product_group(p, of_group);
#pragma unroll
    for (int j = 0; j < own; ++j) {
      o[p][product_at(0, j)] *= of_query[j] * of_product;
      o[p][product_at(1, j)] *= of_query[j] * of_product;
    }
  }
}

/// Weights times scales of the warp's rows, as operands in fp16: [groups][rows / 16][rows % 16 / 8][queries][8].
template <class Spec, class T, int Queries>
__device__ void byte_block<Spec, T, Queries>::put_weights(const scores& s, const row_scales& scale,
                                                          const scale_units& unit, byte* weights) const {
  uint32 p[2][columns];
#pragma unroll
  for (int j = 0; j < columns; ++j) {
    p[0][j] = pack_half(s[0][2 * j], s[0][2 * j + 1]);
    p[1][j] = pack_half(s[1][2 * j], s[1][2 * j + 1]);
  }
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

/// What the warp's weights times its rows' constants add up to, per query: number lane / 4 of them, of which the fifth
/// is one.
template <class Spec, class T, int Queries>
__device__ void byte_block<Spec, T, Queries>::add_offsets(const scores& s, const uint32 (&constants)[4]) const {
  const uint32 mirrored[4] = {transpose(constants[0]), transpose(constants[2]), transpose(constants[1]),
                              transpose(constants[3])};
  const int number = lane() / 4;
  const bool is_kept = number < latent::groups || number == 4;
  float* to = result(warp_index, number < latent::groups ? field_offsets + number : field_l);
#pragma unroll
  for (int j = 0; j < own; j += 2) {
    float sum[4] = {};  // of constants' bf16, and of what that leaves
    multiply_add(sum, mirrored, transpose(pack_bf16(s[0][j], s[0][j + 1])), transpose(pack_bf16(s[1][j], s[1][j + 1])));
    if (is_kept) {
      float2& all = *reinterpret_cast<float2*>(to + query_of(j));
      all = make_float2(all.x + sum[0] + sum[2], all.y + sum[1] + sum[3]);
    }
  }
}

/// o += the products of a tile. `codes`: this lane's row of matrices. Meanwhile it asks for rows of a later tile.
template <class Spec, class T, int Queries>
__device__ void byte_block<Spec, T, Queries>::accumulate(const byte* codes, const byte* weights,
                                                         const typename tiles::copies& asked, sums& o) const {
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
  uint32 a[2][fed][2][4];  // [batches][products][steps of 16 rows]
  load(next, 0);
#pragma unroll
  for (int n = 0; n < loads; ++n) {
    const int p = n / parts * fed;
    const int part = n % parts;
    if (n >= 2) warpgroup_wait<1>();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32 shifted = next[i] >> shift;
      const uint32 x = splits_nibbles ? next[i] : shifted;
      a[n % 2][0][i / 2][i % 2 * 2] = x & 0x000f000fu;
      a[n % 2][0][i / 2][i % 2 * 2 + 1] = x & 0x00f000f0u;
      a[n % 2][fed - 1][i / 2][i % 2 * 2] = shifted & 0x000f000fu;
      a[n % 2][fed - 1][i / 2][i % 2 * 2 + 1] = shifted & 0x00f000f0u;
    }
    if (n + 1 < loads) load(next, n + 1);
    const int g = group_of_product(team_group() * value_products + p);
    const uint64 of_group = w + static_cast<uint64>((g * weight_bytes + part * 2 * operand_bytes) / 16);
    warpgroup_fence();
#pragma unroll
    for (int e = 0; e < fed; ++e) {
      multiply_warpgroup(o[p + e], a[n % 2][e][0], of_group);
      multiply_warpgroup(o[p + e], a[n % 2][e][1], of_group + operand_bytes / 16);
    }
    warpgroup_commit();
    if constexpr (asks_while_summing) {
      constexpr int asks = tiles::copies::count;
#pragma unroll
      for (int i = n * asks / loads; i < (n + 1) * asks / loads; ++i) asked.ask(i);
    }
  }
  warpgroup_wait<0>();
}

}  // namespace kvc::inline v0_1::cuda::detail
