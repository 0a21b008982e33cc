// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/quant/graded.hpp"

namespace kvc::inline v0_1::quant {

/// Runs of channels with bits of their own under one scale per token: channel i has 2^b_i levels at odd multiples of
/// half a step, and the step is the same for all. Made for rows in a calibrated basis (dims::low_rank), whose
/// coordinates are scaled so that their spread fits their bits (calibrate/fit.hpp): against quant::graded it saves the
/// other runs' scales. The runs must add up to the width of the segment.
///
/// Codes of a token: the runs in order, each packed as quant::integer packs. Constants: one fp16 scale.
/// NaN and infinities make the whole token decode to NaN.
template <class... Runs>
struct tapered {
  static_assert(sizeof...(Runs) >= 1, "kvc: quant::tapered needs at least one quant::run<N, Bits>");

  using axis = quant_axis;
  static constexpr bool decodes_runs = true;  ///< groups of one token: decode takes neighbours at once
  static constexpr auto name = named("tapered", named("run", Runs::channels, Runs::bits)...);
  static constexpr int tokens_per_group = 1;
  static constexpr int channels = (Runs::channels + ...);
  using constants_of = stored_constants<midrise, scale_type::fp16>;

  template <int Width>
  static consteval bool fits() {
    static_assert(Width == channels, "kvc: quant::tapered: the runs must add up to the width of the segment");
    return true;
  }
  template <int Width>
  static constexpr int row_bytes = !fits<Width>() ? 0 : (packing<Runs::bits>::template bytes<Runs::channels> + ...);
  template <int Width>
  static constexpr int group_bytes = constants_of::bytes;

  /// Bits of each channel.
  static constexpr int bits_of(int channel) {
    int first = 0;
    int found = 0;
    ((found = channel >= first && channel < first + Runs::channels ? Runs::bits : found, first += Runs::channels), ...);
    return found;
  }

  template <int Width, class Team = serial_team>
  KVC_HD static void encode(const float* x, int begin, int end, byte* codes, byte* constants, Team team = {}) {
    for (int t = begin; t < end; ++t) {
      const float* row = x + (t - begin) * Width;
      const grid_constants k = choose(row, team);
      const float inverse = k.scale > 0 ? 1.0f / k.scale : 0.0f;
      byte* c = codes + t * row_bytes<Width>;
      ((encode_run<Runs>(row, k, inverse, c, team), row += Runs::channels, c += Runs::channels * Runs::bits / 8), ...);
      if (team.rank() == 0) constants_of::store(k, constants + t * group_bytes<Width>);
    }
    team.sync();
  }

  template <int Width>
  KVC_HD static void decode(const byte* codes, const byte* constants, int begin, int end, float* x) {
    for (int t = begin; t < end; ++t) {
      float* row = x + (t - begin) * Width;
      const grid_constants k = constants_of::load(constants + t * group_bytes<Width>);
      const byte* c = codes + t * row_bytes<Width>;
      ((decode_run<Runs>(c, k, row), row += Runs::channels, c += Runs::channels * Runs::bits / 8), ...);
    }
  }

  /// Where every run begins and ends between chunks of 16 channels.
  static constexpr bool in_chunks = ((Runs::channels % chunk_channels == 0) && ...);

  template <int Width>
  requires in_chunks KVC_HD static void decode_channels(const byte* row_codes, const byte* group_constants, int channel,
                                                        float* x) {
    const grid_constants k = constants_of::load(group_constants);
    int first = 0;
    ((channel >= first && channel < first + Runs::channels ? decode_chunk<Runs>(row_codes, k, channel - first, x)
                                                           : (void)0,
      first += Runs::channels, row_codes += Runs::channels * Runs::bits / 8),
     ...);
  }

  /// Half a step, and what fp32 arithmetic and a saturated scale lose.
  template <int Width>
  static void bound(const float* x, int begin, int end, float* out) {
    for (int t = 0; t < end - begin; ++t) {
      const grid_constants k = choose(x + t * Width, serial_team{});
      for (int i = 0; i < Width; ++i) {
        const float a = x[t * Width + i] < 0 ? -x[t * Width + i] : x[t * Width + i];
        const float reach = k.scale * static_cast<float>(1 << (bits_of(i) - 1));
        const float clipped = max_of(0.0f, a - reach) * 1.000001f;
        out[t * Width + i] = k.scale >= 0 ? k.scale * 0.5f + clipped + 2.4e-7f * (a + reach) : infinity();
      }
    }
  }

 private:
  /// The smallest scale whose steps reach every channel's magnitude.
  template <class Team>
  KVC_HD static grid_constants choose(const float* row, Team team) {
    float reach = 0;  // in steps of the channel's own range
    uint32 not_finite = 0;
    ((largest<Runs>(row, reach, not_finite, team), row += Runs::channels), ...);
    reach = team.largest(reach);
    grid_constants k;
    k.scale = team.any(not_finite != 0) ? quiet_nan()
              : reach > 0               ? fp16_above(max_of(reach, 1.17549435e-38f)).value()
                                        : 0.0f;
    return k;
  }
  template <class Run, class Team>
  KVC_HD static void largest(const float* row, float& reach, uint32& not_finite, Team team) {
    float magnitude = 0;
    for (int i = team.rank(); i < Run::channels; i += team.size()) {
      const float a = row[i] < 0 ? -row[i] : row[i];
      magnitude = a > magnitude ? a : magnitude;
      not_finite |= is_finite(row[i]) ? 0u : 1u;
    }
    reach = max_of(reach, magnitude / static_cast<float>(1 << (Run::bits - 1)));
  }
  template <class Run, class Team>
  KVC_HD static void encode_run(const float* row, grid_constants k, float inverse, byte* codes, Team team) {
    using levels = integer_grid<Run::bits, midrise, scale_type::fp16>;
    if constexpr (Team::size() == 1) {
      alignas(64) uint8 c[Run::channels];
      for (int i = 0; i < Run::channels; ++i) c[i] = levels::encode(row[i], k, inverse);
      pack<Run::bits, Run::channels>(c, codes);
    } else {
      constexpr int unit = packing<Run::bits>::unit;
      for (int i = team.rank() * unit; i < Run::channels; i += team.size() * unit) {
        pack_chunk<Run::bits, unit>([&](int c) { return levels::encode(row[i + c], k, inverse); },
                                    codes + i * Run::bits / 8);
      }
    }
  }
  template <class Run>
  KVC_HD static void decode_run(const byte* codes, grid_constants k, float* row) {
    alignas(64) uint8 c[Run::channels];
    unpack<Run::bits, Run::channels>(codes, c);
    for (int i = 0; i < Run::channels; ++i)
      row[i] = integer_grid<Run::bits, midrise, scale_type::fp16>::decode(c[i], k);
  }
  template <class Run>
  KVC_HD static void decode_chunk(const byte* codes, grid_constants k, int channel, float* x) {
    uint32 c[chunk_channels];
    unpack_chunk<Run::bits, 2>(codes + channel * Run::bits / 8, c);
    for (int i = 0; i < chunk_channels; ++i)
      x[i] = integer_grid<Run::bits, midrise, scale_type::fp16>::decode(static_cast<uint8>(c[i]), k);
  }
};

}  // namespace kvc::inline v0_1::quant
