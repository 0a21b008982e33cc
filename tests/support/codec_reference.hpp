// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <kvc/quant/quant.hpp>
#include <limits>
#include <type_traits>
#include <vector>

// A second decoder of every codec, written from docs/formats.md in plain double arithmetic. It shares no code with the
// library: reference_of at the end reads nothing but the parameters of a codec's type.

namespace codec_reference {

using bytes = std::vector<unsigned char>;
inline constexpr double nan = std::numeric_limits<double>::quiet_NaN();

// ---- Numbers, by the definition of their formats: (-1)^s * 2^(e - bias) * 1.m, or 2^(1 - bias) * 0.m where e is 0

inline double binary_number(std::uint32_t bits, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = static_cast<int>(bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const double mantissa = static_cast<double>(bits & ((1u << mantissa_bits) - 1u)) / (1u << mantissa_bits);
  const double sign = (bits >> (exponent_bits + mantissa_bits) & 1u) != 0 ? -1.0 : 1.0;
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias);
  return sign * std::ldexp(1.0 + mantissa, exponent - bias);
}

/// A format whose largest exponent is kept for infinities and NaN.
inline double ieee_number(std::uint32_t bits, int exponent_bits, int mantissa_bits) {
  const std::uint32_t top = (1u << exponent_bits) - 1u;
  const std::uint32_t mantissa = bits & ((1u << mantissa_bits) - 1u);
  if ((bits >> mantissa_bits & top) != top) return binary_number(bits, exponent_bits, mantissa_bits);
  if (mantissa != 0) return nan;
  return (bits >> (exponent_bits + mantissa_bits) & 1u) != 0 ? -HUGE_VAL : HUGE_VAL;
}
inline double fp32_number(std::uint32_t bits) {
  return ieee_number(bits, 8, 23);
}
inline double fp16_number(std::uint32_t bits) {
  return ieee_number(bits, 5, 10);
}
inline double bf16_number(std::uint32_t bits) {
  return ieee_number(bits, 8, 7);
}
/// E4M3 has no infinities, and one NaN per sign: all other patterns of the largest exponent are numbers.
inline double e4m3_number(std::uint32_t bits) {
  return (bits & 0x7fu) == 0x7fu ? nan : binary_number(bits, 4, 3);
}

inline std::uint32_t little_endian(const unsigned char* at, int count) {
  std::uint32_t x = 0;
  for (int i = 0; i < count; ++i) x += static_cast<std::uint32_t>(at[i]) << (8 * i);
  return x;
}

/// Element i of a row of codes: bits [i * width, (i + 1) * width), least significant bit first.
inline int code_at(const unsigned char* row, int i, int width) {
  int code = 0;
  for (int b = 0; b < width; ++b) {
    const int bit = i * width + b;
    if (row[bit / 8] >> (bit % 8) & 1) code += 1 << b;
  }
  return code;
}

// ---- Codecs: the rows [tokens][width] of one group of tokens

enum class kind { plain, integer, fp8, runs, tapered };
enum class levels { affine, symmetric, midrise };

struct codec {
  kind what = kind::plain;
  int bits = 0;          // of an element
  bool is_bf16 = false;  // 16-bit elements: bf16 or fp16
  int group = 0;         // channels (or tokens) that share constants; fp8: 0 is none
  levels grid = levels::affine;
  bool per_channel = false;
  int constant_bytes = 2;  // fp16 or fp32
  std::vector<codec> runs;
  std::vector<int> run_channels;

  int tokens() const { return what == kind::integer && per_channel ? group : 1; }
  int per_group() const {
    return what == kind::integer && grid == levels::affine ? 2 * constant_bytes : constant_bytes;
  }
  int groups(int width) const { return group == 0 ? 0 : (width + group - 1) / group; }

  int row_bytes(int width) const {
    int sum = 0;
    for (std::size_t r = 0; r < runs.size(); ++r) sum += runs[r].row_bytes(run_channels[r]);
    return runs.empty() ? width * bits / 8 : sum;
  }
  int group_bytes(int width) const {
    int sum = 0;
    if (what == kind::tapered) return 2;
    for (std::size_t r = 0; r < runs.size(); ++r) sum += runs[r].group_bytes(run_channels[r]);
    if (what == kind::runs) return sum;
    if (what == kind::plain) return 0;
    return (per_channel ? width : groups(width)) * per_group();
  }

