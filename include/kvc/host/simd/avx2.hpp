// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The operations of host/simd in AVX2, FMA and F16C: what each does is said in portable.hpp.

#if defined(__x86_64__) && !defined(__CUDA_ARCH__)

#include <immintrin.h>

#include "kvc/host/simd/calls.hpp"

#if defined(__CUDACC__)  // nvcc warns of the host compiler's pragmas
#pragma nv_diagnostic push
#pragma nv_diag_suppress 1675
#endif

#define KVC_SIMD inline __attribute__((always_inline))
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

namespace kvc::inline v0_1::host::detail::avx2 {

inline constexpr int queries_at_once = 2;
inline constexpr int vectors_at_once = 2;
inline constexpr int score_queries = 4;
inline constexpr int score_sets = 1;
inline constexpr int sum_queries = 2;
inline constexpr int sum_vectors = 2;
inline constexpr int few_sum_vectors = sum_vectors;
inline constexpr int few = 16;
inline constexpr bool has_own_fields = false;

struct floats {
  __m256 a, b;
};
struct words {
  __m256i a, b;
};

KVC_SIMD __m256i load_half(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}

KVC_SIMD floats zeros() {
  return {_mm256_setzero_ps(), _mm256_setzero_ps()};
}
KVC_SIMD floats broadcast(float x) {
  return {_mm256_set1_ps(x), _mm256_set1_ps(x)};
}
KVC_SIMD floats load(const float* p) {
  return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
KVC_SIMD void store(floats x, float* p) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
KVC_SIMD floats add(floats x, floats y) {
  return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
}
KVC_SIMD floats subtract(floats x, floats y) {
  return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)};
}
KVC_SIMD floats multiply(floats x, floats y) {
  return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
}
KVC_SIMD floats divide(floats x, floats y) {
  return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)};
}
KVC_SIMD floats multiply_add(floats x, floats y, floats z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
KVC_SIMD floats add_product(floats z, floats x, floats y) {
  return multiply_add(x, y, z);
}
KVC_SIMD floats absolute(floats x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
KVC_SIMD floats greater_of(floats x, floats y) {
  return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)};
}
KVC_SIMD floats less_of(floats x, floats y) {
  return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)};
}
KVC_SIMD words as_words(floats x) {
  return {_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)};
}
KVC_SIMD floats as_floats(words x) {
  return {_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)};
}
KVC_SIMD floats keep(floats x, words mask) {
  const floats m = as_floats(mask);
  return {_mm256_and_ps(x.a, m.a), _mm256_and_ps(x.b, m.b)};
}
KVC_SIMD floats select(words mask, floats x, floats y) {
  const floats m = as_floats(mask);
  return {_mm256_blendv_ps(y.a, x.a, m.a), _mm256_blendv_ps(y.b, x.b, m.b)};
}
KVC_SIMD words below(floats x, floats limit) {
  return as_words({_mm256_cmp_ps(x.a, limit.a, _CMP_LT_OQ), _mm256_cmp_ps(x.b, limit.b, _CMP_LT_OQ)});
}
KVC_SIMD floats with_sign_of(floats x, floats y) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_or_ps(y.a, _mm256_and_ps(x.a, sign)), _mm256_or_ps(y.b, _mm256_and_ps(x.b, sign))};
}
template <int Half>
KVC_SIMD floats exchange(floats x) {
  if constexpr (Half == 8) return {x.b, x.a};
  if constexpr (Half == 4) return {_mm256_permute2f128_ps(x.a, x.a, 0x01), _mm256_permute2f128_ps(x.b, x.b, 0x01)};
  constexpr int order = Half == 1 ? 0xb1 : 0x4e;
  return {_mm256_permute_ps(x.a, order), _mm256_permute_ps(x.b, order)};
}
KVC_SIMD float sum_of(floats x) {
  const __m256 a = _mm256_add_ps(x.a, x.b);
  const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
KVC_SIMD float greatest_of(floats x) {
  const __m256 a = _mm256_max_ps(x.a, x.b);
  const __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 c = _mm_max_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}
KVC_SIMD floats sum_each(const floats (&v)[16], int /*count*/ = 16) {
  alignas(32) float y[16];
  for (int i = 0; i < 16; ++i) y[i] = sum_of(v[i]);
  return load(y);
}
KVC_SIMD float least_of(floats x) {
  const __m256 a = _mm256_min_ps(x.a, x.b);
  const __m128 b = _mm_min_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 c = _mm_min_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_min_ss(c, _mm_movehdup_ps(c)));
}
KVC_SIMD floats least_each(const floats (&v)[16]) {
  alignas(32) float y[16];
  for (int i = 0; i < 16; ++i) y[i] = least_of(v[i]);
  return load(y);
}
KVC_SIMD floats greatest_each(const floats (&v)[16], int /*count*/ = 16) {
  alignas(32) float y[16];
  for (int i = 0; i < 16; ++i) y[i] = greatest_of(v[i]);
  return load(y);
}

