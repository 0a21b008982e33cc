// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/quant/scale.hpp"
#include "kvc/quant/share.hpp"

namespace kvc::inline v0_1::quant {

/// OCP FP8 E4M3 elements. Group = 0: no scale, values beyond +-448 saturate. Group > 0: one scale per group of channels
/// of a token (a Group longer than the segment is one group), chosen so that the largest magnitude is 448.
/// NaN stays NaN; an infinity becomes NaN (alone without a scale, with its whole group where there is one).
template <int Group = 0, scale_type Type = scale_type::fp16>
struct fp8_e4m3 {
  static_assert(Group >= 0, "kvc: quant::fp8_e4m3<Group> needs Group >= 0 (0: no scale)");

  using axis = quant_axis;
  static constexpr bool decodes_runs = true;  ///< groups of one token: decode takes neighbours at once
  using constants_of = stored_constants<symmetric, Type>;
  static constexpr auto name = named("fp8_e4m3", Group == whole_segment ? text("whole") : text(Group),
                                     Type == scale_type::fp16 ? text("fp16") : text("fp32"));
  static constexpr int tokens_per_group = 1;

  template <int Width>
  static constexpr int group_length = Group == 0 || Group > Width ? Width : Group;
  template <int Width>
  static constexpr int groups = (Width + group_length<Width> - 1) / group_length<Width>;
  template <int Width>
  static constexpr int row_bytes = Width;
  template <int Width>
  static constexpr int group_bytes = Group == 0 ? 0 : groups<Width>* constants_of::bytes;

  template <int Width, class Team = serial_team>
  KVC_HD static void encode(const float* x, int begin, int end, byte* codes, byte* constants, Team team = {}) {
    using share = team_share<Width, group_length<Width>, 8, Team::size()>;
    const auto part = team.template part<share::lanes>();
    for (int t = begin; t < end; ++t) {
      for (int g = team.rank() / share::lanes; g < groups<Width>; g += Team::size() / share::lanes) {
        const float* row = x + (t - begin) * Width;
        const int stop = min_of((g + 1) * group_length<Width>, Width);
        const int first = g * group_length<Width> + part.rank() * share::share;
        const int last = min_of(first + share::share, stop);
        const float scale = scale_of(row, first, last, part);
        const float inverse = scale > 0 ? 1.0f / scale : 0.0f;
        if constexpr (Group > 0) {
          if (part.rank() == 0) {
            constants_of::store({scale, 0}, constants + t * group_bytes<Width> + g * constants_of::bytes);
          }
        }
        if constexpr (Team::size() == 1) {
          for (int i = first; i < last; ++i) codes[t * Width + i] = fp8_e4m3_value::from(row[i] * inverse).bits;
        } else {
          for (int i = first; i < last; i += share::chunk) {
            pack_chunk<8, share::chunk>([&](int c) { return fp8_e4m3_value::from(row[i + c] * inverse).bits; },
                                        codes + t * Width + i);
          }
        }
      }
    }
    team.sync();
  }

  template <int Width>
  KVC_HD static void decode(const byte* codes, const byte* constants, int begin, int end, float* x) {
    for (int t = begin; t < end; ++t) {
      for (int g = 0; g < groups<Width>; ++g) {
        float scale = 1;
        if constexpr (Group > 0) {
          scale = constants_of::load(constants + t * group_bytes<Width> + g * constants_of::bytes).scale;
        }
        const int stop = min_of((g + 1) * group_length<Width>, Width);
        for (int i = g * group_length<Width>; i < stop; ++i) {
          x[(t - begin) * Width + i] = fp8_e4m3_value{codes[t * Width + i]}.value() * scale;
        }
      }
    }
  }

  template <int Width>
  KVC_HD static void decode_channels(const byte* row_codes, const byte* group_constants, int channel, float* x) {
    byte c[chunk_channels] = {};
    if (Width % chunk_channels == 0 || channel + chunk_channels <= Width) {
      constexpr int align = Width % chunk_channels == 0 ? 16 : 1;
      __builtin_memcpy(c, __builtin_assume_aligned(row_codes + channel, align), sizeof c);
    } else {
      for (int i = 0; channel + i < Width; ++i) c[i] = row_codes[channel + i];
    }
    float scale = 1;
    for (int i = 0; i < chunk_channels; ++i) {
      if constexpr (Group > 0) {
        const int at = min_of(channel + i, Width - 1);
        if (i == 0 || at % group_length<Width> == 0) {
          scale = constants_of::load(group_constants + at / group_length<Width> * constants_of::bytes).scale;
        }
      }
      x[i] = fp8_e4m3_value{c[i]}.value() * scale;
    }
  }

  /// 2^-4 of |x|, at least half of the smallest step, plus what saturation clips.
  template <int Width>
  static void bound(const float* x, int begin, int end, float* out) {
    for (int t = 0; t < end - begin; ++t) {
      for (int g = 0; g < groups<Width>; ++g) {
        const int stop = min_of((g + 1) * group_length<Width>, Width);
        const float scale = scale_of(x + t * Width, g * group_length<Width>, stop, serial_team{});
        for (int i = t * Width + g * group_length<Width>; i < t * Width + stop; ++i) {
          const float a = x[i] < 0 ? -x[i] : x[i];
          out[i] = scale >= 0 ? a * 0.0625f * 1.0001f + scale * 0.0009765625f * 1.0001f +
                                    max_of(0.0f, a - scale * fp8_e4m3_value::largest)
                              : infinity();
        }
      }
    }
  }

 private:
  /// Of the group whose channels [first, stop) this thread of its team has.
  template <class Team>
  KVC_HD static float scale_of(const float* row, int first, int stop, Team team) {
    if constexpr (Group == 0) {
      return 1.0f;
    } else {
      float magnitude = 0;
      uint32 not_finite = 0;
      for (int i = first; i < stop; ++i) {
        const float a = row[i] < 0 ? -row[i] : row[i];
        magnitude = a > magnitude ? a : magnitude;
        not_finite |= is_finite(row[i]) ? 0u : 1u;
      }
      magnitude = team.largest(magnitude);
      if (team.any(not_finite != 0)) return quiet_nan();
      if (magnitude == 0) return 0;
      // Never below the smallest normal number, so that the inverse is finite.
      const float wanted = max_of(magnitude / fp8_e4m3_value::largest, 1.17549435e-38f);
      return Type == scale_type::fp16 ? fp16_above(wanted).value() : wanted;
    }
  }
};

}  // namespace kvc::inline v0_1::quant
