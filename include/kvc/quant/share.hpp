// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/core/math.hpp"
#include "kvc/quant/pack.hpp"

namespace kvc::inline v0_1::quant {

namespace detail {

// Not consteval: clang 14 evaluates such calls in a template before its parameters are known.

KVC_HD constexpr int share_lanes(int group, int groups, int unit, int size) {
  int lanes = 1;
  while (2 * lanes <= 32 && 2 * lanes * groups <= size && group % (2 * lanes * unit) == 0) lanes *= 2;
  return lanes;
}

KVC_HD constexpr int share_chunk(int share, int last, int unit, int bits) {
  int chunk = unit;
  while (2 * chunk * bits <= 64 && share % (2 * chunk) == 0 && last % (2 * chunk) == 0) chunk *= 2;
  return chunk;
}

/// Whether `size` threads that have width / size channels each divide the groups of a row evenly, and pack what they
/// have.
KVC_HD constexpr bool shares_fit(int width, int group, int unit, int size) {
  const int own = max_of(1, width / size);
  const int lanes = max_of(1, group / own);
  if (size < 2 || width % size != 0 || width % group != 0 || own % unit != 0 || group % unit != 0) return false;
  return own % group == 0 || (group % own == 0 && size % lanes == 0 && (lanes & (lanes - 1)) == 0);
}

}  // namespace detail

/// How a team of Size threads splits Width channels in groups of Group, in Bits bits: `lanes` threads take a group
/// together, each a contiguous `share` of it, and write `chunk` codes at a time, which fill whole bytes.
template <int Width, int Group, int Bits, int Size>
struct team_share {
  static constexpr int unit = packing<Bits>::unit;
  static constexpr int groups = (Width + Group - 1) / Group;
  static constexpr int last = Width - (groups - 1) * Group;  ///< channels of the last group
  /// Whether groups are whole packing units, so that threads can pack their own.
  static constexpr bool fits = groups == 1 || Group % unit == 0;

  static constexpr int lanes = detail::share_lanes(Group, groups, unit, Size);
  static constexpr int share = Group / lanes;
  static constexpr int chunk = detail::share_chunk(share, last, unit, Bits);
};

/// Writes the Bytes low bytes of a word, at once where their address allows it.
template <int Bytes>
KVC_HD void put_word(uint64 word, byte* to) {
#if defined(__CUDA_ARCH__)
  if (reinterpret_cast<size_type>(to) % Bytes == 0) {
    if constexpr (Bytes == 8) *reinterpret_cast<uint64*>(to) = word;
    if constexpr (Bytes == 4) *reinterpret_cast<uint32*>(to) = static_cast<uint32>(word);
    if constexpr (Bytes == 2) *reinterpret_cast<uint16*>(to) = static_cast<uint16>(word);
    if constexpr (Bytes == 8 || Bytes == 4 || Bytes == 2) return;
  }
#endif
  for (int b = 0; b < Bytes; ++b) to[b] = static_cast<byte>(word >> (8 * b));
}

/// Writes 16 bytes, at once where their address allows it.
KVC_HD void put_words(uint64 low, uint64 high, byte* to) {
#if defined(__CUDA_ARCH__)
  if (reinterpret_cast<size_type>(to) % 16 == 0) {
    *reinterpret_cast<ulonglong2*>(to) = make_ulonglong2(low, high);
    return;
  }
#endif
  put_word<8>(low, to);
  put_word<8>(high, to + 8);
}

/// Packs Count codes, code(i) for i in [0, Count), which fill at most 8 bytes.
template <int Bits, int Count, class Code>
KVC_HD void pack_chunk(const Code& code, byte* packed) {
  static_assert(Count * Bits <= 64 && Count * Bits % 8 == 0);
  if constexpr (Count * Bits <= 32) {
    uint32 word = 0;
    for (int i = 0; i < Count; ++i) word |= static_cast<uint32>(code(i)) << (i * Bits);
    put_word<Count * Bits / 8>(word, packed);
  } else {
    uint64 word = 0;
    for (int i = 0; i < Count; ++i) word |= static_cast<uint64>(code(i)) << (i * Bits);
    put_word<Count * Bits / 8>(word, packed);
  }
}

}  // namespace kvc::inline v0_1::quant
