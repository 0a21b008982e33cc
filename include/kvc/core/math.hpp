// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/core/config.hpp"

// Small numeric helpers that give the same bits on host and device.

namespace kvc::inline v0_1 {

template <class T>
KVC_HD constexpr T ceil_div(T a, T b) {
  return (a + b - 1) / b;
}

template <class T>
KVC_HD constexpr T round_up(T a, T multiple) {
  return ceil_div(a, multiple) * multiple;
}

template <class T>
KVC_HD constexpr T min_of(T a, T b) {
  return b < a ? b : a;
}

template <class T>
KVC_HD constexpr T max_of(T a, T b) {
  return a < b ? b : a;
}

KVC_HD uint32 float_bits(float x) {
  return __builtin_bit_cast(uint32, x);
}
KVC_HD float bits_float(uint32 u) {
  return __builtin_bit_cast(float, u);
}

/// False for NaN and both infinities. Integer arithmetic, so that compilers vectorise a reduction over it.
KVC_HD bool is_finite(float x) {
  return (float_bits(x) & 0x7f800000u) != 0x7f800000u;
}

KVC_HD float infinity() {
  return bits_float(0x7f800000u);
}
KVC_HD float quiet_nan() {
  return bits_float(0x7fc00000u);
}

/// Nearest integer, ties to even. A builtin on purpose: an addition of a magic number could be contracted with the
/// product before it, and codes would depend on the compiler's flags.
KVC_HD float round_even(float x) {
  return __builtin_rintf(x);
}

/// A product that is rounded by itself. nvcc would contract it with a sum that follows, where the host does not.
KVC_HD float product_of(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

/// e^x for softmax: relative error below 2e-7 on [-87, 88], 0 below, +inf above 88.72, NaN stays NaN.
/// Branch-free (Cody and Waite reduction, degree-6 polynomial), so that loops over it vectorise.
KVC_HD float exp_of(float x) {
  constexpr float log2e = 1.44269504f;
  constexpr float ln2_high = 0.693359375f;
  constexpr float ln2_low = -2.12194440e-4f;
  constexpr float shift = 12582912.0f;  // 1.5 * 2^23: the sum's low mantissa bits are the rounded integer
  const float clamped = x > 88.72f ? 88.72f : (x < -87.33f ? -87.33f : x);
  const float shifted = clamped * log2e + shift;
  const float n = shifted - shift;
  const float r = (clamped - n * ln2_high) - n * ln2_low;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = (p * r) * r + r + 1.0f;
  // 2^n in two factors, as n may be 128.
  const int32 whole = static_cast<int32>(float_bits(shifted)) - static_cast<int32>(float_bits(shift));
  const int32 half = whole >> 1;
  const float scale_a = bits_float(static_cast<uint32>(half + 127) << 23);
  const float scale_b = bits_float(static_cast<uint32>(whole - half + 127) << 23);
  const float y = (p * scale_a) * scale_b;
  const float low = x < -87.33f ? 0.0f : y;
  return x > 88.72f ? infinity() : low;
}

/// tanh for the soft cap; absolute error below 3e-7, NaN stays NaN.
KVC_HD float tanh_of(float x) {
  const float a = x < 0 ? -x : x;
  const float e = exp_of(-2.0f * a);
  const float big = (1.0f - e) / (1.0f + e);
  const float x2 = x * x;
  const float series = a * (1.0f - x2 * (0.333333333f - x2 * 0.133333333f));
  const float t = a < 0.04f ? series : big;
  return x < 0 ? -t : t;
}

/// Natural logarithm of a positive finite number; the log-sum-exp takes one per query row and head.
KVC_HD float log_of(float x) {
  return __builtin_logf(x);
}

KVC_HD float sqrt_of(float x) {
  return __builtin_sqrtf(x);
}

}  // namespace kvc::inline v0_1
