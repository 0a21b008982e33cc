// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Attention over fp32 tiles that fit the first-level caches. Included by each instruction set's file, inside its
// namespace.
//
//   scores[q][r]  (+)= <query[q], row[r]>           out[q][:] += sum_r weight[q][r] * row[r][:]
//
// Every product is summed in one fixed order (16 partial sums over the channels, then a tree; rows in ascending order),
// whichever queries and rows share a block: appending one by one or in bulk gives the same bits.

// g++ keeps these arrays in registers only where the loops over them are unrolled early, which the pragma does.
template <int Queries, int Rows, bool Add>
KVC_SIMD void score_tile_block(const score_tile_call& c, int q, int r) {
  constexpr int count = Queries * Rows;
  floats sum[count];
#pragma GCC unroll 16
  for (int i = 0; i < count; ++i) sum[i] = zeros();
  const float* query = c.q + q * c.q_pitch;
  const float* row = c.rows + r * c.row_pitch;
  for (int d = 0; d < c.width; d += 16) {
    floats x[Queries];
#pragma GCC unroll 4
    for (int i = 0; i < Queries; ++i) x[i] = load(query + i * c.q_pitch + d);
#pragma GCC unroll 16
    for (int j = 0; j < Rows; ++j) {
      const floats y = load(row + j * c.row_pitch + d);
#pragma GCC unroll 4
      for (int i = 0; i < Queries; ++i) sum[i * Rows + j] = add_product(sum[i * Rows + j], x[i], y);
    }
  }
  float x[count];
  if constexpr (count == 16) {
    store(sum_each(sum), x);
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < count; ++i) x[i] = sum_of(sum[i]);
  }
  for (int i = 0; i < Queries; ++i) {
    float* s = c.scores + (q + i) * c.score_pitch + r;
    for (int j = 0; j < Rows; ++j) s[j] = Add ? s[j] + x[i * Rows + j] : x[i * Rows + j];
  }
}

template <int Queries, bool Add>
KVC_SIMD void score_tile_rows(const score_tile_call& c, int q) {
  int r = 0;
  if constexpr (queries_at_once == 4 && Queries == 1) {
    for (; r + 16 <= c.row_count; r += 16) score_tile_block<1, 16, Add>(c, q, r);
  }
  for (; r + vectors_at_once <= c.row_count; r += vectors_at_once) {
    score_tile_block<Queries, vectors_at_once, Add>(c, q, r);
  }
  for (; r < c.row_count; ++r) score_tile_block<Queries, 1, Add>(c, q, r);
}

/// scores[queries][rows] = or += q[queries][width] rows[row_count][width]^T; width a multiple of 16.
template <bool Add>
inline void score_tile(const score_tile_call& c) {
  int q = 0;
  for (; q + queries_at_once <= c.queries; q += queries_at_once) score_tile_rows<queries_at_once, Add>(c, q);
  for (; q < c.queries; ++q) score_tile_rows<1, Add>(c, q);
}

template <int Queries, int Vectors>
KVC_SIMD void sum_tile_block(const sum_tile_call& c, int q, int d) {
  floats sum[Queries][Vectors];
#pragma GCC unroll 4
  for (int i = 0; i < Queries; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) sum[i][j] = load(c.o + (q + i) * c.o_pitch + d + j * 16);
  }
  const float* row = c.rows + d;
  for (int r = 0; r < c.row_count; ++r) {
    floats y[Vectors];
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) y[j] = load(row + j * 16);
#pragma GCC unroll 4
    for (int i = 0; i < Queries; ++i) {
      const floats weight = broadcast(c.weights[(q + i) * c.weight_pitch + r]);
#pragma GCC unroll 4
      for (int j = 0; j < Vectors; ++j) sum[i][j] = add_product(sum[i][j], weight, y[j]);
    }
    row += c.row_pitch;
  }
#pragma GCC unroll 4
  for (int i = 0; i < Queries; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) store(sum[i][j], c.o + (q + i) * c.o_pitch + d + j * 16);
  }
}

template <int Queries>
KVC_SIMD void sum_tile_channels(const sum_tile_call& c, int q) {
  int d = 0;
  for (; d + vectors_at_once * 16 <= c.width; d += vectors_at_once * 16) {
    sum_tile_block<Queries, vectors_at_once>(c, q, d);
  }
  for (; d < c.width; d += 16) sum_tile_block<Queries, 1>(c, q, d);
}

/// o[queries][width] += weights[queries][row_count] rows[row_count][width]; width a multiple of 16.
inline void sum_tile(const sum_tile_call& c) {
  int q = 0;
  for (; q + queries_at_once <= c.queries; q += queries_at_once) sum_tile_channels<queries_at_once>(c, q);
  for (; q < c.queries; ++q) sum_tile_channels<1>(c, q);
}

/// o[count] *= factor
inline void rescale(float* o, int count, float factor) {
  const floats by = broadcast(factor);
  for (int i = 0; i < count; i += 16) store(multiply(load(o + i), by), o + i);
}

constexpr kernel_table make_table() {
  return {nothing_to_begin,
          nothing_to_begin,
          score_codes,
          sum_codes,
          {quantize_query<1>, quantize_query<2>, quantize_query<4>},
          load_constants,
          encode,
          rotate,
          quantize_weights,
          softmax,
          {score_tile<false>, score_tile<true>},
          sum_tile,
          rescale};
}
