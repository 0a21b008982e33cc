// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cuda/attend_block.cuh"
#include "kvc/cuda/byte_rows.cuh"

// Attention of a warp over 16 rows at a time of keys and values in codes of 2, 4 or 8 bits, for up to 8 queries: bytes
// for the scores, fp16 for the sums.
//
//   scores   S [rows][queries]     = K [rows][channels] Q^T
//   sums     O [channels][queries] += V^T [channels][rows] W
//
// Codes u of rows = scale u + offset, with constants per row t and group g of channels, go from shared memory into
// registers as matrices of 8 rows x 16 bytes, and become operands by masks: a code among zeros is a byte, or a denormal
// fp16 number. Queries are two bytes to a channel, as a second product costs next to nothing once codes are unpacked;
// weights times scales are fp16:
//
//   S[t] = sum_g scale[t][g] <254 high + low, u_tg> unit + offset[t][g] sum(q_g)
//   O_g += sum_t w[t][g] (u_tg - middle) + sum_t p_t (offset[t][g] + middle scale[t][g])
//
// where q = (254 high + low) unit, w = fp16(p_t scale[t][g]). Less the middle, as weights that are nearly equal are
// rounded alike, and their common error would grow with the mean of u.
//
// What products leave of scores is, mirrored by movmatrix, what they take of weights: a warp needs nothing of another.

namespace kvc::inline v0_1::cuda::detail {

/// What of a stream's policies decides how its codes become operands.
template <class Codec, int Width>
struct code_stream;

template <int Bits, int Group, quant::grid Grid, quant::scale_type Type, int Width>
requires has_code_operands<quant::integer<Bits, Group, Grid, quant::per_token, Type>, Width>
struct code_stream<quant::integer<Bits, Group, Grid, quant::per_token, Type>, Width>
    : code_rows<Bits, quant::integer<Bits, Group, Grid, quant::per_token, Type>, Width> {
  using rows = code_rows<Bits, quant::integer<Bits, Group, Grid, quant::per_token, Type>, Width>;
  static constexpr int width = Width;
  static constexpr bool has_offset = Grid == quant::affine;
  static constexpr float zero = Grid == quant::midrise ? rows::middle - 0.5f : rows::middle;  ///< of other grids
  static constexpr int loads = rows::row_bytes / 32;  ///< of 16 rows: two matrices beside each other
  static constexpr int per_byte = 8 / Bits;
  static constexpr int score_products = 2 * 128 / Bits / 32;  ///< of a load, each of 32 channels
  static constexpr int sum_products = 2 * per_byte;           ///< of a load, each of 16 channels
  static constexpr int unit = 1 << (8 - Bits);                ///< of scores: codes are the top bits of bytes
  /// Codes for scores: those at place `at` of each byte.
  __device__ static uint32 bytes_at(uint32 word, int at) {
    constexpr uint32 top = 0x01010101u * (0xffu << (8 - Bits) & 0xffu);
    return word << (8 - Bits * (at + 1)) & top;
  }
  /// For sums: of 16 bits, codes 2 n and 2 n + 1, as fp16 with these units of 2^-24.
  KVC_HD static constexpr int sum_unit(int n, int i) { return Bits == 8 ? 1 : 1 << (Bits * (2 * n + i) % 8); }
  __device__ static uint32 halves_at(uint32 word, int n, int i) {
    constexpr uint32 ones = 0x00010001u * ((1u << Bits) - 1);
    const int bit = Bits * (2 * n + i);
    return word >> bit / 8 * 8 & ones << bit % 8;
  }
  /// Byte 4 part + x of half h of product i of a row: which channel's query meets it.
  __device__ static int channel_of_score(int i, int h, int part, int x) {
    const int place = 4 * part + x;
    if constexpr (Bits == 8) return 32 * i + 16 * h + place;
    if constexpr (Bits == 4) return 32 * i + 2 * place + h;
    return i / 2 * 64 + 4 * place + i % 2 * 2 + h;
  }
  /// The first of two channels whose sums a thread has of product p: rows lane / 4 and + 8.
  __device__ static int channel_of_sum(int p, int row) {
    constexpr int element = 16 / Bits;  // channels
    return p / per_byte * (8 * element) + row * element + p % per_byte * 2;
  }
  KVC_HD static constexpr int group_of_score(int i) { return i / rows::group_chunks; }
  KVC_HD static constexpr int group_of_sum(int p) { return p * 16 / 32 / rows::group_chunks; }
};

/// One warp of a block that attends; queries are those of one stored head.
template <class Spec>
struct code_warp {
  using first = typename Spec::first_stream;
  using second = typename Spec::second_stream;
  using key = code_stream<typename first::codec, first::width>;
  using value = code_stream<typename second::codec, second::width>;
  static constexpr int queries = 8;
  static constexpr int rows = 16;

