// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/core/math.hpp"

// 16-bit and 8-bit floating-point storage types. They store and convert; arithmetic is fp32.
// Written with integers and selects only: the same bits on every compiler, and loops over them vectorise. GPUs have
// instructions for some of it, whose bits are the same.
// NaN is stored as one positive quiet NaN: arithmetic leaves sign and payload to the machine.

namespace kvc::inline v0_1 {

/// bfloat16: the upper half of an fp32, rounded to nearest even.
struct bf16 {
  uint16 bits;

  static constexpr int bytes = 2;
  KVC_HD static bf16 from(float x) {
#if defined(__CUDA_ARCH__)
    uint32 rounded;  // the same bits but for NaN; conversions of pairs are the fast ones
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(rounded) : "f"(0.0f), "f"(x));
    return {static_cast<uint16>(x != x ? 0x7fc0u : rounded)};
#else
    const uint32 u = float_bits(x);
    const uint32 rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    return {static_cast<uint16>((u & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded)};
#endif
  }
  KVC_HD float value() const {
    return bits_float(static_cast<uint32>(bits) << 16);
  }
};

/// Two of them, the first in the low half.
KVC_HD uint32 bf16_pair(float low, float high) {
#if defined(__CUDA_ARCH__)
  uint32 pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  pair = low != low ? (pair & 0xffff0000u) | 0x7fc0u : pair;
  return high != high ? (pair & 0xffffu) | 0x7fc00000u : pair;
#else
  return static_cast<uint32>(bf16::from(low).bits) | static_cast<uint32>(bf16::from(high).bits) << 16;
#endif
}

/// IEEE binary16. Finite values beyond +-65504 saturate, infinities and NaN are kept.
struct fp16 {
  uint16 bits;

  static constexpr int bytes = 2;
  static constexpr float largest = 65504.0f;

  KVC_HD static fp16 from(float x) {
    const uint32 sign = (float_bits(x) >> 16) & 0x8000u;
    const uint32 a = float_bits(x) & 0x7fffffffu;
#if defined(__CUDA_ARCH__)
    uint32 h;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(h) : "f"(0.0f), "f"(bits_float(a)));
#else
    // Normal: rebias the exponent and round to even on the 13 dropped bits.
    const uint32 normal = (a - 0x38000000u + 0xfffu + ((a >> 13) & 1u)) >> 13;
    // Subnormal: adding 0.5 aligns the mantissa; the addition rounds to even.
    const uint32 subnormal = float_bits(bits_float(a) + 0.5f) - 0x3f000000u;
    uint32 h = a < 0x38800000u ? subnormal : normal;
#endif
    h = a > 0x477fe000u ? 0x7bffu : h;   // finite, too large: saturate
    h = a >= 0x7f800000u ? 0x7c00u : h;  // infinity
    return {static_cast<uint16>(a > 0x7f800000u ? 0x7e00u : sign | h)};
  }

  KVC_HD float value() const {
#if defined(__CUDA_ARCH__)
    float exact;  // the conversion is exact: one instruction, the same bits
    asm("cvt.f32.f16 %0, %1;" : "=f"(exact) : "h"(bits));
    return exact;
#else
    const uint32 sign = static_cast<uint32>(bits & 0x8000u) << 16;
    const uint32 a = bits & 0x7fffu;
    const float normal = bits_float((a << 13) + 0x38000000u);
    const float special = bits_float((a << 13) + 0x70000000u);
    const float subnormal = static_cast<float>(static_cast<int32>(a)) * 5.9604644775390625e-8f;  // 2^-24
    const float magnitude = a >= 0x7c00u ? special : (a < 0x400u ? subnormal : normal);
    return bits_float(float_bits(magnitude) | sign);
#endif
  }
};

namespace detail {

/// The next fp16 towards +infinity; of the largest finite one, itself.
KVC_HD fp16 next_above(fp16 h) {
  if (h.bits == 0x8000u) return {0x0001u};
  if (h.bits & 0x8000u) return {static_cast<uint16>(h.bits - 1)};
  return {static_cast<uint16>(h.bits >= 0x7bffu ? h.bits : h.bits + 1)};
}
/// The next fp16 towards -infinity; of the lowest finite one, itself.
KVC_HD fp16 next_below(fp16 h) {
  if (h.bits == 0x0000u) return {0x8001u};
  if (h.bits & 0x8000u) return {static_cast<uint16>(h.bits >= 0xfbffu ? h.bits : h.bits + 1)};
  return {static_cast<uint16>(h.bits - 1)};
}

}  // namespace detail