KVC_SIMD words word_zeros() {
  return {_mm256_setzero_si256(), _mm256_setzero_si256()};
}
KVC_SIMD words broadcast_word(int32 x) {
  return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)};
}
KVC_SIMD words load_words(const void* p) {
  return {load_half(p), load_half(static_cast<const byte*>(p) + 32)};
}
KVC_SIMD void store_words(words x, void* p) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), x.a);
  _mm256_storeu_si256(static_cast<__m256i*>(p) + 1, x.b);
}
KVC_SIMD words add_words(words x, words y) {
  return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)};
}
KVC_SIMD words and_words(words x, words y) {
  return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)};
}
KVC_SIMD words shift_right(words x, words bits) {
  return {_mm256_srlv_epi32(x.a, bits.a), _mm256_srlv_epi32(x.b, bits.b)};
}
KVC_SIMD words shift_left_23(words x) {
  return {_mm256_slli_epi32(x.a, 23), _mm256_slli_epi32(x.b, 23)};
}
KVC_SIMD floats to_floats(words x) {
  return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)};
}
KVC_SIMD words truncate(floats x) {
  return {_mm256_cvttps_epi32(x.a), _mm256_cvttps_epi32(x.b)};
}
KVC_SIMD words nearest(floats x) {
  return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)};
}
KVC_SIMD words floor_of(floats x) {
  return truncate({_mm256_floor_ps(x.a), _mm256_floor_ps(x.b)});
}
KVC_SIMD words less_words(words x, words y) {
  return {_mm256_cmpgt_epi32(y.a, x.a), _mm256_cmpgt_epi32(y.b, x.b)};
}
KVC_SIMD words greater_words(words x, words y) {
  return {_mm256_max_epi32(x.a, y.a), _mm256_max_epi32(x.b, y.b)};
}
KVC_SIMD words select_words(words mask, words x, words y) {
  return {_mm256_blendv_epi8(y.a, x.a, mask.a), _mm256_blendv_epi8(y.b, x.b, mask.b)};
}
KVC_SIMD words greatest_words_each(const floats (&v)[16]) {
  alignas(32) int32 y[16];
  for (int i = 0; i < 16; ++i) {
    const __m256i a = _mm256_max_epi32(_mm256_castps_si256(v[i].a), _mm256_castps_si256(v[i].b));
    const __m128i b = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    const __m128i c = _mm_max_epi32(b, _mm_unpackhi_epi64(b, b));
    y[i] = _mm_cvtsi128_si32(_mm_max_epi32(c, _mm_shuffle_epi32(c, 1)));
  }
  return load_words(y);
}

