// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cuda/byte_block.cuh"

// From scores to sums: maxima, weights in bytes, and their products with the codes of all rows of a tile.

namespace kvc::inline v0_1::cuda::detail {

/// The largest score of the warp's rows, of query top_query: each step halves the queries that a lane has.
template <class Spec, class T, int Queries>
__device__ void byte_block<Spec, T, Queries>::put_tops(const scores& s, float* to) {
  float x[own];
#pragma unroll
  for (int j = 0; j < own; ++j) x[j] = fmaxf(s[0][j], s[1][j]);
  int bit = 4;
#pragma unroll
  for (int half = own / 2; half > 0; half /= 2) {
    const bool upper = lane() & bit;
#pragma unroll
    for (int j = 0; j < half; ++j) {
      const float kept = upper ? x[j + half] : x[j];
      const float given = upper ? x[j] : x[j + half];
      x[j] = fmaxf(kept, __shfl_xor_sync(~0u, given, bit));
    }
    bit *= 2;
  }
  static_assert(own == 4 || own == 8);
  if constexpr (own == 4) x[0] = fmaxf(x[0], __shfl_xor_sync(~0u, x[0], 16));
  *to = x[0];  // lanes that have the same write the same
}

template <class Spec, class T, int Queries>
__device__ int byte_block<Spec, T, Queries>::top_query() {
  int j = 0;
  int bit = 4;
#pragma unroll
  for (int half = own / 2; half > 0; half /= 2) {
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

/// Weights times scales of the warp's rows, as operands in bytes: [groups][rows / 32][rows % 32 / 16][queries][16].
/// Of queries 8 j + .. for the first blocks of even lanes' rows and the second of odd ones', it adds what the bytes are
/// worth to eights[g][..]: what is summed with codes u is to be summed with u - 8.
template <class Spec, class T, int Queries>
__device__ void byte_block<Spec, T, Queries>::put_weights(const scores& s, const row_scales& scale,
                                                          const uint32* scale_tops, const float (&part)[own],
                                                          byte* weights, float (&weight_scale)[latent::groups],
                                                          eight_sums& eights) const {
  uint32 tops[scale_pitch] = {};
#pragma unroll
  for (int w = 0; w < team_warps; ++w) {
    const uint4 x = *reinterpret_cast<const uint4*>(scale_tops + w * scale_pitch);
    tops[0] = max_of(tops[0], x.x);
    tops[1] = max_of(tops[1], x.y);
    tops[2] = max_of(tops[2], x.z);
    tops[3] = max_of(tops[3], x.w);
  }
  // Thresholds are the bits of the row's number, reversed: the second row's is one step more. What is added to them
  // puts a byte into the middle of the float's bits.
  const float threshold = 32768.0f + (static_cast<float>(__brev(static_cast<uint32>(row_of(0))) >> 28) + 0.5f) / 16.0f;
  // The four rows of a word are those of two neighbours among the lanes' rows: g, g + 8, g + 1, g + 9, for even g. Odd
  // ones store the second block of queries, and their second query first, in banks of their own.
  const bool is_odd = lane() & 4;
  const uint32 select_first = is_odd ? 0x3276u : 0x5410u;
  const uint32 select_second = is_odd ? 0x1054u : 0x7632u;
  byte* to = weights + warp() / 2 * operand_bytes + warp() % 2 * (16 * queries) +
             ((is_odd ? 8 : 0) + lane() % 4 * 2) * 16 + lane() / 8 * 4;
  byte* to_first = to + (is_odd ? 16 : 0);
  byte* to_second = to + (is_odd ? 0 : 16);
#pragma unroll
  for (int g = 0; g < latent::groups; ++g) {
    const float top = __uint_as_float(tops[g]);
    const float inverse = tops[g] > 0 ? reciprocal_of(top) * 255.0f : 0.0f;
    weight_scale[g] = top * (1 / 255.0f);
    const float of_row[2] = {scale[0][g] * inverse, scale[1][g] * inverse};
    uint32 packed[columns];  // bytes of {first query: both rows, second query: both rows}
#pragma unroll
    for (int j = 0; j < columns; ++j) {
      uint32 y[4];
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        y[2 * e] = __float_as_uint(s[0][2 * j + e] * of_row[0] + threshold);
        y[2 * e + 1] = __float_as_uint(s[1][2 * j + e] * of_row[1] + (threshold + 1 / 16.0f));
      }
      packed[j] = __byte_perm(__byte_perm(y[0], y[1], 0x0051), __byte_perm(y[2], y[3], 0x0051), 0x5410);
    }
#pragma unroll
    for (int j = 0; j < columns; j += 2) {
      const uint32 kept = is_odd ? packed[j + 1] : packed[j];
      const uint32 other = __shfl_xor_sync(~0u, is_odd ? packed[j] : packed[j + 1], 4);
      const uint32 word[2] = {__byte_perm(kept, other, select_first), __byte_perm(kept, other, select_second)};
      *reinterpret_cast<uint32*>(to_first + g * weight_bytes + j / 2 * 256) = word[0];
      *reinterpret_cast<uint32*>(to_second + g * weight_bytes + j / 2 * 256) = word[1];
#pragma unroll
      for (int e = 0; e < 2; ++e) {  // word e is of query e in even lanes, of the other in odd ones
        const float worth = (is_odd ? part[stored_query_of_odd(j + e)] : part[stored_query(j + e)]) * weight_scale[g];
        const int32 sum = static_cast<int32>(__dp4a(word[e], 0x01010101u, 0u));
        eights[g][j + e] = multiply_add_integer(sum, worth, eights[g][j + e]);
      }
    }
  }
}

/// o += the products of a tile: weight_scale is worth one of a group's weights, part what the tile's are. `codes`: this
/// lane's row of matrices. Meanwhile it asks for rows of a later tile.
template <class Spec, class T, int Queries>
__device__ void byte_block<Spec, T, Queries>::accumulate(const byte* codes, const byte* weights,
                                                         const float (&part)[own],
                                                         const float (&weight_scale)[latent::groups],
                                                         const typename tiles::copies& asked, sums& o) const {
  constexpr int fed = splits_nibbles ? 2 : 1;  // products that a load of 32 channels of all rows feeds
  constexpr int load_bytes = 32 * fed;         // from one to the next
  const uint64 w = warpgroup_operand(weights, queries);
  products d[2];
  uint32 a[2][2][4];  // [products][halves of the depth]
  const auto fold_product = [&](int p) {
#pragma unroll
    for (int j = 0; j < own; ++j) {
      const float worth = part[j] * weight_scale[group_of_product(p)];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float& to = o[p][product_at(i, j)];
        to = multiply_add_integer(d[p % 2][product_at(i, j)], worth, to);
      }
    }
  };
  // 4 channels of 8 rows each, of 32 rows at a time, loaded a step ahead. A byte of 4 rows becomes a word; its high
  // nibbles stay where they are, and so do their sums, which count 16 for 1.
  uint32 next[2][4];
#pragma unroll
  for (int r = 0; r < 2; ++r) load_settled_matrices<true>(next[r], codes + r * 32 * pitch);
  const uint32 every_other = warp() % 2 == 0 ? 0x6240u : 0x7351u;
  uint32 words[2][2][fed];  // [halves of the depth][halves of these]
#pragma unroll
  for (int p = 0; p < value_products; ++p) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int r = i / 4;
      const int h = i % 4 / 2;
      const int n = i % 2;  // of the product's rows: 8 channels of the warp's, and 8 more
      if (p % fed == 0 && n < fed) {
        words[r][h][n] = __byte_perm(next[r][2 * h], next[r][2 * h + 1],
                                     !splits_nibbles ? every_other
                                     : n == 0        ? 0x6240u
                                                     : 0x7351u);
      }
      const bool is_high = splits_nibbles ? p % 2 == 1 : n == 1;
      a[p % 2][r][2 * h + n] = words[r][h][n % fed] & (is_high ? 0xf0f0f0f0u : 0x0f0f0f0fu);
    }
    if ((p + 1) % fed == 0 && p + 1 < value_products) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        load_settled_matrices<true>(next[r], codes + r * 32 * pitch + (p + 1) / fed * load_bytes);
      }
    }
    const uint64 of_group = w + static_cast<uint64>(group_of_product(p) * weight_bytes / 16);
    warpgroup_fence();
    multiply_warpgroup<false, false>(d[p % 2], a[p % 2][0], of_group);
    multiply_warpgroup<false, true>(d[p % 2], a[p % 2][1], of_group + operand_bytes / 16);
    warpgroup_commit();
    constexpr int asks = tiles::copies::count;
    if (p % 2 == 0) {
#pragma unroll
      for (int n = p * asks / value_products; n < min_of(p + 2, value_products) * asks / value_products; ++n) {
        asked.ask(n);
      }
    }
    if (p > 0) {
      warpgroup_wait<1>();
      fold_product(p - 1);
    }
  }
  warpgroup_wait<0>();
  fold_product(value_products - 1);
}

}  // namespace kvc::inline v0_1::cuda::detail
