// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The operations of host/simd in AVX-512 (F, BW, VL, DQ, VNNI): what each does is said in portable.hpp.

#if defined(__x86_64__) && !defined(__CUDA_ARCH__)

#include <immintrin.h>

#include "kvc/host/simd/calls.hpp"

#if defined(__CUDACC__)  // nvcc warns of the host compiler's pragmas
#pragma nv_diagnostic push
#pragma nv_diag_suppress 1675
#endif

#define KVC_SIMD inline __attribute__((always_inline))
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")
#endif

namespace kvc::inline v0_1::host::detail::avx512 {

inline constexpr int queries_at_once = 4;
inline constexpr int vectors_at_once = 4;
inline constexpr int score_queries = 16;
inline constexpr int score_sets = 8;
inline constexpr int sum_queries = 8;
inline constexpr int sum_vectors = 2;
inline constexpr int few_sum_vectors = 4;
inline constexpr int few = 4;
inline constexpr bool has_own_fields = true;

// Masks of all lanes: the forms without a mask read an undefined vector, which g++ 12 warns of in its users.
inline constexpr __mmask8 all_8 = 0xff;
inline constexpr __mmask16 all_16 = 0xffff;
inline constexpr __mmask32 all_32 = 0xffffffff;
inline constexpr __mmask64 all_64 = 0xffffffffffffffff;

using floats = __m512;
using words = __m512i;

KVC_SIMD floats zeros() {
  return _mm512_setzero_ps();
}
KVC_SIMD floats broadcast(float x) {
  return _mm512_set1_ps(x);
}
KVC_SIMD floats load(const float* p) {
  return _mm512_loadu_ps(p);
}
KVC_SIMD void store(floats x, float* p) {
  _mm512_storeu_ps(p, x);
}
KVC_SIMD floats add(floats a, floats b) {
  return _mm512_add_ps(a, b);
}
KVC_SIMD floats subtract(floats a, floats b) {
  return _mm512_sub_ps(a, b);
}
KVC_SIMD floats multiply(floats a, floats b) {
  return _mm512_mul_ps(a, b);
}
KVC_SIMD floats divide(floats a, floats b) {
  return _mm512_div_ps(a, b);
}
KVC_SIMD floats multiply_add(floats a, floats b, floats c) {
  return _mm512_fmadd_ps(a, b, c);
}
KVC_SIMD floats add_product(floats c, floats a, floats b) {
  return _mm512_fmadd_ps(a, b, c);
}
KVC_SIMD floats absolute(floats x) {
  return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), x);
}
KVC_SIMD floats greater_of(floats a, floats b) {
  return _mm512_maskz_max_ps(all_16, a, b);
}
KVC_SIMD floats less_of(floats a, floats b) {
  return _mm512_maskz_min_ps(all_16, a, b);
}
KVC_SIMD words as_words(floats x) {
  return _mm512_castps_si512(x);
}
KVC_SIMD floats as_floats(words x) {
  return _mm512_castsi512_ps(x);
}
KVC_SIMD floats keep(floats x, words mask) {
  return as_floats(_mm512_and_si512(as_words(x), mask));
}
KVC_SIMD floats select(words mask, floats a, floats b) {
  return _mm512_mask_blend_ps(_mm512_movepi32_mask(mask), b, a);
}
KVC_SIMD words below(floats x, floats limit) {
  return _mm512_movm_epi32(_mm512_cmp_ps_mask(x, limit, _CMP_LT_OQ));
}
KVC_SIMD floats with_sign_of(floats x, floats y) {
  return _mm512_or_ps(y, _mm512_and_ps(x, _mm512_set1_ps(-0.0f)));
}
template <int Half>
KVC_SIMD floats exchange(floats x) {
  if constexpr (Half == 1) return _mm512_maskz_permute_ps(all_16, x, 0xb1);
  if constexpr (Half == 2) return _mm512_maskz_permute_ps(all_16, x, 0x4e);
  return _mm512_maskz_shuffle_f32x4(all_16, x, x, Half == 4 ? 0xb1 : 0x4e);
}
KVC_SIMD float sum_of(floats x) {
  const __m256 a = _mm256_add_ps(_mm512_maskz_extractf32x8_ps(all_8, x, 0), _mm512_maskz_extractf32x8_ps(all_8, x, 1));
  const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}

