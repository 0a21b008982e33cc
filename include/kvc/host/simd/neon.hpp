// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The operations of host/simd in NEON, of 64-bit ARM: what each does is said in portable.hpp. With compiler flags that
// allow dot products (-march=armv8.2-a+dotprod; Apple's are so by themselves) those are used.

#if defined(__aarch64__) && !defined(__CUDA_ARCH__)

#include <arm_neon.h>

#include "kvc/host/simd/calls.hpp"

#define KVC_SIMD inline __attribute__((always_inline))

namespace kvc::inline v0_1::host::detail::neon {

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
  float32x4_t q[4];
};
struct words {
  int32x4_t q[4];
};

template <class Function>
KVC_SIMD floats make_floats(const Function& f) {
  return {{f(0), f(1), f(2), f(3)}};
}
template <class Function>
KVC_SIMD words make_words(const Function& f) {
  return {{f(0), f(1), f(2), f(3)}};
}
KVC_SIMD uint32x4_t bits_of(int32x4_t x) {
  return vreinterpretq_u32_s32(x);
}

KVC_SIMD floats zeros() {
  return make_floats([](int) { return vdupq_n_f32(0); });
}
KVC_SIMD floats broadcast(float x) {
  return make_floats([&](int) { return vdupq_n_f32(x); });
}
KVC_SIMD floats load(const float* p) {
  return make_floats([&](int i) { return vld1q_f32(p + 4 * i); });
}
KVC_SIMD void store(floats x, float* p) {
  for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, x.q[i]);
}
KVC_SIMD floats add(floats x, floats y) {
  return make_floats([&](int i) { return vaddq_f32(x.q[i], y.q[i]); });
}
KVC_SIMD floats subtract(floats x, floats y) {
  return make_floats([&](int i) { return vsubq_f32(x.q[i], y.q[i]); });
}
KVC_SIMD floats multiply(floats x, floats y) {
  return make_floats([&](int i) { return vmulq_f32(x.q[i], y.q[i]); });
}
KVC_SIMD floats divide(floats x, floats y) {
  return make_floats([&](int i) { return vdivq_f32(x.q[i], y.q[i]); });
}
KVC_SIMD floats multiply_add(floats x, floats y, floats z) {
  return make_floats([&](int i) { return vfmaq_f32(z.q[i], x.q[i], y.q[i]); });
}
KVC_SIMD floats add_product(floats z, floats x, floats y) {
  return multiply_add(x, y, z);
}
KVC_SIMD floats absolute(floats x) {
  return make_floats([&](int i) { return vabsq_f32(x.q[i]); });
}
KVC_SIMD float32x4_t greater_quarter(float32x4_t x, float32x4_t y) {
  return vbslq_f32(vcgtq_f32(x, y), x, y);
}
KVC_SIMD float32x4_t less_quarter(float32x4_t x, float32x4_t y) {
  return vbslq_f32(vcltq_f32(x, y), x, y);
}
KVC_SIMD floats greater_of(floats x, floats y) {
  return make_floats([&](int i) { return greater_quarter(x.q[i], y.q[i]); });
}
KVC_SIMD floats less_of(floats x, floats y) {
  return make_floats([&](int i) { return less_quarter(x.q[i], y.q[i]); });
}
KVC_SIMD words as_words(floats x) {
  return make_words([&](int i) { return vreinterpretq_s32_f32(x.q[i]); });
}
KVC_SIMD floats as_floats(words x) {
  return make_floats([&](int i) { return vreinterpretq_f32_s32(x.q[i]); });
}
KVC_SIMD words and_words(words x, words y) {
  return make_words([&](int i) { return vandq_s32(x.q[i], y.q[i]); });
}
KVC_SIMD floats keep(floats x, words mask) {
  return as_floats(and_words(as_words(x), mask));
}
KVC_SIMD words select_words(words mask, words x, words y) {
  return make_words([&](int i) { return vbslq_s32(bits_of(mask.q[i]), x.q[i], y.q[i]); });
}
KVC_SIMD floats select(words mask, floats x, floats y) {
  return as_floats(select_words(mask, as_words(x), as_words(y)));
}
KVC_SIMD words below(floats x, floats limit) {
  return make_words([&](int i) { return vreinterpretq_s32_u32(vcltq_f32(x.q[i], limit.q[i])); });
}
KVC_SIMD floats with_sign_of(floats x, floats y) {
  const uint32x4_t sign = vdupq_n_u32(0x80000000u);
  return make_floats([&](int i) { return vbslq_f32(sign, x.q[i], y.q[i]); });
}
template <int Half>
KVC_SIMD floats exchange(floats x) {
  if constexpr (Half == 8) return {{x.q[2], x.q[3], x.q[0], x.q[1]}};
  if constexpr (Half == 4) return {{x.q[1], x.q[0], x.q[3], x.q[2]}};
  return make_floats([&](int i) { return Half == 2 ? vextq_f32(x.q[i], x.q[i], 2) : vrev64q_f32(x.q[i]); });
}
KVC_SIMD float sum_of(floats x) {
  const float32x4_t a = vaddq_f32(vaddq_f32(x.q[0], x.q[2]), vaddq_f32(x.q[1], x.q[3]));
  const float32x2_t b = vadd_f32(vget_low_f32(a), vget_high_f32(a));
  return vget_lane_f32(b, 0) + vget_lane_f32(b, 1);
}
KVC_SIMD floats sum_each(const floats (&v)[16], int /*count*/ = 16) {
  float y[16];
  for (int i = 0; i < 16; ++i) y[i] = sum_of(v[i]);
  return load(y);
}
template <class Join>
KVC_SIMD float join_all(floats x, const Join& join) {
  float y[4];
  vst1q_f32(y, join(join(x.q[0], x.q[2]), join(x.q[1], x.q[3])));
  const float32x4_t low = {y[0], y[1], y[0], y[1]};
  const float32x4_t high = {y[2], y[3], y[2], y[3]};
  vst1q_f32(y, join(low, high));
  return vgetq_lane_f32(join(vdupq_n_f32(y[0]), vdupq_n_f32(y[1])), 0);
}
KVC_SIMD float greatest_of(floats x) {
  return join_all(x, [](float32x4_t a, float32x4_t b) { return greater_quarter(a, b); });
}
KVC_SIMD floats least_each(const floats (&v)[16]) {
  float y[16];
  for (int i = 0; i < 16; ++i) y[i] = join_all(v[i], [](float32x4_t a, float32x4_t b) { return less_quarter(a, b); });
  return load(y);
}
KVC_SIMD floats greatest_each(const floats (&v)[16], int /*count*/ = 16) {
  float y[16];
  for (int i = 0; i < 16; ++i) y[i] = greatest_of(v[i]);
  return load(y);
}

