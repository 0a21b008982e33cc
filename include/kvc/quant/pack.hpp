// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/core/config.hpp"

namespace kvc::inline v0_1::quant {

// Codes of 1 to 8 bits, least significant bit first: element i occupies the bits [i * Bits, (i + 1) * Bits) of the row.
// For 4 bits the even channel is the low nibble.

/// Elements that fill a whole number of bytes, and those bytes.
template <int Bits>
struct packing {
  static_assert(Bits >= 1 && Bits <= 8, "kvc: codes have 1 to 8 bits");
  static constexpr int unit = Bits == 8 ? 1 : Bits == 4 ? 2 : Bits == 2 || Bits == 6 ? 4 : 8;
  static constexpr int unit_bytes = unit * Bits / 8;
  template <int Count>
  static constexpr int bytes = Count* Bits / 8;
};

/// codes: [Count], each below 2^Bits; packed: [Count * Bits / 8].
template <int Bits, int Count>
KVC_HD void pack(const uint8* codes, byte* packed) {
  using p = packing<Bits>;
  static_assert(Count % p::unit == 0, "kvc: the number of channels does not fill whole bytes at this many bits");
  for (int u = 0; u < Count / p::unit; ++u) {
    uint64 word = 0;
    for (int i = 0; i < p::unit; ++i) word |= static_cast<uint64>(codes[u * p::unit + i]) << (i * Bits);
    for (int b = 0; b < p::unit_bytes; ++b) packed[u * p::unit_bytes + b] = static_cast<byte>(word >> (8 * b));
  }
}

/// The inverse. packed: [Count * Bits / 8]; codes: [Count].
template <int Bits, int Count>
KVC_HD void unpack(const byte* packed, uint8* codes) {
  using p = packing<Bits>;
  static_assert(Count % p::unit == 0, "kvc: the number of channels does not fill whole bytes at this many bits");
  constexpr uint32 mask = (1u << Bits) - 1u;
  for (int u = 0; u < Count / p::unit; ++u) {
    uint64 word = 0;
    for (int b = 0; b < p::unit_bytes; ++b) word |= static_cast<uint64>(packed[u * p::unit_bytes + b]) << (8 * b);
    if constexpr (Bits == 3) {  // halves apart, three times: 12, 6, then 3 bits to a place of 32, 16, 8
      word = (word & 0xfffu) | ((word & 0xfff000u) << 20);
      word = (word & 0x0000003f0000003fu) | ((word & 0x00000fc000000fc0u) << 10);
      word = (word & 0x0007000700070007u) | ((word & 0x0038003800380038u) << 5);
      __builtin_memcpy(codes + u * p::unit, &word, 8);
    } else {
      for (int i = 0; i < p::unit; ++i) codes[u * p::unit + i] = static_cast<uint8>((word >> (i * Bits)) & mask);
    }
  }
}

/// Codes of 16 elements, from packed: [2 * Bits] bytes that are aligned to Align bytes (2 or more). codes: [16].
template <int Bits, int Align>
KVC_HD void unpack_chunk(const byte* packed, uint32* codes) {
  constexpr int words = (Bits + 1) / 2;
  constexpr uint32 mask = (1u << Bits) - 1u;
  alignas(16) uint32 w[words + 1] = {};
  __builtin_memcpy(w, __builtin_assume_aligned(packed, Align), 2 * Bits);
  for (int i = 0; i < 16; ++i) {
    const int at = i * Bits / 32;
    const int shift = i * Bits % 32;
    const uint32 low = w[at] >> shift;
    codes[i] = (shift + Bits > 32 ? low | (w[at + 1] << (32 - shift)) : low) & mask;
  }
}

/// The largest power of two, up to 16, that divides all three.
KVC_HD constexpr int common_alignment(int a, int b, int c) {
  const int bits = a | b | c | 16;
  return bits & -bits;
}

}  // namespace kvc::inline v0_1::quant