/// 16 vectors into one that holds lane i of the result for vector i: at each step the halves of what is left are joined
/// by `join`, in the same order for one vector as in sum_of.
template <class Join>
KVC_SIMD floats reduce_each(const floats (&v)[16], Join join) {
  floats a[8];
  floats b[4];
  floats c[2];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    const floats x = v[i / 2 + i % 2 * 8];
    const floats y = v[i / 2 + i % 2 * 8 + 4];
    a[i] = join(_mm512_maskz_shuffle_f32x4(all_16, x, y, 0x44), _mm512_maskz_shuffle_f32x4(all_16, x, y, 0xee));
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const floats x = a[2 * i];
    const floats y = a[2 * i + 1];
    b[i] = join(_mm512_maskz_shuffle_f32x4(all_16, x, y, 0x88), _mm512_maskz_shuffle_f32x4(all_16, x, y, 0xdd));
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    const __m512d x = _mm512_castps_pd(b[2 * i]);
    const __m512d y = _mm512_castps_pd(b[2 * i + 1]);
    c[i] = join(_mm512_castpd_ps(_mm512_maskz_unpacklo_pd(all_8, x, y)),
                _mm512_castpd_ps(_mm512_maskz_unpackhi_pd(all_8, x, y)));
  }
  return join(_mm512_maskz_shuffle_ps(all_16, c[0], c[1], 0x88), _mm512_maskz_shuffle_ps(all_16, c[0], c[1], 0xdd));
}
/// The same of 4 vectors, in the same order; lanes from 4 on repeat them.
template <class Join>
KVC_SIMD floats reduce_few(const floats (&v)[16], Join join) {
  floats a[2];
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    a[i] = join(_mm512_maskz_shuffle_f32x4(all_16, v[2 * i], v[2 * i + 1], 0x44),
                _mm512_maskz_shuffle_f32x4(all_16, v[2 * i], v[2 * i + 1], 0xee));
  }
  const floats b =
      join(_mm512_maskz_shuffle_f32x4(all_16, a[0], a[1], 0x88), _mm512_maskz_shuffle_f32x4(all_16, a[0], a[1], 0xdd));
  const floats c = join(b, exchange<2>(b));
  const floats d = join(_mm512_maskz_shuffle_ps(all_16, c, c, 0x88), _mm512_maskz_shuffle_ps(all_16, c, c, 0xdd));
  return _mm512_maskz_permutexvar_ps(all_16, _mm512_setr_epi32(0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12), d);
}
struct join_sum {
  KVC_SIMD floats operator()(floats a, floats b) const { return _mm512_add_ps(a, b); }
};
struct join_greatest {
  KVC_SIMD floats operator()(floats a, floats b) const { return _mm512_maskz_max_ps(all_16, a, b); }
};
struct join_least {
  KVC_SIMD floats operator()(floats a, floats b) const { return _mm512_maskz_min_ps(all_16, a, b); }
};
struct join_greatest_words {
  KVC_SIMD floats operator()(floats a, floats b) const {
    return as_floats(_mm512_maskz_max_epi32(all_16, as_words(a), as_words(b)));
  }
};
KVC_SIMD floats least_each(const floats (&v)[16]) {
  return reduce_each(v, join_least{});
}
KVC_SIMD words greatest_words_each(const floats (&v)[16]) {
  return as_words(reduce_each(v, join_greatest_words{}));
}
KVC_SIMD floats sum_each(const floats (&v)[16], int count = 16) {
  if (count <= few) return reduce_few(v, join_sum{});
  return reduce_each(v, join_sum{});
}
KVC_SIMD floats greatest_each(const floats (&v)[16], int count = 16) {
  if (count <= few) return reduce_few(v, join_greatest{});
  return reduce_each(v, join_greatest{});
}