  // A stage: codes, an odd number of 16-byte slots to a row, then constants.
  static constexpr int key_pitch = (key::row_bytes / 16 | 1) * 16;
  static constexpr int value_pitch = (value::row_bytes / 16 | 1) * 16;
  static constexpr int values_at = rows * key_pitch;
  static constexpr int key_constants_at = values_at + rows * value_pitch;
  static constexpr int value_constants_at = key_constants_at + rows * key::group_bytes;
  static constexpr int stage_bytes = value_constants_at + rows * value::group_bytes;

  // A weight is 2^(s - m), m such that its product with a scale is 2^6 at most where m was set; it may grow to 2^14.
  static constexpr float lowest = -1e30f;  ///< below any score
  static constexpr float largest_weight = 6;
  static constexpr float grown_weight = 0x1p14f;
  static constexpr float least_scale = 0x1p-46f;  ///< that counts for m: weights themselves stay below 2^60

  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
  __device__ static int row_of(int i) { return lane() / 4 + 8 * i; }    ///< of two, in scores
  __device__ static int query_of(int e) { return lane() % 4 * 2 + e; }  ///< of two

  // What the thread has of the queries: operands, and for its two columns of scores the rest.
  uint32 q8[2][key::chunks][2];  ///< two bytes, of which the second counts 1 / 254
  float unit[2];                 ///< of the second
  float sums[key::groups][2];    ///< of a group's channels: what meets the offset, or less the zero, the scale
  float shift[2];

  // Of the results, in the units of m.
  float m[2] = {lowest, lowest};  ///< log 2
  float l[2] = {};
  float offsets[value::groups][2] = {};  ///< this thread's rows
  float ones[value::groups][4] = {};     ///< sums of weights, times the middle: rows are alike
  float o[value::chunks * 2][4] = {};    ///< products of 16 channels: {channel, the next} x two queries

  __device__ void take_queries(const float* folded, int pitch, const float* shifts);
  __device__ void score(const byte* staged, float (&s)[2][2]) const;
  __device__ void hide_not_finite(const float (&s)[2][2], float2 (&constants)[2][value::groups], float (&largest)[2]);
  __device__ void raise(const float (&s)[2][2], const float (&scale)[2]);
  __device__ void sum(const byte* staged, const float (&s)[2][2]);
};

/// The queries [queries][pitch] in the stored space, in units of log 2, of which this thread rounds a quarter of one.
template <class Spec>
__device__ void code_warp<Spec>::take_queries(const float* folded, int pitch, const float* shifts) {
  const float* x = folded + lane() / 4 * pitch;
  const auto over_quarters = [](float a) {
    a += __shfl_xor_sync(~0u, a, 1);
    return a + __shfl_xor_sync(~0u, a, 2);
  };
  const auto at = [&](int i, int h, int j) { return x[key::channel_of_score(i, h, lane() % 4, j)]; };
  // The larger bits are those of the larger magnitude, and of what is not finite.
  uint32 top_bits = 0;
#pragma unroll
  for (int i = 0; i < key::chunks; ++i) {
    for (int h = 0; h < 2; ++h) {
      for (int j = 0; j < 4; ++j) top_bits = max_of(top_bits, float_bits(at(i, h, j)) & 0x7fffffffu);
    }
  }
  for (int lanes = 1; lanes < 4; lanes *= 2) top_bits = max_of(top_bits, __shfl_xor_sync(~0u, top_bits, lanes));
  const bool is_finite_query = top_bits < 0x7f800000u;
  const bool is_used = is_finite_query && top_bits > 0x00800000u;
  const float top = bits_float(top_bits);
  const float inverse = is_used ? 127.0f / top : 0.0f;
  const float own_unit = !is_finite_query ? quiet_nan() : is_used ? top * (1 / 127.0f) : 0.0f;
  float own_sum[key::groups] = {};
#pragma unroll
  for (int i = 0; i < key::chunks; ++i) {
    const int g = key::group_of_score(i);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      uint32 packed[2] = {};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float y = is_used ? at(i, h, j) : 0.0f;
        own_sum[g] += y;
        const float high = rintf(y * inverse);
        const float low = rintf((y * inverse - high) * 254);
        packed[0] |= (static_cast<uint32>(static_cast<int32>(high)) & 0xffu) << (8 * j);
        packed[1] |= (static_cast<uint32>(static_cast<int32>(low)) & 0xffu) << (8 * j);
      }
#pragma unroll
      for (int b = 0; b < 2; ++b) q8[b][i][h] = packed[b];
    }
  }
  // From the thread that has a quarter of query lane / 4 to those that have its scores.
  const auto of_query = [](float x, int e) { return __shfl_sync(~0u, x, query_of(e) * 4); };
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    unit[e] = of_query(own_unit, e) * (1.0f / 254 / key::unit);
    shift[e] = shifts[query_of(e)];
  }