KVC_SIMD words word_zeros() {
  return make_words([](int) { return vdupq_n_s32(0); });
}
KVC_SIMD words broadcast_word(int32 x) {
  return make_words([&](int) { return vdupq_n_s32(x); });
}
KVC_SIMD uint8x16_t load_bytes(const void* p) {
  return vld1q_u8(static_cast<const uint8*>(p));
}
KVC_SIMD words load_words(const void* p) {
  return make_words([&](int i) { return vreinterpretq_s32_u8(load_bytes(static_cast<const byte*>(p) + 16 * i)); });
}
KVC_SIMD void store_lanes(words x, void* p, int64 stride) {
  for (int i = 0; i < 4; ++i) vst1q_u8(static_cast<uint8*>(p) + i * stride, vreinterpretq_u8_s32(x.q[i]));
}
KVC_SIMD void store_words(words x, void* p) {
  store_lanes(x, p, 16);
}
KVC_SIMD words add_words(words x, words y) {
  return make_words([&](int i) { return vaddq_s32(x.q[i], y.q[i]); });
}
KVC_SIMD words shift_right(words x, words bits) {
  return make_words([&](int i) { return vreinterpretq_s32_u32(vshlq_u32(bits_of(x.q[i]), vnegq_s32(bits.q[i]))); });
}
KVC_SIMD words shift_left_23(words x) {
  return make_words([&](int i) { return vshlq_n_s32(x.q[i], 23); });
}
KVC_SIMD floats to_floats(words x) {
  return make_floats([&](int i) { return vcvtq_f32_s32(x.q[i]); });
}
KVC_SIMD words truncate(floats x) {
  return make_words([&](int i) { return vcvtq_s32_f32(x.q[i]); });
}
KVC_SIMD words nearest(floats x) {
  return make_words([&](int i) { return vcvtnq_s32_f32(x.q[i]); });
}
KVC_SIMD words floor_of(floats x) {
  return make_words([&](int i) { return vcvtq_s32_f32(vrndmq_f32(x.q[i])); });
}
KVC_SIMD words less_words(words x, words y) {
  return make_words([&](int i) { return vreinterpretq_s32_u32(vcltq_s32(x.q[i], y.q[i])); });
}
KVC_SIMD words greater_words(words x, words y) {
  return make_words([&](int i) { return vmaxq_s32(x.q[i], y.q[i]); });
}
KVC_SIMD words greatest_words_each(const floats (&v)[16]) {
  int32 y[16];
  for (int i = 0; i < 16; ++i) {
    const words x = as_words(v[i]);
    y[i] = vmaxvq_s32(vmaxq_s32(vmaxq_s32(x.q[0], x.q[1]), vmaxq_s32(x.q[2], x.q[3])));
  }
  return load_words(y);
}