KVC_SIMD words word_zeros() {
  return _mm512_setzero_si512();
}
KVC_SIMD words broadcast_word(int32 x) {
  return _mm512_set1_epi32(x);
}
KVC_SIMD words load_words(const void* p) {
  return _mm512_loadu_si512(p);
}
KVC_SIMD void store_words(words x, void* p) {
  _mm512_storeu_si512(p, x);
}
KVC_SIMD words add_words(words a, words b) {
  return _mm512_add_epi32(a, b);
}
KVC_SIMD words and_words(words a, words b) {
  return _mm512_and_si512(a, b);
}
KVC_SIMD words shift_right(words x, words bits) {
  return _mm512_maskz_srlv_epi32(all_16, x, bits);
}
KVC_SIMD floats to_floats(words x) {
  return _mm512_maskz_cvtepi32_ps(all_16, x);
}
KVC_SIMD words shift_left_23(words x) {
  return _mm512_maskz_slli_epi32(all_16, x, 23);
}
KVC_SIMD words truncate(floats x) {
  return _mm512_maskz_cvttps_epi32(all_16, x);
}
KVC_SIMD words nearest(floats x) {
  return _mm512_maskz_cvtps_epi32(all_16, x);
}
KVC_SIMD void store_bytes(words x, int8* p) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_maskz_cvtepi32_epi8(all_16, x));
}
template <int Fields>
KVC_SIMD words query_order(words x) {
  if constexpr (Fields == 1) return x;
  return _mm512_maskz_permutexvar_epi32(all_16,
                                        Fields == 2
                                            ? _mm512_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15)
                                            : _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15),
                                        x);
}
KVC_SIMD words floor_of(floats x) {
  words y;  // by hand: without optimization the intrinsic is a macro that nvcc warns of
  asm("vcvtps2dq %{rd-sae%}, %1, %0" : "=v"(y) : "v"(x));
  return y;
}
KVC_SIMD words less_words(words a, words b) {
  return _mm512_movm_epi32(_mm512_cmplt_epi32_mask(a, b));
}
KVC_SIMD words greater_words(words a, words b) {
  return _mm512_maskz_max_epi32(all_16, a, b);
}
KVC_SIMD words select_words(words mask, words a, words b) {
  return _mm512_mask_blend_epi32(_mm512_movepi32_mask(mask), b, a);
}
template <int Rounding>
KVC_SIMD words half_rounded(floats x) {
  const floats limit = broadcast(65504.0f);
  const floats in = greater_of(less_of(x, limit), broadcast(-65504.0f));
  return _mm512_maskz_cvtepu16_epi32(all_16, _mm512_maskz_cvtps_ph(all_16, in, Rounding));
}
KVC_SIMD words half_bits(floats x) {
  return half_rounded<_MM_FROUND_TO_NEAREST_INT>(x);
}
KVC_SIMD words half_above(floats x) {
  return half_rounded<_MM_FROUND_TO_POS_INF>(x);
}
KVC_SIMD words half_below(floats x) {
  return half_rounded<_MM_FROUND_TO_NEG_INF>(x);
}
KVC_SIMD floats half_values(words x) {
  return _mm512_maskz_cvtph_ps(all_16, _mm512_maskz_cvtepi32_epi16(all_16, x));
}
KVC_SIMD void store_packed(words x, int bits, byte* p) {
  if (bits == 4) {  // neighbours into one word of 64 bits
    const words pairs = _mm512_or_si512(x, _mm512_maskz_srli_epi64(all_8, x, 28));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm512_maskz_cvtepi64_epi8(all_8, pairs));
    return;
  }
  const __m128i bytes = _mm512_maskz_cvtepi32_epi8(all_16, x);
  if (bits == 2) {
    const __m128i fours = _mm_madd_epi16(_mm_maddubs_epi16(bytes, _mm_set1_epi16(0x0401)), _mm_set1_epi32(0x00100001));
    const int32 word =
        _mm_cvtsi128_si32(_mm_shuffle_epi8(fours, _mm_setr_epi8(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)));
    __builtin_memcpy(p, &word, 4);
  } else if (bits == 8) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
  } else {
    uint8 codes[16];
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes), bytes);
    pack_16(codes, bits, p);
  }
}
KVC_SIMD void store_nibbles(const words (&w)[4], byte* p) {
  // Lane l of the first packing: the words 4 l to 4 l + 3 of w[0], of w[1], and so on.
  const words bytes = _mm512_maskz_packus_epi16(all_64, _mm512_maskz_packus_epi32(all_32, w[0], w[1]),
                                                _mm512_maskz_packus_epi32(all_32, w[2], w[3]));
  const words pairs = _mm512_maskz_maddubs_epi16(all_32, bytes, _mm512_set1_epi16(0x1001));
  const words order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_maskz_cvtepi16_epi8(all_32, _mm512_maskz_permutexvar_epi32(all_16, order, pairs)));
}
KVC_SIMD words pack_words(const words (&w)[4]) {
  return _mm512_maskz_packus_epi16(all_64, _mm512_maskz_packus_epi32(all_32, w[0], w[1]),
                                   _mm512_maskz_packus_epi32(all_32, w[2], w[3]));
}
KVC_SIMD void store_lanes(words x, void* p, int64 stride) {
  byte* to = static_cast<byte*>(p);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_maskz_extracti32x4_epi32(all_8, x, 0));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to + stride), _mm512_maskz_extracti32x4_epi32(all_8, x, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 2 * stride), _mm512_maskz_extracti32x4_epi32(all_8, x, 2));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 3 * stride), _mm512_maskz_extracti32x4_epi32(all_8, x, 3));
}
template <int Parts>
KVC_SIMD void store_weights(words x, uint8* p) {
  if constexpr (Parts == 8) {
    store_lanes(x, p, 32);
  } else if constexpr (Parts == 4) {
    store_words(x, p);
  } else {
    const words order = Parts == 1 ? _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)
                                   : _mm512_setr_epi32(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    store_words(_mm512_maskz_permutexvar_epi32(all_16, order, x), p);
  }
}
KVC_SIMD words load_mask(const uint8* p) {
  return _mm512_maskz_cvtepi8_epi32(all_16, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
KVC_SIMD void halves(words pairs, floats& low, floats& high) {
  low = _mm512_maskz_cvtph_ps(all_16, _mm512_maskz_cvtepi32_epi16(all_16, pairs));
  high = _mm512_maskz_cvtph_ps(all_16, _mm512_maskz_cvtepi32_epi16(all_16, _mm512_maskz_srli_epi32(all_16, pairs, 16)));
}

KVC_SIMD words broadcast_4(const void* p) {
  int32 x;
  __builtin_memcpy(&x, p, 4);
  return _mm512_set1_epi32(x);
}
KVC_SIMD words pick_words(const void* eight, words lanes) {
  const __m256i x = _mm256_loadu_si256(static_cast<const __m256i*>(eight));
  return _mm512_maskz_permutexvar_epi32(all_16, lanes, _mm512_castsi256_si512(x));
}
// By hand: g++ 12 copies every sum before and after the builtin.
KVC_SIMD words dot_query(words sum, words codes, const int8* query) {
  struct four {
    int8 x[4];
  };
  asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(codes), "m"(*reinterpret_cast<const four*>(query)));
  return sum;
}
KVC_SIMD words dot_weights(words sum, words weights, words codes) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(weights), "v"(codes));
  return sum;
}