/// Smallest fp16 not below x (finite x; saturates at 65504).
KVC_HD fp16 fp16_above(float x) {
#if defined(__CUDA_ARCH__)
  uint16 h;
  asm("cvt.rp.f16.f32 %0, %1;" : "=h"(h) : "f"(x));
  return {x > fp16::largest ? uint16{0x7bff} : h};
#else
  const fp16 h = fp16::from(x);
  return h.value() < x ? detail::next_above(h) : h;
#endif
}

/// Largest fp16 not above x (finite x; saturates at -65504).
KVC_HD fp16 fp16_below(float x) {
#if defined(__CUDA_ARCH__)
  uint16 h;
  asm("cvt.rm.f16.f32 %0, %1;" : "=h"(h) : "f"(x));
  return {x < -fp16::largest ? uint16{0xfbff} : h};
#else
  const fp16 h = fp16::from(x);
  return h.value() > x ? detail::next_below(h) : h;
#endif
}

/// OCP FP8 E4M3: bias 7, no infinities, largest 448, smallest subnormal 2^-9. Finite overflow saturates;
/// infinities and NaN become NaN, so that they stay visible.
struct fp8_e4m3_value {
  uint8 bits;

  static constexpr int bytes = 1;
  static constexpr float largest = 448.0f;

  KVC_HD static fp8_e4m3_value from(float x) {
    const uint32 sign = (float_bits(x) >> 24) & 0x80u;
    const uint32 a = float_bits(x) & 0x7fffffffu;
    const uint32 normal = (a - 0x3c000000u + 0x7ffffu + ((a >> 20) & 1u)) >> 20;
    // 2^-9 is one unit: adding 2^14 leaves the mantissa's last bit at 2^-9, rounded to even.
    const uint32 subnormal = float_bits(bits_float(a) + 16384.0f) - 0x46800000u;
    uint32 e = a < 0x3c800000u ? subnormal : normal;
    e = a > 0x43e00000u ? 0x7eu : e;
    e = a >= 0x7f800000u ? 0x7fu : e;
    return {static_cast<uint8>(a > 0x7f800000u ? 0x7fu : sign | e)};
  }

  KVC_HD float value() const {
    const uint32 sign = static_cast<uint32>(bits & 0x80u) << 24;
    const uint32 a = bits & 0x7fu;
    const uint32 normal = (a << 20) + 0x3c000000u;
    const uint32 subnormal = float_bits(static_cast<float>(static_cast<int32>(a)) * 0.001953125f);  // 2^-9
    // Masks, not selects: g++ takes nested selects for branches, and loops over them do not vectorise.
    const uint32 is_small = 0u - static_cast<uint32>(a < 8u);
    const uint32 is_nan = 0u - static_cast<uint32>(a == 0x7fu);
    return bits_float(((is_small & subnormal) | (~is_small & normal)) | (is_nan & 0x7fc00000u) | sign);
  }
};

/// fp32 under the same two functions, so that code over element types needs no special case.
struct fp32 {
  float number;

  static constexpr int bytes = 4;
  KVC_HD static fp32 from(float x) { return {x}; }
  KVC_HD float value() const { return number; }
};

/// Maps an element type as users write it (float, bf16, fp16) to the storage type with from() and value().
template <class T>
struct storage_of {
  using type = T;
};
template <>
struct storage_of<float> {
  using type = fp32;
};

KVC_HD float to_float(float x) {
  return x;
}
KVC_HD float to_float(bf16 x) {
  return x.value();
}
KVC_HD float to_float(fp16 x) {
  return x.value();
}

KVC_HD void from_float(float x, float& out) {
  out = x;
}
KVC_HD void from_float(float x, bf16& out) {
  out = bf16::from(x);
}
KVC_HD void from_float(float x, fp16& out) {
  out = fp16::from(x);
}

}  // namespace kvc::inline v0_1