/// The low bytes of 4 x 4 words.
KVC_SIMD uint8x16_t low_bytes(int32x4_t a, int32x4_t b, int32x4_t c, int32x4_t d) {
  const uint16x8_t low = vcombine_u16(vmovn_u32(bits_of(a)), vmovn_u32(bits_of(b)));
  const uint16x8_t high = vcombine_u16(vmovn_u32(bits_of(c)), vmovn_u32(bits_of(d)));
  return vcombine_u8(vmovn_u16(low), vmovn_u16(high));
}
KVC_SIMD words pack_words(const words (&w)[4]) {
  return make_words([&](int i) { return vreinterpretq_s32_u8(low_bytes(w[0].q[i], w[1].q[i], w[2].q[i], w[3].q[i])); });
}
template <int Parts>
KVC_SIMD void store_weights(words x, uint8* p) {
  if constexpr (Parts >= 4) {
    store_lanes(x, p, 4 * Parts);
  } else {
    int32 lane[16];
    store_words(x, lane);
    scatter_words<weight_lane<Parts>>(lane, p);
  }
}
KVC_SIMD void store_bytes(words x, int8* p) {
  vst1q_u8(reinterpret_cast<uint8*>(p), low_bytes(x.q[0], x.q[1], x.q[2], x.q[3]));
}
template <int Fields>
KVC_SIMD words query_order(words x) {
  int32 from[16];
  int32 to[16];
  store_words(x, from);
  scatter_words<query_lane<Fields>>(from, to);
  return load_words(to);
}
KVC_SIMD words load_mask(const uint8* p) {
  const int8x16_t x = vreinterpretq_s8_u8(vld1q_u8(p));
  const int16x8_t low = vmovl_s8(vget_low_s8(x));
  const int16x8_t high = vmovl_s8(vget_high_s8(x));
  return {{vmovl_s16(vget_low_s16(low)), vmovl_s16(vget_high_s16(low)), vmovl_s16(vget_low_s16(high)),
           vmovl_s16(vget_high_s16(high))}};
}
KVC_SIMD floats half_values(words x) {
  return make_floats([&](int i) { return vcvt_f32_f16(vreinterpret_f16_u16(vmovn_u32(bits_of(x.q[i])))); });
}
KVC_SIMD void halves(words x, floats& low, floats& high) {
  low = half_values(x);
  high = make_floats([&](int i) { return vcvt_f32_f16(vreinterpret_f16_u16(vshrn_n_u32(bits_of(x.q[i]), 16))); });
}
template <class Function>
KVC_SIMD words each_lane(floats x, const Function& f) {
  float from[16];
  int32 to[16];
  store(x, from);
  for (int i = 0; i < 16; ++i) to[i] = static_cast<int32>(f(from[i]).bits);
  return load_words(to);
}
KVC_SIMD words half_bits(floats x) {
  return each_lane(x, [](float y) { return fp16::from(y); });
}
KVC_SIMD words half_above(floats x) {
  return each_lane(x, [](float y) { return fp16_above(y); });
}
KVC_SIMD words half_below(floats x) {
  return each_lane(x, [](float y) { return fp16_below(y); });
}
KVC_SIMD void store_packed(words x, int bits, byte* p) {
  uint8 codes[16];
  vst1q_u8(codes, low_bytes(x.q[0], x.q[1], x.q[2], x.q[3]));
  pack_16(codes, bits, p);
}
KVC_SIMD void store_nibbles(const words (&w)[4], byte* p) {
  for (int k = 0; k < 4; ++k) store_packed(w[k], 4, p + 8 * k);
}
KVC_SIMD words broadcast_4(const void* p) {
  int32 x;
  __builtin_memcpy(&x, p, 4);
  return broadcast_word(x);
}
KVC_SIMD words pick_words(const void* eight, words lanes) {
  const uint8x16x2_t table = {{load_bytes(eight), load_bytes(static_cast<const byte*>(eight) + 16)}};
  return make_words([&](int i) {
    const int32x4_t at = vaddq_s32(vmulq_n_s32(lanes.q[i], 0x04040404), vdupq_n_s32(0x03020100));
    return vreinterpretq_s32_u8(vqtbl2q_u8(table, vreinterpretq_u8_s32(at)));
  });
}
KVC_SIMD int32x4_t dot_quarter(int32x4_t sum, int8x16_t x, int8x16_t y) {
#if defined(__ARM_FEATURE_DOTPROD)
  return vdotq_s32(sum, x, y);
#else
  const int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(x), vget_low_s8(y)));
  const int32x4_t high = vpaddlq_s16(vmull_s8(vget_high_s8(x), vget_high_s8(y)));
  return vaddq_s32(sum, vpaddq_s32(low, high));