  double constant(const unsigned char* at) const {
    return constant_bytes == 2 ? fp16_number(little_endian(at, 2)) : fp32_number(little_endian(at, 4));
  }

  std::vector<double> decode(const unsigned char* codes, const unsigned char* constants, int width) const {
    std::vector<double> x;
    for (int t = 0; t < tokens(); ++t) {
      const unsigned char* row = codes + t * row_bytes(width);
      if (!runs.empty()) {
        for (std::size_t r = 0; r < runs.size(); ++r) {
          const std::vector<double> part = runs[r].decode(row, constants, run_channels[r]);
          x.insert(x.end(), part.begin(), part.end());
          row += runs[r].row_bytes(run_channels[r]);
          if (what == kind::runs) constants += runs[r].group_bytes(run_channels[r]);
        }
        continue;
      }
      for (int i = 0; i < width; ++i) x.push_back(element(row, constants, i));
    }
    return x;
  }

 private:
  double element(const unsigned char* row, const unsigned char* constants, int i) const {
    if (what == kind::plain) {
      const std::uint32_t u = little_endian(row + i * bits / 8, bits / 8);
      return bits == 32 ? fp32_number(u) : (is_bf16 ? bf16_number(u) : fp16_number(u));
    }
    const unsigned char* own = group == 0 ? nullptr : constants + (per_channel ? i : i / group) * per_group();
    if (what == kind::fp8) return e4m3_number(row[i]) * (own == nullptr ? 1.0 : constant(own));
    const double scale = constant(own);
    const double code = code_at(row, i, bits);
    const double count = std::ldexp(1.0, bits);
    if (grid == levels::affine) return code * scale + constant(own + constant_bytes);
    if (grid == levels::symmetric) return (code - count / 2) * scale;
    return (code - (count - 1) / 2) * scale;
  }
};

// ---- From a codec's type to its parameters

template <class Codec>
struct reference_of;

template <class T>
struct reference_of<kvc::quant::none<T>> {
  static codec get() {
    codec c;
    c.bits = std::is_same_v<T, float> ? 32 : 16;
    c.is_bf16 = std::is_same_v<T, kvc::bf16>;
    return c;
  }
};
template <int Bits, int Group, kvc::quant::grid Grid, kvc::quant::grouping Grouping, kvc::quant::scale_type Type>
struct reference_of<kvc::quant::integer<Bits, Group, Grid, Grouping, Type>> {
  static codec get() {
    codec c;
    c.what = kind::integer;
    c.bits = Bits;
    c.group = Group;
    c.grid = Grid == kvc::quant::affine      ? levels::affine
             : Grid == kvc::quant::symmetric ? levels::symmetric
                                             : levels::midrise;
    c.per_channel = Grouping == kvc::quant::per_channel;
    c.constant_bytes = Type == kvc::quant::scale_type::fp16 ? 2 : 4;
    return c;
  }
};
template <int Group, kvc::quant::scale_type Type>
struct reference_of<kvc::quant::fp8_e4m3<Group, Type>> {
  static codec get() {
    codec c;
    c.what = kind::fp8;
    c.bits = 8;
    c.group = Group;
    c.constant_bytes = Type == kvc::quant::scale_type::fp16 ? 2 : 4;
    return c;
  }
};
template <int Channels, int Bits, kvc::quant::grid Grid, kvc::quant::scale_type Type>
struct reference_of<kvc::quant::run<Channels, Bits, Grid, Type>>
    : reference_of<kvc::quant::integer<Bits, kvc::quant::whole_segment, Grid, kvc::quant::per_token, Type>> {};
template <class... Runs>
struct reference_of<kvc::quant::graded<Runs...>> {
  static codec get() {
    codec c;
    c.what = kind::runs;
    (c.runs.push_back(reference_of<Runs>::get()), ...);
    (c.run_channels.push_back(Runs::channels), ...);
    return c;
  }
};

// The runs of a tapered row are midrise, and all read the same scale.
template <class... Runs>
struct reference_of<kvc::quant::tapered<Runs...>> {
  static codec get() {
    codec c;
    c.what = kind::tapered;
    (c.runs.push_back(reference_of<kvc::quant::run<Runs::channels, Runs::bits>>::get()), ...);
    (c.run_channels.push_back(Runs::channels), ...);
    return c;
  }
};

}  // namespace codec_reference
