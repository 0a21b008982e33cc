// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// GGUF's element formats. The quantized ones store blocks of 32 elements of a row: one fp16 scale d (Q4_1: and one fp16
// minimum m), then the codes.
//
//   format  bytes per block  element i
//   Q8_0    2 + 32           d * int8[i]
//   Q4_0    2 + 16           d * (code(i) - 8)
//   Q4_1    4 + 16           d * code(i) + m
//
// A byte of the 4-bit formats holds element i in its low half and element i + 16 in its high half.

#include <bit>
#include <cstdint>
#include <cstring>

#include "gguf.hpp"

namespace engine {
namespace {

constexpr std::size_t block = 32;

std::uint16_t load_u16(const std::byte* from) {
  std::uint16_t out;
  std::memcpy(&out, from, sizeof out);
  return out;
}

float load_half(const std::byte* from) {
  return float_from_half(load_u16(from));
}

/// to[0 .. 31] from one block of 16 bytes of nibbles: (code + shift) * scale + offset.
void expand_nibbles(const std::byte* codes, int shift, float scale, float offset, float* to) {
  for (std::size_t i = 0; i < block / 2; ++i) {
    const int low = std::to_integer<int>(codes[i] & std::byte{0x0f});
    const int high = std::to_integer<int>(codes[i] >> 4);
    to[i] = static_cast<float>(low + shift) * scale + offset;
    to[i + block / 2] = static_cast<float>(high + shift) * scale + offset;
  }
}

}  // namespace

float float_from_half(std::uint16_t bits) {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
  const std::uint32_t exponent = (bits >> 10) & 0x1fu;
  const std::uint32_t fraction = bits & 0x3ffu;
  if (exponent == 0) {  // zero and subnormals: fraction * 2^-24, exact in single precision
    const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  const std::uint32_t wide_exponent = exponent == 0x1f ? 0xffu : exponent + (127 - 15);
  return std::bit_cast<float>(sign | (wide_exponent << 23) | (fraction << 13));
}

block_layout layout_of(tensor_type type) {
  switch (type) {
    case tensor_type::f32:
      return {1, 4};
    case tensor_type::f16:
    case tensor_type::bf16:
      return {1, 2};
    case tensor_type::q8_0:
      return {block, 2 + 32};
    case tensor_type::q4_0:
      return {block, 2 + 16};
    case tensor_type::q4_1:
      return {block, 4 + 16};
  }
  return {};
}

std::string_view name_of(tensor_type type) {
  switch (type) {
    case tensor_type::f32:
      return "F32";
    case tensor_type::f16:
      return "F16";
    case tensor_type::bf16:
      return "BF16";
    case tensor_type::q8_0:
      return "Q8_0";
    case tensor_type::q4_0:
      return "Q4_0";
    case tensor_type::q4_1:
      return "Q4_1";
  }
  return "unknown";
}

std::vector<float> dequantize(const gguf_tensor& tensor) {
  std::vector<float> out(tensor.elements);
  const std::byte* from = tensor.bytes.data();
  const block_layout layout = layout_of(tensor.type);
  float* to = out.data();
  for (std::size_t done = 0; done < out.size(); done += layout.elements, from += layout.bytes, to += layout.elements) {
    switch (tensor.type) {
      case tensor_type::f32:
        std::memcpy(to, from, sizeof(float));
        break;
      case tensor_type::f16:
        *to = load_half(from);
        break;
      case tensor_type::bf16:  // the upper half of a single
        *to = std::bit_cast<float>(static_cast<std::uint32_t>(load_u16(from)) << 16);
        break;
      case tensor_type::q8_0:
        for (std::size_t i = 0; i < block; ++i)
          to[i] = load_half(from) * static_cast<float>(std::to_integer<std::int8_t>(from[2 + i]));
        break;
      case tensor_type::q4_0:
        expand_nibbles(from + 2, -8, load_half(from), 0.0f, to);
        break;
      case tensor_type::q4_1:
        expand_nibbles(from + 4, 0, load_half(from), load_half(from + 2), to);
        break;
    }
  }
  return out;
}

}  // namespace engine