#pragma unroll
  for (int g = 0; g < key::groups; ++g) {
    const float sum = over_quarters(own_sum[g]) * (key::has_offset ? 1.0f : -key::zero);
#pragma unroll
    for (int e = 0; e < 2; ++e) sums[g][e] = of_query(sum, e);
  }
}

/// Scores of the staged rows: [rows][queries] of this thread.
template <class Spec>
__device__ void code_warp<Spec>::score(const byte* staged, float (&s)[2][2]) const {
  float2 constants[2][key::groups];
#pragma unroll
  for (int i = 0; i < 2; ++i) key::constants(staged + key_constants_at + row_of(i) * key::group_bytes, constants[i]);
#pragma unroll
  for (int i = 0; i < 2; ++i) s[i][0] = shift[0], s[i][1] = shift[1];
  const byte* at = staged + lane() % 16 * key_pitch + lane() / 16 * 16;
  static_assert(key::width * 127 * 255 * 255ll < 0x7fffffff);
  int32 d[2][4];
#pragma unroll
  for (int n = 0; n < key::loads; ++n) {
    uint32 w[4];  // {rows, rows + 8} of a matrix and of the next
    load_matrices(w, at + 32 * n);
#pragma unroll
    for (int j = 0; j < key::score_products; ++j) {
      const int i = n * key::score_products + j;
      const int g = key::group_of_score(i);
      if (i == key::group_begin(g)) {
#pragma unroll
        for (int b = 0; b < 2; ++b) d[b][0] = d[b][1] = d[b][2] = d[b][3] = 0;
      }
      uint32 a[4];
      if constexpr (key::per_byte == 1) {
        a[0] = w[0], a[1] = w[1], a[2] = w[2], a[3] = w[3];
      } else {
        constexpr int of_matrix = key::score_products / 2;
        const int matrix = j / of_matrix * 2;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          a[2 * h] = key::bytes_at(w[matrix], j % of_matrix * 2 + h);
          a[2 * h + 1] = key::bytes_at(w[matrix + 1], j % of_matrix * 2 + h);
        }
      }
#pragma unroll
      for (int b = 0; b < 2; ++b) multiply_add_bytes(d[b], a, q8[b][i][0], q8[b][i][1]);
      if (i + 1 == key::group_end(g)) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const float dot = static_cast<float>(d[0][2 * r + e] * 254 + d[1][2 * r + e]);
            const float x = key::has_offset ? dot * unit[e] : dot * unit[e] + sums[g][e];
            s[r][e] = constants[r][g].x * x + s[r][e];
            if constexpr (key::has_offset) s[r][e] = constants[r][g].y * sums[g][e] + s[r][e];
          }
        }
      }
    }
  }
}

/// m follows scores that have outgrown it; `scale`: the largest of each row.
template <class Spec>
__device__ void code_warp<Spec>::raise(const float (&s)[2][2], const float (&scale)[2]) {
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    float top = lowest;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float x = s[r][e] + __log2f(scale[r]);
      if (x < 1e30f) top = fmaxf(top, x);  // what is not finite shows in the sums
    }
    for (int lanes = 4; lanes < 32; lanes *= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, lanes));
    const float next = fmaxf(m[e], top - largest_weight);
    const float factor = exp2_of(m[e] - next);
    m[e] = next;
    l[e] *= factor;
