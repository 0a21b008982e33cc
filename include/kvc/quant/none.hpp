// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/quant/concept.hpp"
#include "kvc/quant/share.hpp"

namespace kvc::inline v0_1::quant {

namespace detail {
template <int Bytes>
struct bits_of {
  using type = uint16;
};
template <>
struct bits_of<4> {
  using type = uint32;
};
}  // namespace detail

/// Elements as T: float, bf16 or fp16, rounded to nearest even. The default is bf16.
/// NaN and infinities are kept. fp16 saturates finite values at +-65504; bf16 rounds those beyond 3.396e38 to infinity.
template <class T = bf16>
struct none {
  using element = typename storage_of<T>::type;
  static_assert(__is_same(element, fp32) || __is_same(element, bf16) || __is_same(element, fp16),
                "kvc: quant::none<T> stores float, kvc::bf16 or kvc::fp16");

  using bits = typename detail::bits_of<element::bytes>::type;
  using axis = quant_axis;
  static constexpr bool decodes_runs = true;  ///< groups of one token: decode takes neighbours at once
  static constexpr auto name = named("none", __is_same(element, fp32)   ? text("float")
                                             : __is_same(element, bf16) ? text("bf16")
                                                                        : text("fp16"));
  static constexpr int tokens_per_group = 1;
  template <int Width>
  static constexpr int row_bytes = Width* element::bytes;
  template <int Width>
  static constexpr int group_bytes = 0;

  template <int Width, class Team = serial_team>
  KVC_HD static void encode(const float* x, int begin, int end, byte* codes, byte* /*constants*/, Team team = {}) {
    byte* to = codes + begin * row_bytes<Width>;
    constexpr int chunk = 8 / element::bytes;
    if constexpr (Team::size() > 1 && Width % chunk == 0) {
      for (int i = team.rank() * chunk; i < (end - begin) * Width; i += Team::size() * chunk) {
        uint64 word = 0;
        for (int c = 0; c < chunk; ++c) {
          const element e = element::from(x[i + c]);
          word |= static_cast<uint64>(__builtin_bit_cast(bits, e)) << (8 * element::bytes * c);
        }
        put_word<8>(word, to + i * element::bytes);
      }
    } else {
      for (int i = team.rank(); i < (end - begin) * Width; i += Team::size()) {
        const element e = element::from(x[i]);
        __builtin_memcpy(to + i * element::bytes, &e, sizeof e);
      }
    }
    team.sync();
  }
  /// Encodes one row that lies in its team's registers, where `stores`.
  template <int Width, class Team>
  requires(Width % (8 * Team::size()) == 0)
      KVC_HD static void encode_share(const float* x, byte* codes, byte* /*constants*/, bool stores, Team team) {
    constexpr int own = Width / Team::size();
    constexpr int chunk = 8 / element::bytes;
    byte* to = codes + team.rank() * own * element::bytes;
    for (int i = 0; i < own; i += 2 * chunk) {
      uint64 words[2] = {};
      for (int c = 0; c < 2 * chunk; ++c) {
        if constexpr (__is_same(element, bf16)) {
          if (c % 2 == 0)
            words[c / chunk] |= static_cast<uint64>(bf16_pair(x[i + c], x[i + c + 1])) << (16 * (c % chunk));
        } else {
          const element e = element::from(x[i + c]);
          words[c / chunk] |= static_cast<uint64>(__builtin_bit_cast(bits, e)) << (8 * element::bytes * (c % chunk));
        }
      }
      if (stores) put_words(words[0], words[1], to + i * element::bytes);
    }
  }

  template <int Width>
  KVC_HD static void decode(const byte* codes, const byte* /*constants*/, int begin, int end, float* x) {
    for (int i = 0; i < (end - begin) * Width; ++i) {
      element e;
      __builtin_memcpy(&e, codes + begin * row_bytes<Width> + i * element::bytes, sizeof e);
      x[i] = e.value();
    }
  }
  template <int Width>
  KVC_HD static void decode_channels(const byte* row_codes, const byte* /*constants*/, int channel, float* x) {
    constexpr int align = Width % 8 == 0 ? 16 : element::bytes;
    element e[chunk_channels] = {};
    if (Width % chunk_channels == 0 || channel + chunk_channels <= Width) {
      __builtin_memcpy(e, __builtin_assume_aligned(row_codes + channel * element::bytes, align), sizeof e);
    } else {
      for (int i = 0; channel + i < Width; ++i) {
        __builtin_memcpy(&e[i], row_codes + (channel + i) * element::bytes, sizeof e[i]);
      }
    }
    for (int i = 0; i < chunk_channels; ++i) x[i] = e[i].value();
  }
  /// Half a unit in the last place: at most 2^-8 of |x| for bf16, 2^-11 for fp16; below their normal numbers 2^-134 and
  /// 2^-25. Infinite where bf16 rounds to infinity.
  template <int Width>
  static void bound(const float* x, int begin, int end, float* out) {
    for (int i = 0; i < (end - begin) * Width; ++i) {
      const float a = x[i] < 0 ? -x[i] : x[i];
      if constexpr (__is_same(element, fp32)) out[i] = 0;
      if constexpr (__is_same(element, bf16))
        out[i] = is_finite(bf16::from(a).value()) ? a * 0.00390625f + 4.5917748e-41f : infinity();
      if constexpr (__is_same(element, fp16))
        out[i] = a * 0.00048828125f + 2.98023224e-8f + max_of(0.0f, a - fp16::largest);
    }
  }
};

}  // namespace kvc::inline v0_1::quant
