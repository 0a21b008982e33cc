// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/core/dtype.hpp"
#include "kvc/quant/concept.hpp"

namespace kvc::inline v0_1::quant {

// The scalar half of the integer codecs: from a group's extremes to its stored constants, and from a value to its code
// and back. Host and device kernels differ in how they find the extremes and pack the codes; these functions they
// share, so that equal input gives equal codes.
//
// Codes are computed from the stored (rounded) constants. Scales round up and offsets round down, so that the levels
// always cover the group: |x - decode(encode(x))| <= scale / 2 for finite x within the range of the constants' type.
// The smallest scale above zero is 2^-24 in fp16 and the smallest normal number in fp32.

/// Type of the stored constants.
enum class scale_type { fp16, fp32 };

/// Group constants as they decode.
struct grid_constants {
  float scale = 0;
  float offset = 0;
};

/// Extremes of a group; `finite` is false once a NaN or an infinity was seen.
struct group_range {
  float low = 0;
  float high = 0;
  bool finite = true;
};

/// One group's constants in memory: {scale} or, for the affine grid, {scale, offset}.
template <grid Grid, scale_type Type>
struct stored_constants {
  static constexpr int one = Type == scale_type::fp16 ? 2 : 4;
  static constexpr int bytes = Grid == affine ? 2 * one : one;

  KVC_HD static void store(grid_constants g, byte* at) {
    put(g.scale, at);
    if constexpr (Grid == affine) put(g.offset, at + one);
  }
  KVC_HD static grid_constants load(const byte* at) {
    grid_constants g;
    g.scale = get(at);
    if constexpr (Grid == affine) g.offset = get(at + one);
    return g;
  }

 private:
  KVC_HD static void put(float x, byte* at) {
#if defined(__CUDA_ARCH__)
    // As get: little-endian, and aligned to two bytes.
    if constexpr (Type == scale_type::fp16) {
      const uint16 bits = fp16::from(x).bits;
      __builtin_memcpy(__builtin_assume_aligned(at, 2), &bits, 2);
    } else {
      __builtin_memcpy(__builtin_assume_aligned(at, 2), &x, 4);
    }
#else
    if constexpr (Type == scale_type::fp16) {
      const uint16 bits = fp16::from(x).bits;
      at[0] = static_cast<byte>(bits);
      at[1] = static_cast<byte>(bits >> 8);
    } else {
      const uint32 bits = float_bits(x);
      for (int i = 0; i < 4; ++i) at[i] = static_cast<byte>(bits >> (8 * i));
    }
#endif
  }
  KVC_HD static float get(const byte* at) {
#if defined(__CUDA_ARCH__)
    // Little-endian, and constants are aligned to their size wherever a page or a copy of it begins.
    if constexpr (Type == scale_type::fp16) {
      fp16 h;
      __builtin_memcpy(&h, __builtin_assume_aligned(at, 2), 2);
      return h.value();
    } else {
      float x;
      __builtin_memcpy(&x, __builtin_assume_aligned(at, 2), 4);
      return x;
    }
#else
    if constexpr (Type == scale_type::fp16) {
      return fp16{static_cast<uint16>(at[0] | (at[1] << 8))}.value();
    } else {
      uint32 bits = 0;
      for (int i = 0; i < 4; ++i) bits |= static_cast<uint32>(at[i]) << (8 * i);
      return bits_float(bits);
    }
#endif
  }
};

template <int Bits, grid Grid, scale_type Type>
struct integer_grid {
  static_assert(Bits >= 2 && Bits <= 8, "kvc: quant::integer has 2 to 8 bits");
  static constexpr int codes = 1 << Bits;
  static constexpr int largest = Grid == symmetric ? codes / 2 - 1 : codes - 1;

  /// Constants of a group. A group with a NaN or an infinity gets a NaN scale: all of it decodes to NaN, visibly.
  /// All-equal and zero groups get scale 0 where the offset holds the value exactly.
  KVC_HD static grid_constants choose(group_range range) {
    grid_constants g;
    if (!range.finite) {
      g.scale = quiet_nan();
      return g;
    }
    if constexpr (Grid == affine) {
      g.offset = below(range.low) + 0.0f;  // never -0: a tie of zeros must not make bytes depend on the order
      g.scale = step(min_of(range.high, 3.4e38f) - g.offset, static_cast<float>(codes - 1));
    } else {
      const float magnitude = max_of(-range.low, range.high);
      // Midrise: the largest magnitude is the edge of the outermost step, not its level, so that steps are smaller.
      g.scale = step(magnitude, static_cast<float>(Grid == symmetric ? codes / 2 - 1 : codes / 2));
    }
    return g;
  }