#pragma unroll
    for (int g = 0; g < value::groups; ++g) {
      offsets[g][e] *= factor;
      ones[g][e] *= factor, ones[g][2 + e] *= factor;
    }
#pragma unroll
    for (int p = 0; p < value::chunks * 2; ++p) o[p][e] *= factor, o[p][2 + e] *= factor;
  }
}

/// Groups whose constants are not finite: NaN for the queries that see the row, by the sums of offsets, and nothing to
/// others.
template <class Spec>
__device__ void code_warp<Spec>::hide_not_finite(const float (&s)[2][2], float2 (&constants)[2][value::groups],
                                                 float (&largest)[2]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    largest[r] = least_scale;
#pragma unroll
    for (int g = 0; g < value::groups; ++g) {
      if (!is_finite(constants[r][g].x + constants[r][g].y)) {
        constants[r][g] = make_float2(0, 0);
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          if (s[r][e] != -infinity()) offsets[g][e] = quiet_nan();
        }
      }
      largest[r] = fmaxf(largest[r], constants[r][g].x);
    }
  }
}

/// Adds the staged rows with the weights of these scores, in units of log 2: -inf where a query does not see a row.
template <class Spec>
__device__ void code_warp<Spec>::sum(const byte* staged, const float (&s)[2][2]) {
  float2 constants[2][value::groups];
  float largest[2];
  float not_finite = 0;  // NaN if any is
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    value::constants(staged + value_constants_at + row_of(r) * value::group_bytes, constants[r]);
    largest[r] = least_scale;
#pragma unroll
    for (int g = 0; g < value::groups; ++g) {
      largest[r] = fmaxf(largest[r], constants[r][g].x);
      not_finite = (value::has_offset ? constants[r][g].x + constants[r][g].y : constants[r][g].x) * 0.0f + not_finite;
    }
  }
  float p[2][2];
  const auto weigh = [&] {
#pragma unroll
    for (int r = 0; r < 2; ++r) p[r][0] = exp2_of(s[r][0] - m[0]), p[r][1] = exp2_of(s[r][1] - m[1]);
  };
  weigh();
  const float top = fmaxf(fmaxf(p[0][0], p[0][1]) * largest[0], fmaxf(p[1][0], p[1][1]) * largest[1]);
  if (__any_sync(~0u, !(top + not_finite <= grown_weight))) {
    hide_not_finite(s, constants, largest);
    raise(s, largest);
    weigh();
  }
#pragma unroll
  for (int e = 0; e < 2; ++e) l[e] += p[0][e] + p[1][e];

  uint32 weights[value::groups][2];
  constexpr float middle = value::rows::middle;
#pragma unroll
  for (int g = 0; g < value::groups; ++g) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float2 k = constants[r][g];
      weights[g][r] = transpose(pack_half(p[r][0] * k.x, p[r][1] * k.x));
      if (value::has_offset || middle != value::zero) {
        const float base = value::has_offset ? k.y + middle * k.x : (middle - value::zero) * k.x;
#pragma unroll
        for (int e = 0; e < 2; ++e) offsets[g][e] += p[r][e] * base;
      }
    }
    constexpr uint32 code = 0x00010001u * static_cast<uint32>(value::rows::middle);
    const uint32 all[4] = {code, code, code, code};
    multiply_add_fp16(ones[g], all, weights[g][0], weights[g][1]);
  }

  const byte* at = staged + values_at + lane() % 16 * value_pitch + lane() / 16 * 16;
#pragma unroll
  for (int n = 0; n < value::loads; ++n) {
    uint32 v[4];
    load_matrices_transposed(v, at + 32 * n);
#pragma unroll
    for (int j = 0; j < value::sum_products; ++j) {
      const int product = n * value::sum_products + j;
      const int g = value::group_of_sum(product);
      const int matrix = j / value::per_byte * 2;
      const int place = j % value::per_byte;
      const uint32 a[4] = {value::halves_at(v[matrix], place, 0), value::halves_at(v[matrix], place, 1),
                           value::halves_at(v[matrix + 1], place, 0), value::halves_at(v[matrix + 1], place, 1)};
      multiply_add_fp16(o[product], a, weights[g][0], weights[g][1]);
    }
  }
}

}  // namespace kvc::inline v0_1::cuda::detail
