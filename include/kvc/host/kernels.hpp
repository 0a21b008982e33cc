// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/core/math.hpp"

// The two inner loops of attention on the host, over fp32 tiles that fit the first-level caches:
//
//   scores[q][r]  (+)= <query[q], row[r]>           out[q][:] += sum_r weight[q][r] * row[r][:]
//
// Written with the vector types of GCC and clang, 16 lanes wide, in as many registers of the target as that takes.
// Every product is summed in one fixed order (16 partial sums over the channels, then a tree; rows in ascending order),
// whichever queries and rows share a block: appending one by one or in bulk gives the same bits.

#if defined(__CUDACC__)  // nvcc warns of the host compiler's pragmas
#pragma nv_diagnostic push
#pragma nv_diag_suppress 1675
#endif

namespace kvc::inline v0_1::host::detail {

inline constexpr int lanes = 16;

#if defined(__AVX512F__)
inline constexpr int blocked = 4;  // queries by rows of a block; there are 32 registers
typedef float vec __attribute__((vector_size(lanes * sizeof(float)), aligned(4), may_alias));

inline void load(const float* p, vec& v) {
  v = *reinterpret_cast<const vec*>(p);
}
inline void store(const vec& v, float* p) {
  *reinterpret_cast<vec*>(p) = v;
}
inline void add_product(vec& sum, const vec& a, const vec& b) {
  sum += a * b;
}
inline void add_product(vec& sum, float a, const vec& b) {
  sum += a * b;
}
#else
inline constexpr int blocked = 2;  // there are 16 registers

// In parts as long as the target's registers: g++ computes longer vectors lane by lane.
#if defined(__AVX__)
inline constexpr int part_lanes = 8;
#else
inline constexpr int part_lanes = 4;
#endif
typedef float vec_part __attribute__((vector_size(part_lanes * sizeof(float)), aligned(4), may_alias));

struct vec {
  vec_part part[lanes / part_lanes];

  static constexpr int parts = lanes / part_lanes;
};

inline void load(const float* p, vec& v) {
#pragma GCC unroll 4
  for (int i = 0; i < vec::parts; ++i) v.part[i] = *reinterpret_cast<const vec_part*>(p + i * part_lanes);
}
inline void store(const vec& v, float* p) {
#pragma GCC unroll 4
  for (int i = 0; i < vec::parts; ++i) *reinterpret_cast<vec_part*>(p + i * part_lanes) = v.part[i];
}
inline void add_product(vec& sum, const vec& a, const vec& b) {
#pragma GCC unroll 4
  for (int i = 0; i < vec::parts; ++i) sum.part[i] += a.part[i] * b.part[i];
}
inline void add_product(vec& sum, float a, const vec& b) {
#pragma GCC unroll 4
  for (int i = 0; i < vec::parts; ++i) sum.part[i] += a * b.part[i];
}
inline vec& operator+=(vec& sum, const vec& x) {
#pragma GCC unroll 4
  for (int i = 0; i < vec::parts; ++i) sum.part[i] += x.part[i];
  return sum;
}
#endif

inline float tree_sum(const vec& v) {
  float s[lanes];
  store(v, s);
  for (int half = lanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) s[i] += s[i + half];
  }
  return s[0];
}

#if defined(__AVX512F__)
inline constexpr bool sums_together = true;