#endif
}
KVC_SIMD words dot_query(words sum, words codes, const int8* query) {
  const int8x16_t q = vreinterpretq_s8_s32(broadcast_4(query).q[0]);
  return make_words([&](int i) { return dot_quarter(sum.q[i], vreinterpretq_s8_s32(codes.q[i]), q); });
}
KVC_SIMD int32x4_t dot_weights_quarter(int32x4_t sum, int32x4_t weights, int32x4_t codes) {
#if defined(__ARM_FEATURE_DOTPROD)
  return vreinterpretq_s32_u32(vdotq_u32(bits_of(sum), vreinterpretq_u8_s32(weights), vreinterpretq_u8_s32(codes)));
#else
  const uint8x16_t w = vreinterpretq_u8_s32(weights);
  const uint8x16_t c = vreinterpretq_u8_s32(codes);
  const uint32x4_t low = vpaddlq_u16(vmull_u8(vget_low_u8(w), vget_low_u8(c)));
  const uint32x4_t high = vpaddlq_u16(vmull_u8(vget_high_u8(w), vget_high_u8(c)));
  return vaddq_s32(sum, vreinterpretq_s32_u32(vpaddq_u32(low, high)));
#endif
}
KVC_SIMD words dot_weights(words sum, words weights, words codes) {
  return make_words([&](int i) { return dot_weights_quarter(sum.q[i], weights.q[i], codes.q[i]); });
}

KVC_SIMD void load_transposed(const byte* rows, int64 pitch, words (&x)[8]) {
  for (int l = 0; l < 4; ++l) {
    for (int half = 0; half < 2; ++half) {
      int32x4_t r[4];
      for (int i = 0; i < 4; ++i) r[i] = vreinterpretq_s32_u8(load_bytes(rows + (4 * l + i) * pitch + 16 * half));
      const int32x4_t a = vzip1q_s32(r[0], r[2]);
      const int32x4_t b = vzip1q_s32(r[1], r[3]);
      const int32x4_t c = vzip2q_s32(r[0], r[2]);
      const int32x4_t d = vzip2q_s32(r[1], r[3]);
      x[4 * half].q[l] = vzip1q_s32(a, b);
      x[4 * half + 1].q[l] = vzip2q_s32(a, b);
      x[4 * half + 2].q[l] = vzip1q_s32(c, d);
      x[4 * half + 3].q[l] = vzip2q_s32(c, d);
    }
  }
}
/// 16 bytes of four rows to quarter l of x.
KVC_SIMD void interleave_quarter(const byte* rows, int64 pitch, int l, words (&x)[4]) {
  uint8x16_t r[4];
  for (int i = 0; i < 4; ++i) r[i] = load_bytes(rows + i * pitch);
  const uint16x8_t low0 = vreinterpretq_u16_u8(vzip1q_u8(r[0], r[1]));
  const uint16x8_t high0 = vreinterpretq_u16_u8(vzip2q_u8(r[0], r[1]));
  const uint16x8_t low1 = vreinterpretq_u16_u8(vzip1q_u8(r[2], r[3]));
  const uint16x8_t high1 = vreinterpretq_u16_u8(vzip2q_u8(r[2], r[3]));
  x[0].q[l] = vreinterpretq_s32_u16(vzip1q_u16(low0, low1));
  x[1].q[l] = vreinterpretq_s32_u16(vzip2q_u16(low0, low1));
  x[2].q[l] = vreinterpretq_s32_u16(vzip1q_u16(high0, high1));
  x[3].q[l] = vreinterpretq_s32_u16(vzip2q_u16(high0, high1));
}
KVC_SIMD void load_interleaved(const byte* rows, int64 pitch, int bytes, words (&x)[4]) {
  for (int j = 0; j < 4; ++j) x[j] = word_zeros();
  for (int l = 0; 16 * l < bytes; ++l) interleave_quarter(rows + 16 * l, pitch, l, x);
}
KVC_SIMD void load_interleaved_twice(const byte* rows, int64 pitch, words (&x)[4]) {
  for (int l = 0; l < 4; ++l) interleave_quarter(rows + l / 2 * 4 * pitch + l % 2 * 16, pitch, l, x);
}

#include "kvc/host/simd/codes.inl"
#include "kvc/host/simd/encode.inl"
#include "kvc/host/simd/softmax.inl"
#include "kvc/host/simd/tiles.inl"

inline constexpr kernel_table table = make_table();

}  // namespace kvc::inline v0_1::host::detail::neon

#undef KVC_SIMD

#endif
