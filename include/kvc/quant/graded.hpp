// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/quant/integer.hpp"

namespace kvc::inline v0_1::quant {

/// Channels [first, first + Channels) of a graded row, in Bits bits and with one scale of their own per token.
template <int Channels, int Bits, grid Grid = midrise, scale_type Type = scale_type::fp16>
struct run {
  static constexpr int channels = Channels;
  static constexpr int bits = Bits;
  using codec = integer<Bits, whole_segment, Grid, per_token, Type>;
  static constexpr auto name =
      named("run", Channels, Bits,
            Grid == affine ? text("affine") : (Grid == symmetric ? text("symmetric") : text("midrise")),
            Type == scale_type::fp16 ? text("fp16") : text("fp32"));
  static_assert(Channels > 0 && Channels % packing<Bits>::unit == 0,
                "kvc: quant::run<N, Bits>: N channels do not fill whole bytes at this many bits");
};

/// Runs of channels with bits of their own: many for the strong channels of a calibrated basis, few for the weak.
/// The runs must add up to the width of the segment.
template <class... Runs>
struct graded {
  static_assert(sizeof...(Runs) >= 1, "kvc: quant::graded needs at least one quant::run<N, Bits>");

  using axis = quant_axis;
  static constexpr bool decodes_runs = true;  ///< groups of one token: decode takes neighbours at once
  static constexpr auto name = named("graded", Runs::name...);
  static constexpr int tokens_per_group = 1;
  static constexpr int channels = (Runs::channels + ...);

  template <int Width>
  static consteval bool fits() {
    static_assert(Width == channels, "kvc: quant::graded: the runs must add up to the width of the segment");
    return true;
  }
  template <int Width>
  static constexpr int row_bytes = !fits<Width>() ? 0 : (Runs::codec::template row_bytes<Runs::channels> + ...);
  template <int Width>
  static constexpr int group_bytes = (Runs::codec::template group_bytes<Runs::channels> + ...);

  template <int Width, class Team = serial_team>
  KVC_HD static void encode(const float* x, int begin, int end, byte* codes, byte* constants, Team team = {}) {
    for (int t = begin; t < end; ++t) {
      const float* row = x + (t - begin) * Width;
      byte* c = codes + t * row_bytes<Width>;
      byte* k = constants + t * group_bytes<Width>;
      ((Runs::codec::template encode<Runs::channels>(row, 0, 1, c, k, team), row += Runs::channels,
        c += Runs::codec::template row_bytes<Runs::channels>, k += Runs::codec::template group_bytes<Runs::channels>),
       ...);
    }
  }

  template <int Width>
  KVC_HD static void decode(const byte* codes, const byte* constants, int begin, int end, float* x) {
    for (int t = begin; t < end; ++t) {
      float* row = x + (t - begin) * Width;
      const byte* c = codes + t * row_bytes<Width>;
      const byte* k = constants + t * group_bytes<Width>;
      ((Runs::codec::template decode<Runs::channels>(c, k, 0, 1, row), row += Runs::channels,
        c += Runs::codec::template row_bytes<Runs::channels>, k += Runs::codec::template group_bytes<Runs::channels>),
       ...);
    }
  }

  /// Where every run begins and ends between chunks of 16 channels.
  static constexpr bool in_chunks = ((Runs::channels % chunk_channels == 0) && ...);

  template <int Width>
  requires in_chunks KVC_HD static void decode_channels(const byte* row_codes, const byte* group_constants, int channel,
                                                        float* x) {
    int first = 0;
    ((channel >= first && channel < first + Runs::channels
          ? decode_run<Runs, Width>(row_codes, group_constants, channel - first, x)
          : (void)0,
      first += Runs::channels, row_codes += Runs::codec::template row_bytes<Runs::channels>,
      group_constants += Runs::codec::template group_bytes<Runs::channels>),
     ...);
  }

  template <int Width>
  static void bound(const float* x, int begin, int end, float* out) {
    for (int t = 0; t < end - begin; ++t) {
      const float* row = x + t * Width;
      float* o = out + t * Width;
      ((Runs::codec::template bound<Runs::channels>(row, 0, 1, o), row += Runs::channels, o += Runs::channels), ...);
    }
  }

 private:
  template <class Run, int Width>
  KVC_HD static void decode_run(const byte* codes, const byte* constants, int channel, float* x) {
    uint32 c[chunk_channels];
    unpack_chunk<Run::bits, 2>(codes + channel * Run::bits / 8, c);
    const grid_constants k = Run::codec::constants_of::load(constants);
    for (int i = 0; i < chunk_channels; ++i) x[i] = Run::codec::levels::decode(static_cast<uint8>(c[i]), k);
  }
};

}  // namespace kvc::inline v0_1::quant