KVC_SIMD __m128i low_bytes(words x) {
  const __m256i low = _mm256_set1_epi32(0xff);
  const __m256i pairs = _mm256_packus_epi32(_mm256_and_si256(x.a, low), _mm256_and_si256(x.b, low));
  const __m256i bytes = _mm256_packus_epi16(pairs, pairs);  // words 0-3, 8-11, .. | 4-7, 12-15, ..
  return _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5)));
}
KVC_SIMD __m256i pack_halves(__m256i a, __m256i b, __m256i c, __m256i d) {
  return _mm256_packus_epi16(_mm256_packus_epi32(a, b), _mm256_packus_epi32(c, d));
}
KVC_SIMD words pack_words(const words (&w)[4]) {
  return {pack_halves(w[0].a, w[1].a, w[2].a, w[3].a), pack_halves(w[0].b, w[1].b, w[2].b, w[3].b)};
}
KVC_SIMD void store_lanes(words x, void* p, int64 stride) {
  byte* to = static_cast<byte*>(p);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_castsi256_si128(x.a));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to + stride), _mm256_extracti128_si256(x.a, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 2 * stride), _mm256_castsi256_si128(x.b));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 3 * stride), _mm256_extracti128_si256(x.b, 1));
}
template <int Parts>
KVC_SIMD void store_weights(words x, uint8* p) {
  if constexpr (Parts == 8) {
    store_lanes(x, p, 32);
  } else if constexpr (Parts == 4) {
    store_words(x, p);
  } else {
    int32 lane[16];
    store_words(x, lane);
    scatter_words<weight_lane<Parts>>(lane, p);
  }
}
KVC_SIMD void store_bytes(words x, int8* p) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), low_bytes(x));
}
template <int Fields>
KVC_SIMD words query_order(words x) {
  if constexpr (Fields == 1) return x;
  const __m256i even_odd = _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);
  x = {_mm256_permutevar8x32_epi32(x.a, even_odd), _mm256_permutevar8x32_epi32(x.b, even_odd)};
  if constexpr (Fields == 2) return x;
  // Now 0 2 4 6 1 3 5 7: every other of it, from both halves.
  const __m256i even = _mm256_castps_si256(
      _mm256_shuffle_ps(_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b), 0x88));  // 0 4 8 12 1 5 9 13
  const __m256i odd = _mm256_castps_si256(
      _mm256_shuffle_ps(_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b), 0xdd));  // 2 6 10 14 3 7 11 15
  return {even, odd};
}
KVC_SIMD words load_mask(const uint8* p) {
  const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_cvtepi8_epi32(x), _mm256_cvtepi8_epi32(_mm_srli_si128(x, 8))};
}
KVC_SIMD __m256 low_halves(__m256i x) {
  const __m256i pairs = _mm256_packus_epi32(_mm256_and_si256(x, _mm256_set1_epi32(0xffff)), _mm256_setzero_si256());
  return _mm256_cvtph_ps(_mm256_castsi256_si128(_mm256_permute4x64_epi64(pairs, 0x08)));
}
KVC_SIMD void halves(words x, floats& low, floats& high) {
  low = {low_halves(x.a), low_halves(x.b)};
  high = {low_halves(_mm256_srli_epi32(x.a, 16)), low_halves(_mm256_srli_epi32(x.b, 16))};
}
template <int Rounding>
KVC_SIMD words half_rounded(floats x) {
  const floats limit = broadcast(65504.0f);
  const floats in = greater_of(less_of(x, limit), subtract(zeros(), limit));
  return {_mm256_cvtepu16_epi32(_mm256_cvtps_ph(in.a, Rounding)),
          _mm256_cvtepu16_epi32(_mm256_cvtps_ph(in.b, Rounding))};
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
  return {low_halves(x.a), low_halves(x.b)};
}
KVC_SIMD void store_packed(words x, int bits, byte* p) {
  const __m128i bytes = low_bytes(x);
  if (bits == 4 || bits == 2) {
    __m128i packed = _mm_maddubs_epi16(bytes, _mm_set1_epi16(bits == 4 ? 0x1001 : 0x0401));
    if (bits == 2) {
      packed = _mm_madd_epi16(packed, _mm_set1_epi32(0x00100001));
      packed = _mm_packus_epi32(packed, packed);
    }
    packed = _mm_packus_epi16(packed, packed);
    const long long word = _mm_cvtsi128_si64(packed);
    __builtin_memcpy(p, &word, 4);
    if (bits == 4) __builtin_memcpy(p + 4, reinterpret_cast<const byte*>(&word) + 4, 4);
  } else if (bits == 8) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
  } else {
    uint8 codes[16];
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes), bytes);
    pack_16(codes, bits, p);
  }
}
KVC_SIMD void store_nibbles(const words (&w)[4], byte* p) {
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) store_packed(w[k], 4, p + 8 * k);
}
KVC_SIMD words broadcast_4(const void* p) {
  int32 x;
  __builtin_memcpy(&x, p, 4);
  return broadcast_word(x);
}
KVC_SIMD words pick_words(const void* eight, words lanes) {
  const __m256i x = load_half(eight);
  return {_mm256_permutevar8x32_epi32(x, lanes.a), _mm256_permutevar8x32_epi32(x, lanes.b)};
}
// Pairs of products stay far below 2^15, as codes are below 16: nothing saturates.
KVC_SIMD __m256i dot_half(__m256i sum, __m256i unsigned_bytes, __m256i signed_bytes) {
  const __m256i pairs = _mm256_maddubs_epi16(unsigned_bytes, signed_bytes);
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
KVC_SIMD words dot_query(words sum, words codes, const int8* query) {
  const words q = broadcast_4(query);
  return {dot_half(sum.a, codes.a, q.a), dot_half(sum.b, codes.b, q.b)};
}
KVC_SIMD words dot_weights(words sum, words weights, words codes) {
  return {dot_half(sum.a, weights.a, codes.a), dot_half(sum.b, weights.b, codes.b)};
}

KVC_SIMD void transpose_half(const byte* rows, int64 pitch, __m256i (&x)[8]) {
  __m256i a[8];
  __m256i b[8];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {  // pairs of rows
    const __m256i even = load_half(rows + 2 * i * pitch);
    const __m256i odd = load_half(rows + (2 * i + 1) * pitch);
    b[2 * i] = _mm256_unpacklo_epi32(even, odd);
    b[2 * i + 1] = _mm256_unpackhi_epi32(even, odd);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {  // four rows
    a[4 * i] = _mm256_unpacklo_epi64(b[4 * i], b[4 * i + 2]);
    a[4 * i + 1] = _mm256_unpackhi_epi64(b[4 * i], b[4 * i + 2]);
    a[4 * i + 2] = _mm256_unpacklo_epi64(b[4 * i + 1], b[4 * i + 3]);
    a[4 * i + 3] = _mm256_unpackhi_epi64(b[4 * i + 1], b[4 * i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {  // eight rows
    x[i] = _mm256_permute2x128_si256(a[i], a[i + 4], 0x20);
    x[i + 4] = _mm256_permute2x128_si256(a[i], a[i + 4], 0x31);
  }
}
KVC_SIMD void load_transposed(const byte* rows, int64 pitch, words (&x)[8]) {
  __m256i low[8];
  __m256i high[8];
  transpose_half(rows, pitch, low);
  transpose_half(rows + 8 * pitch, pitch, high);
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) x[i] = {low[i], high[i]};
}

KVC_SIMD void interleave_half(const byte* rows, int64 pitch, __m256i (&x)[4]) {
  const __m256i r0 = load_half(rows);
  const __m256i r1 = load_half(rows + pitch);
  const __m256i r2 = load_half(rows + 2 * pitch);
  const __m256i r3 = load_half(rows + 3 * pitch);
  const __m256i low0 = _mm256_unpacklo_epi8(r0, r1);
  const __m256i high0 = _mm256_unpackhi_epi8(r0, r1);
  const __m256i low1 = _mm256_unpacklo_epi8(r2, r3);
  const __m256i high1 = _mm256_unpackhi_epi8(r2, r3);
  x[0] = _mm256_unpacklo_epi16(low0, low1);
  x[1] = _mm256_unpackhi_epi16(low0, low1);
  x[2] = _mm256_unpacklo_epi16(high0, high1);
  x[3] = _mm256_unpackhi_epi16(high0, high1);
}
KVC_SIMD void join_halves(const __m256i (&low)[4], const __m256i (&high)[4], words (&x)[4]) {
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) x[j] = {low[j], high[j]};
}
KVC_SIMD void load_interleaved(const byte* rows, int64 pitch, int bytes, words (&x)[4]) {
  __m256i low[4];
  __m256i high[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256()};
  interleave_half(rows, pitch, low);
  if (bytes > 32) interleave_half(rows + 32, pitch, high);
  join_halves(low, high, x);
}
KVC_SIMD void load_interleaved_twice(const byte* rows, int64 pitch, words (&x)[4]) {
  __m256i low[4];
  __m256i high[4];
  interleave_half(rows, pitch, low);
  interleave_half(rows + 4 * pitch, pitch, high);
  join_halves(low, high, x);
}

#include "kvc/host/simd/codes.inl"
#include "kvc/host/simd/encode.inl"
#include "kvc/host/simd/softmax.inl"
#include "kvc/host/simd/tiles.inl"

inline constexpr kernel_table table = make_table();

}  // namespace kvc::inline v0_1::host::detail::avx2

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