/// out[i] = tree_sum(v[i]) of 16 vectors: the same additions, 16 of them per instruction.
inline vec tree_sums(const vec (&v)[16]) {
  static_assert(lanes == 16, "the shuffles are written for 16 lanes");
  vec a[8];
  vec b[4];
  vec c[2];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    const vec x = v[i / 2 + i % 2 * 8];
    const vec y = v[i / 2 + i % 2 * 8 + 4];
    a[i] = __builtin_shufflevector(x, y, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
           __builtin_shufflevector(x, y, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const vec x = a[2 * i];
    const vec y = a[2 * i + 1];
    b[i] = __builtin_shufflevector(x, y, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
           __builtin_shufflevector(x, y, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    const vec x = b[2 * i];
    const vec y = b[2 * i + 1];
    c[i] = __builtin_shufflevector(x, y, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +
           __builtin_shufflevector(x, y, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
  }
  return __builtin_shufflevector(c[0], c[1], 0, 2, 16, 18, 4, 6, 20, 22, 8, 10, 24, 26, 12, 14, 28, 30) +
         __builtin_shufflevector(c[0], c[1], 1, 3, 17, 19, 5, 7, 21, 23, 9, 11, 25, 27, 13, 15, 29, 31);
}
#else
inline constexpr bool sums_together = false;
vec tree_sums(const vec (&v)[16]);
#endif

/// The sum of s[count]: 16 partial sums, a tree, then what is left over.
inline float sum_of(const float* s, int64 count) {
  const int64 whole = count / lanes * lanes;
  vec partial{};
  for (int64 t = 0; t < whole; t += lanes) {
    vec x;
    load(s + t, x);
    partial += x;
  }
  float sum = tree_sum(partial);
  for (int64 t = whole; t < count; ++t) sum += s[t];
  return sum;
}

/// The greatest of `top` and s[count]; NaN is passed over.
inline float max_of_row(const float* s, int64 count, float top) {
  const int64 whole = count / lanes * lanes;
  if (whole > 0) {
    float partial[lanes];
    for (int i = 0; i < lanes; ++i) partial[i] = s[i] > top ? s[i] : top;
    for (int64 t = lanes; t < whole; t += lanes) {
      for (int i = 0; i < lanes; ++i) partial[i] = s[t + i] > partial[i] ? s[t + i] : partial[i];
    }
    for (int half = lanes / 2; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) partial[i] = partial[i + half] > partial[i] ? partial[i + half] : partial[i];
    }
    top = partial[0];
  }
  for (int64 t = whole; t < count; ++t) top = s[t] > top ? s[t] : top;
  return top;
}

// g++ keeps these arrays in registers only where the loops over them are unrolled early, which the pragma does.
template <int Queries, int Rows, bool Add>
inline void score_block(const float* q, int64 q_pitch, const float* k, int64 k_pitch, int width, float* s,
                        int64 s_pitch) {
  constexpr int count = Queries * Rows;
  vec sum[count];
#pragma GCC unroll 16
  for (int i = 0; i < count; ++i) sum[i] = vec{};
  for (int c = 0; c < width; c += lanes) {
    vec query[Queries];
#pragma GCC unroll 4
    for (int i = 0; i < Queries; ++i) load(q + i * q_pitch + c, query[i]);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      vec row;
      load(k + r * k_pitch + c, row);
#pragma GCC unroll 4
      for (int i = 0; i < Queries; ++i) add_product(sum[i * Rows + r], query[i], row);
    }
  }
  float x[count];
  if constexpr (sums_together && count == 16) {
    store(tree_sums(sum), x);
  } else {
    for (int i = 0; i < count; ++i) x[i] = tree_sum(sum[i]);
  }
  for (int i = 0; i < Queries; ++i) {
    for (int r = 0; r < Rows; ++r) s[i * s_pitch + r] = Add ? s[i * s_pitch + r] + x[i * Rows + r] : x[i * Rows + r];
  }
}

template <int Queries, bool Add>
inline void score_queries(const float* q, int64 q_pitch, const float* k, int64 k_pitch, int rows, int width, float* s,
                          int64 s_pitch) {
  const auto block = [&]<int Rows>(int r) {
    score_block<Queries, Rows, Add>(q, q_pitch, k + r * k_pitch, k_pitch, width, s + r, s_pitch);
  };
  int r = 0;
  if constexpr (sums_together && Queries == 1) {
    for (; r + 16 <= rows; r += 16) block.template operator()<16>(r);
  }
  for (; r + blocked <= rows; r += blocked) block.template operator()<blocked>(r);
  for (; r < rows; ++r) block.template operator()<1>(r);
}

// Not inlined: one copy serves all compositions of a program.

/// s[queries][rows] = or += q[queries][width] k[rows][width]^T; width a multiple of 16.
template <bool Add>
[[gnu::noinline]] inline void score(const float* q, int queries, int64 q_pitch, const float* k, int rows, int64 k_pitch,
                                    int width, float* s, int64 s_pitch) {
  int i = 0;
  for (; i + blocked <= queries; i += blocked) {
    score_queries<blocked, Add>(q + i * q_pitch, q_pitch, k, k_pitch, rows, width, s + i * s_pitch, s_pitch);
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
      for (int b = 0; b < Blocks; ++b) add_product(sum[i][b], weight, row[b]);
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
  for (; c + blocked * lanes <= width; c += blocked * lanes) {
    accumulate_block<Queries, blocked>(p, p_pitch, v + c, v_pitch, rows, o + c, o_pitch);
  }
  for (; c < width; c += lanes) accumulate_block<Queries, 1>(p, p_pitch, v + c, v_pitch, rows, o + c, o_pitch);
}

/// o[queries][width] += p[queries][rows] v[rows][width]; width a multiple of 16.
[[gnu::noinline]] inline void accumulate(const float* p, int queries, int64 p_pitch, const float* v, int rows,
                                         int64 v_pitch, int width, float* o, int64 o_pitch) {
  int i = 0;
  for (; i + blocked <= queries; i += blocked) {
    accumulate_queries<blocked>(p + i * p_pitch, p_pitch, v, v_pitch, rows, width, o + i * o_pitch, o_pitch);
  }
  for (; i < queries; ++i) {
    accumulate_queries<1>(p + i * p_pitch, p_pitch, v, v_pitch, rows, width, o + i * o_pitch, o_pitch);
  }
}

}  // namespace kvc::inline v0_1::host::detail

#if defined(__CUDACC__)
#pragma nv_diagnostic pop
#endif
