// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/core/math.hpp"

// The two inner loops of attention on the host, over fp32 tiles that fit the first-level caches:
//
//   scores[q][r]  (+)= <query[q], row[r]>           out[q][:] += sum_r weight[q][r] * row[r][:]
//
// Written with the vector types of GCC and clang, 16 lanes wide; the compiler lowers them to whatever the target has.
// Every product is summed in one fixed order (16 partial sums over the channels, then a tree; rows in ascending order),
// whichever queries and rows share a block: appending one by one or in bulk gives the same bits.

namespace kvc::inline v0_1::host::detail {

inline constexpr int lanes = 16;
typedef float vec __attribute__((vector_size(lanes * sizeof(float)), aligned(4), may_alias));

inline void load(const float* p, vec& v) {
  v = *reinterpret_cast<const vec*>(p);
}
inline void store(const vec& v, float* p) {
  *reinterpret_cast<vec*>(p) = v;
}

inline float tree_sum(const vec& v) {
  float s[lanes];
  store(v, s);
  for (int half = lanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) s[i] += s[i + half];
  }
  return s[0];
}

template <int Queries, int Rows, bool Add>
inline void score_block(const float* q, int64 q_pitch, const float* k, int64 k_pitch, int width, float* s,
                        int64 s_pitch) {
  vec sum[Queries][Rows] = {};
  for (int c = 0; c < width; c += lanes) {
    vec row[Rows];
    for (int r = 0; r < Rows; ++r) load(k + r * k_pitch + c, row[r]);
    for (int i = 0; i < Queries; ++i) {
      vec query;
      load(q + i * q_pitch + c, query);
      for (int r = 0; r < Rows; ++r) sum[i][r] += query * row[r];
    }
  }
  for (int i = 0; i < Queries; ++i) {
    for (int r = 0; r < Rows; ++r) {
      const float x = tree_sum(sum[i][r]);
      if constexpr (Add) {
        s[i * s_pitch + r] += x;
      } else {
        s[i * s_pitch + r] = x;
      }
    }
  }
}

template <int Queries, bool Add>
inline void score_queries(const float* q, int64 q_pitch, const float* k, int64 k_pitch, int rows, int width, float* s,
                          int64 s_pitch) {
  int r = 0;
  for (; r + 4 <= rows; r += 4)
    score_block<Queries, 4, Add>(q, q_pitch, k + r * k_pitch, k_pitch, width, s + r, s_pitch);
  for (; r < rows; ++r) score_block<Queries, 1, Add>(q, q_pitch, k + r * k_pitch, k_pitch, width, s + r, s_pitch);
}

// Not inlined: one copy serves all compositions of a program.

/// s[queries][rows] = or += q[queries][width] k[rows][width]^T; width a multiple of 16.
template <bool Add>
[[gnu::noinline]] inline void score(const float* q, int queries, int64 q_pitch, const float* k, int rows, int64 k_pitch,
                                    int width, float* s, int64 s_pitch) {
  int i = 0;
  for (; i + 4 <= queries; i += 4) {
    score_queries<4, Add>(q + i * q_pitch, q_pitch, k, k_pitch, rows, width, s + i * s_pitch, s_pitch);
  }
  for (; i < queries; ++i) {
    score_queries<1, Add>(q + i * q_pitch, q_pitch, k, k_pitch, rows, width, s + i * s_pitch, s_pitch);
  }
}

template <int Queries, int Blocks>
inline void accumulate_block(const float* p, int64 p_pitch, const float* v, int64 v_pitch, int rows, float* o,
                             int64 o_pitch) {
  vec sum[Queries][Blocks];
  for (int i = 0; i < Queries; ++i) {
    for (int b = 0; b < Blocks; ++b) load(o + i * o_pitch + b * lanes, sum[i][b]);
  }
  for (int r = 0; r < rows; ++r) {
    vec row[Blocks];
    for (int b = 0; b < Blocks; ++b) load(v + r * v_pitch + b * lanes, row[b]);
    for (int i = 0; i < Queries; ++i) {
      const float weight = p[i * p_pitch + r];
      for (int b = 0; b < Blocks; ++b) sum[i][b] += weight * row[b];
    }
  }
  for (int i = 0; i < Queries; ++i) {
    for (int b = 0; b < Blocks; ++b) store(sum[i][b], o + i * o_pitch + b * lanes);
  }
}

template <int Queries>
inline void accumulate_queries(const float* p, int64 p_pitch, const float* v, int64 v_pitch, int rows, int width,
                               float* o, int64 o_pitch) {
  int c = 0;
  for (; c + 4 * lanes <= width; c += 4 * lanes) {
    accumulate_block<Queries, 4>(p, p_pitch, v + c, v_pitch, rows, o + c, o_pitch);
  }
  for (; c < width; c += lanes) accumulate_block<Queries, 1>(p, p_pitch, v + c, v_pitch, rows, o + c, o_pitch);
}

/// o[queries][width] += p[queries][rows] v[rows][width]; width a multiple of 16.
[[gnu::noinline]] inline void accumulate(const float* p, int queries, int64 p_pitch, const float* v, int rows,
                                         int64 v_pitch, int width, float* o, int64 o_pitch) {
  int i = 0;
  for (; i + 4 <= queries; i += 4) {
    accumulate_queries<4>(p + i * p_pitch, p_pitch, v, v_pitch, rows, width, o + i * o_pitch, o_pitch);
  }
  for (; i < queries; ++i) {
    accumulate_queries<1>(p + i * p_pitch, p_pitch, v, v_pitch, rows, width, o + i * o_pitch, o_pitch);
  }
}

}  // namespace kvc::inline v0_1::host::detail