KVC_SIMD words two_rows(const byte* low, const byte* high) {
  return _mm512_maskz_inserti64x4(all_8,
                                  _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(low))),
                                  _mm256_loadu_si256(reinterpret_cast<const __m256i*>(high)), 1);
}

KVC_SIMD void load_transposed(const byte* rows, int64 pitch, words (&x)[8]) {
  words a[8];
  words b[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) a[i] = two_rows(rows + i * pitch, rows + (i + 8) * pitch);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {  // pairs of rows: words 0, 4 | 1, 5 interleaved, and 2, 6 | 3, 7
    b[2 * i] = _mm512_maskz_unpacklo_epi32(all_16, a[2 * i], a[2 * i + 1]);
    b[2 * i + 1] = _mm512_maskz_unpackhi_epi32(all_16, a[2 * i], a[2 * i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {  // four rows
    a[4 * i] = _mm512_maskz_unpacklo_epi64(all_8, b[4 * i], b[4 * i + 2]);
    a[4 * i + 1] = _mm512_maskz_unpackhi_epi64(all_8, b[4 * i], b[4 * i + 2]);
    a[4 * i + 2] = _mm512_maskz_unpacklo_epi64(all_8, b[4 * i + 1], b[4 * i + 3]);
    a[4 * i + 3] = _mm512_maskz_unpackhi_epi64(all_8, b[4 * i + 1], b[4 * i + 3]);
  }
  const words low = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13);
  const words high = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {  // eight rows
    x[i] = _mm512_permutex2var_epi64(a[i], low, a[i + 4]);
    x[i + 4] = _mm512_permutex2var_epi64(a[i], high, a[i + 4]);
  }
}

KVC_SIMD void interleave(const words (&a)[4], words (&x)[4]) {
  const words b0 = _mm512_maskz_unpacklo_epi8(all_64, a[0], a[1]);
  const words b1 = _mm512_maskz_unpackhi_epi8(all_64, a[0], a[1]);
  const words b2 = _mm512_maskz_unpacklo_epi8(all_64, a[2], a[3]);
  const words b3 = _mm512_maskz_unpackhi_epi8(all_64, a[2], a[3]);
  x[0] = _mm512_maskz_unpacklo_epi16(all_32, b0, b2);
  x[1] = _mm512_maskz_unpackhi_epi16(all_32, b0, b2);
  x[2] = _mm512_maskz_unpacklo_epi16(all_32, b1, b3);
  x[3] = _mm512_maskz_unpackhi_epi16(all_32, b1, b3);
}
KVC_SIMD void load_interleaved(const byte* rows, int64 pitch, int bytes, words (&x)[4]) {
  const __mmask64 mask = all_64 >> (64 - bytes);
  words a[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) a[i] = _mm512_maskz_loadu_epi8(mask, rows + i * pitch);
  interleave(a, x);
}
KVC_SIMD void load_interleaved_twice(const byte* rows, int64 pitch, words (&x)[4]) {
  words a[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) a[i] = two_rows(rows + i * pitch, rows + (i + 4) * pitch);
  interleave(a, x);
}

#include "kvc/host/simd/codes.inl"
#include "kvc/host/simd/encode.inl"
#include "kvc/host/simd/softmax.inl"
#include "kvc/host/simd/tiles.inl"

inline constexpr kernel_table table = make_table();

}  // namespace kvc::inline v0_1::host::detail::avx512

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef KVC_SIMD
#if defined(__CUDACC__)
#pragma nv_diagnostic pop
#endif

#endif