  /// 1 / scale, or 0 where every code is the neutral one.
  KVC_HD static float inverse(grid_constants g) { return g.scale > 0 ? 1.0f / g.scale : 0.0f; }

  /// Rounding is to nearest, ties to even; midrise takes the step that contains x.
  KVC_HD static uint8 encode(float x, grid_constants g, float inverse_scale) {
#if defined(__CUDA_ARCH__)
    // The same codes without conversions: cut first (NaN to the lowest level), then added to a number whose unit in the
    // last place is one, in the direction that rounds as the grid does. The middle code is even: ties stay where they
    // are.
    constexpr float middle = Grid == affine ? 0.0f : static_cast<float>(codes / 2);
    constexpr float ones = 12582912.0f + middle;  // 1.5 * 2^23
    constexpr float low = (Grid == symmetric ? 1.0f : 0.0f) - middle;
    const float level = __fmul_rn(Grid == affine ? x - g.offset : x, inverse_scale);
    const float cut = fminf(fmaxf(level, low), static_cast<float>(codes - 1) - middle);
    return static_cast<uint8>(float_bits(Grid == midrise ? __fadd_rd(cut, ones) : __fadd_rn(cut, ones)));
#else
    if constexpr (Grid == affine) {
      return clamp(round_even((x - g.offset) * inverse_scale), 0, codes - 1);
    } else if constexpr (Grid == symmetric) {
      return static_cast<uint8>(clamp(round_even(x * inverse_scale) + static_cast<float>(codes / 2), 1, codes - 1));
    } else {
      return clamp(__builtin_floorf(x * inverse_scale) + static_cast<float>(codes / 2), 0, codes - 1);
    }
#endif
  }

  KVC_HD static float decode(uint8 code, grid_constants g) {
    const float c = static_cast<float>(static_cast<int>(code));
    if constexpr (Grid == affine) return c * g.scale + g.offset;
    if constexpr (Grid == symmetric) return (c - static_cast<float>(codes / 2)) * g.scale;
    return (c - 0.5f * static_cast<float>(codes - 1)) * g.scale;
  }

  /// Half a step, plus what fp32 arithmetic loses on values of this size; beyond the constants' type, what is clipped.
  KVC_HD static float bound(float x, group_range range) {
    const grid_constants g = choose(range);
    if (!(g.scale >= 0)) return infinity();
    // How far the levels reach from the offset; half a step beyond the outermost level of the midrise grid is its own.
    const float reach = Grid == affine      ? static_cast<float>(codes - 1)
                        : Grid == symmetric ? static_cast<float>(codes / 2 - 1)
                                            : 0.5f * static_cast<float>(codes);
    const float low = Grid == affine ? g.offset : -g.scale * reach;
    const float high = g.offset + g.scale * reach;
    const float clipped = max_of(0.0f, max_of(low - x, x - high));
    constexpr float rounding = 4.0f * 5.9604645e-8f;
    const float magnitude = max_of(-range.low, range.high);
    return g.scale * 0.5f + clipped * 1.000001f + rounding * magnitude + rounding * static_cast<float>(codes) * g.scale;
  }

 private:
  KVC_HD static uint8 clamp(float c, int low, int high) {
    const float l = static_cast<float>(low);
    const float h = static_cast<float>(high);
    return static_cast<uint8>(static_cast<int>(c > l ? (c < h ? c : h) : l));  // NaN gives the lowest code
  }
  /// The step of `count` levels over `extent`, rounded up. Never below the smallest normal fp32, so that its inverse is
  /// finite. What reaches beyond 3.4e38 is cut there, so that the outermost level is finite.
  KVC_HD static float step(float extent, float count) {
    const float covered = min_of(extent, 3.4e38f);
    return covered > 0 ? above(max_of(covered / count, 1.17549435e-38f)) : 0.0f;
  }
  KVC_HD static float above(float x) {
    return Type == scale_type::fp16 ? fp16_above(x).value() : up(x);
  }
  KVC_HD static float below(float x) {
    return Type == scale_type::fp16 ? fp16_below(x).value() : x;
  }
  /// fp32 division rounds to nearest: one step up keeps the levels over the whole range.
  KVC_HD static float up(float x) {
    return bits_float(float_bits(x) + 1u);
  }
};

}  // namespace kvc::inline v0_1::quant
