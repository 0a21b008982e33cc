// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/quant/scale.hpp"
#include "kvc/quant/share.hpp"

namespace kvc::inline v0_1::quant {

/// Bits-wide integer codes with one scale (and, affine, one offset) per group.
///
///   per_token     groups of Group channels of one token; the last one may be shorter, and a Group longer than the
///                 segment is one group. Constants of a token: [groups]{scale, offset}.
///   per_channel   groups of Group tokens of one channel (KIVI, arXiv 2402.02750). Constants of a group of tokens:
///                 [Width]{scale, offset}. The newest tokens wait in the open tail until their group is full.
///
/// NaN and infinities make their whole group decode to NaN. With fp16 constants, offsets beyond +-65504 and scales
/// beyond 65504 saturate and values clip to the levels that remain; with fp32 constants they clip beyond 3.4e38, and
/// where a group spans more than that.
///
/// Local arrays are aligned by hand: g++ 12 for AVX-512 stores to some as if they were, without aligning them.
template <int Bits, int Group = whole_segment, grid Grid = affine, grouping Grouping = per_token,
          scale_type Type = scale_type::fp16>
struct integer {
  static_assert(Bits >= 2 && Bits <= 8, "kvc: quant::integer<Bits, Group> has 2 to 8 bits");
  static_assert(Group >= 1, "kvc: quant::integer<Bits, Group> needs Group >= 1");
  static_assert(Grouping == per_token || Group <= 1024,
                "kvc: quant::integer per channel groups tokens: give Group, at most 1024");

  using axis = quant_axis;
  static constexpr bool decodes_runs = true;  ///< groups of one token: decode takes neighbours at once
  using levels = integer_grid<Bits, Grid, Type>;
  using constants_of = stored_constants<Grid, Type>;
  static constexpr auto name =
      named("integer", Bits, Group == whole_segment ? text("whole") : text(Group),
            Grid == affine ? text("affine") : (Grid == symmetric ? text("symmetric") : text("midrise")),
            Grouping == per_token ? text("per_token") : text("per_channel"),
            Type == scale_type::fp16 ? text("fp16") : text("fp32"));
  static constexpr int tokens_per_group = Grouping == per_token ? 1 : Group;

  template <int Width>
  static constexpr int group_length = Group < Width ? Group : Width;
  template <int Width>
  static constexpr int groups = (Width + group_length<Width> - 1) / group_length<Width>;
  template <int Width>
  static constexpr int row_bytes = Width* Bits / 8;
  template <int Width>
  static constexpr int group_bytes = (Grouping == per_token ? groups<Width> : Width) * constants_of::bytes;

  template <int Width, class Team = serial_team>
  KVC_HD static void encode(const float* x, int begin, int end, byte* codes, byte* constants, Team team = {}) {
    static_assert(Width * Bits % 8 == 0,
                  "kvc: quant::integer: the segment's channels do not fill whole bytes at this many bits");
    if constexpr (Grouping == per_token) {
      for (int t = begin; t < end; ++t) {
        encode_token<Width>(x + (t - begin) * Width, codes + t * row_bytes<Width>, constants + t * group_bytes<Width>,
                            team);
      }
    } else {
      encode_channels<Width>(x, begin, end, codes, constants, team);
    }
    team.sync();
  }

  /// Encodes one row that lies in its team's registers, where `stores`.
  template <int Width, class Team>
  requires(Grouping == per_token && detail::shares_fit(Width, group_length<Width>, packing<Bits>::unit, Team::size()))
      KVC_HD static void encode_share(const float* x, byte* codes, byte* constants, bool stores, Team team) {
    constexpr int own = Width / Team::size();
    constexpr int length = group_length<Width>;
    constexpr int piece = min_of(own, length);  // channels that a thread has of a group
    constexpr int chunk = detail::share_chunk(piece, piece, packing<Bits>::unit, Bits);
    const auto part = team.template part<length / piece>();
    for (int first = 0; first < own; first += piece) {
      group_range r = range_of(x + first, piece, 1);
      r = {part.least(r.low), part.largest(r.high), !part.any(!r.finite)};
      const grid_constants k = levels::choose(r);
      const float inverse = levels::inverse(k);
      if (!stores) continue;
      const int channel = team.rank() * own + first;
      if (part.rank() == 0) constants_of::store(k, constants + channel / length * constants_of::bytes);
      for (int i = first; i < first + piece; i += chunk) {
        pack_chunk<Bits, chunk>([&](int c) { return levels::encode(x[i + c], k, inverse); },
                                codes + (team.rank() * own + i) * Bits / 8);
      }
    }
  }

  template <int Width>
  KVC_HD static void decode(const byte* codes, const byte* constants, int begin, int end, float* x) {
    if constexpr (Grouping == per_token) {
      for (int t = begin; t < end; ++t) {
        alignas(64) uint8 c[Width];
        unpack<Bits, Width>(codes + t * row_bytes<Width>, c);
        float* row = x + (t - begin) * Width;
        for (int g = 0; g < groups<Width>; ++g) {
          const grid_constants k = constants_of::load(constants + t * group_bytes<Width> + g * constants_of::bytes);
          const int stop = min_of((g + 1) * group_length<Width>, Width);
          for (int i = g * group_length<Width>; i < stop; ++i) row[i] = levels::decode(c[i], k);
        }
      }
    } else {
      grid_constants k[Width];
      for (int i = 0; i < Width; ++i) k[i] = constants_of::load(constants + i * constants_of::bytes);
      for (int t = begin; t < end; ++t) {
        alignas(64) uint8 c[Width];
        unpack<Bits, Width>(codes + t * row_bytes<Width>, c);
        for (int i = 0; i < Width; ++i) x[(t - begin) * Width + i] = levels::decode(c[i], k[i]);
      }
    }
  }

  /// Channels [channel, channel + 16) of one row, zero beyond Width.
  template <int Width>
  KVC_HD static void decode_channels(const byte* row_codes, const byte* group_constants, int channel, float* x) {
    if constexpr (Width % chunk_channels == 0) {
      constexpr int align = common_alignment(2 * Bits, row_bytes<Width>, 16);
      uint32 c[chunk_channels];
      unpack_chunk<Bits, align>(row_codes + channel * Bits / 8, c);
      if constexpr (Grouping == per_channel) {
        constexpr int bytes = constants_of::bytes;
        alignas(16) byte k[chunk_channels * bytes];
        __builtin_memcpy(k, __builtin_assume_aligned(group_constants + channel * bytes, 16), sizeof k);
        for (int i = 0; i < chunk_channels; ++i) {
          x[i] = levels::decode(static_cast<uint8>(c[i]), constants_of::load(k + i * bytes));
        }
      } else if constexpr (group_length<Width> % chunk_channels == 0 || groups<Width> == 1) {
        const int g = channel / group_length<Width>;
        const grid_constants k = constants_of::load(group_constants + g * constants_of::bytes);
        for (int i = 0; i < chunk_channels; ++i) x[i] = levels::decode(static_cast<uint8>(c[i]), k);
      } else {
        for (int i = 0; i < chunk_channels; ++i) {
          const int g = (channel + i) / group_length<Width>;
          x[i] =
              levels::decode(static_cast<uint8>(c[i]), constants_of::load(group_constants + g * constants_of::bytes));
        }
      }
    } else {
      for (int i = 0; i < chunk_channels; ++i) {
        const int at = channel + i;
        if (at >= Width) {
          x[i] = 0;
          continue;
        }
        const int bit = at * Bits;
        uint32 word = row_codes[bit / 8];
        if (bit % 8 + Bits > 8) word |= static_cast<uint32>(row_codes[bit / 8 + 1]) << 8;
        const uint8 code = static_cast<uint8>((word >> (bit % 8)) & ((1u << Bits) - 1u));
        const int g = Grouping == per_token ? at / group_length<Width> : at;
        x[i] = levels::decode(code, constants_of::load(group_constants + g * constants_of::bytes));
      }
    }
  }

  template <int Width>
  static void bound(const float* x, int begin, int end, float* out) {
    const int tokens = end - begin;
    if constexpr (Grouping == per_token) {
      for (int t = 0; t < tokens; ++t) {
        for (int g = 0; g < groups<Width>; ++g) {
          const int first = t * Width + g * group_length<Width>;
          const int stop = t * Width + min_of((g + 1) * group_length<Width>, Width);
          const group_range r = range_of(x + first, stop - first, 1);
          for (int i = first; i < stop; ++i) out[i] = levels::bound(x[i], r);
        }
      }
    } else {
      for (int c = 0; c < Width; ++c) {
        const group_range r = range_of(x + c, tokens, Width);
        for (int t = 0; t < tokens; ++t) out[t * Width + c] = levels::bound(x[t * Width + c], r);
      }
    }
  }

  KVC_HD static group_range range_of(const float* x, int count, int stride) {
#if !defined(__CUDA_ARCH__)
    if (stride == 1 && count % 16 == 0) return range_in_lanes(x, count);
#endif
    group_range r{x[0], x[0], true};
#if defined(__CUDA_ARCH__)
    // Zeros may end with another sign than by comparisons, which no constant shows.
    float zero = 0;
    for (int i = 0; i < count; ++i) {
      const float v = x[i * stride];
      r.low = fminf(r.low, v);
      r.high = fmaxf(r.high, v);
      zero = __fmaf_rn(v, 0.0f, zero);  // NaN once v is not finite
    }
    r.finite = zero == 0;
#else
    uint32 not_finite = 0;
    for (int i = 0; i < count; ++i) {
      const float v = x[i * stride];
      r.low = v < r.low ? v : r.low;
      r.high = v > r.high ? v : r.high;
      not_finite |= is_finite(v) ? 0u : 1u;
    }
    r.finite = not_finite == 0;
#endif
    return r;
  }

 private:
  /// The same, 16 at a time: compilers do not reorder a least or a largest of floats by themselves.
  KVC_HD static group_range range_in_lanes(const float* x, int count) {
    alignas(64) float low[16];
    alignas(64) float high[16];
    alignas(64) uint32 magnitude[16];
    for (int l = 0; l < 16; ++l) {
      low[l] = high[l] = x[l];
      magnitude[l] = 0;
    }
    for (int i = 0; i < count; i += 16) {
      for (int l = 0; l < 16; ++l) {
        const float v = x[i + l];
        low[l] = v < low[l] ? v : low[l];
        high[l] = v > high[l] ? v : high[l];
        const uint32 bits = float_bits(v) & 0x7fffffffu;
        magnitude[l] = bits > magnitude[l] ? bits : magnitude[l];
      }
    }
    for (int half = 8; half > 0; half /= 2) {
      for (int l = 0; l < half; ++l) {
        low[l] = low[l + half] < low[l] ? low[l + half] : low[l];
        high[l] = high[l + half] > high[l] ? high[l + half] : high[l];
        magnitude[l] = magnitude[l + half] > magnitude[l] ? magnitude[l + half] : magnitude[l];
      }
    }
    return {low[0], high[0], magnitude[0] < 0x7f800000u};
  }

  template <int Width, class Team>
  KVC_HD static void encode_token(const float* x, byte* codes, byte* constants, Team team) {
    constexpr int length = group_length<Width>;
    using share = team_share<Width, length, Bits, Team::size()>;
    if constexpr (Team::size() > 1 && share::fits) {
      // A few threads to a group; each packs and writes its own codes.
      const auto part = team.template part<share::lanes>();
      for (int g = team.rank() / share::lanes; g < groups<Width>; g += Team::size() / share::lanes) {
        const int stop = min_of((g + 1) * length, Width);
        const int first = g * length + part.rank() * share::share;
        const int end = min_of(first + share::share, stop);
        group_range r = first < stop ? range_of(x + first, end - first, 1) : group_range{x[g * length], x[g * length]};
        r = {part.least(r.low), part.largest(r.high), !part.any(!r.finite)};
        const grid_constants k = levels::choose(r);
        const float inverse = levels::inverse(k);
        if (part.rank() == 0) constants_of::store(k, constants + g * constants_of::bytes);
        for (int i = first; i < end; i += share::chunk) {
          pack_chunk<Bits, share::chunk>([&](int c) { return levels::encode(x[i + c], k, inverse); },
                                         codes + i * Bits / 8);
        }
      }
    } else if (team.rank() == 0) {
      alignas(64) uint8 c[Width];
      for (int g = 0; g < groups<Width>; ++g) {
        const int first = g * length;
        const int stop = min_of(first + length, Width);
        const grid_constants k = levels::choose(range_of(x + first, stop - first, 1));
        const float inverse = levels::inverse(k);
        for (int i = first; i < stop; ++i) c[i] = levels::encode(x[i], k, inverse);
        constants_of::store(k, constants + g * constants_of::bytes);
      }
      pack<Bits, Width>(c, codes);
    }
  }

  template <int Width, class Team>
  KVC_HD static void encode_channels(const float* x, int begin, int end, byte* codes, byte* constants, Team team) {
    if constexpr (Team::size() > 1) {
      // Each thread takes a few neighbouring channels, of all tokens.
      constexpr int unit = packing<Bits>::unit;
      constexpr int chunk = Width % (2 * unit) == 0 && Width >= 2 * unit * Team::size() ? 2 * unit : unit;
      for (int first = team.rank() * chunk; first < Width; first += Team::size() * chunk) {
        grid_constants k[chunk];
        float inverse[chunk];
        for (int i = 0; i < chunk; ++i) {
          k[i] = levels::choose(range_of(x + first + i, end - begin, Width));
          inverse[i] = levels::inverse(k[i]);
          constants_of::store(k[i], constants + (first + i) * constants_of::bytes);
        }
        for (int t = begin; t < end; ++t) {
          const float* row = x + (t - begin) * Width + first;
          pack_chunk<Bits, chunk>([&](int i) { return levels::encode(row[i], k[i], inverse[i]); },
                                  codes + t * row_bytes<Width> + first * Bits / 8);
        }
      }
    } else {
      alignas(64) float low[Width];
      alignas(64) float high[Width];
      alignas(64) uint32 not_finite[Width];
      for (int i = 0; i < Width; ++i) {
        low[i] = high[i] = x[i];
        not_finite[i] = 0;
      }
      for (int t = 0; t < end - begin; ++t) {
        for (int i = 0; i < Width; ++i) {
          const float v = x[t * Width + i];
          low[i] = v < low[i] ? v : low[i];
          high[i] = v > high[i] ? v : high[i];
          not_finite[i] |= is_finite(v) ? 0u : 1u;
        }
      }
      grid_constants k[Width];
      float inverse[Width];
      for (int i = 0; i < Width; ++i) {
        k[i] = levels::choose({low[i], high[i], not_finite[i] == 0});
        inverse[i] = levels::inverse(k[i]);
        constants_of::store(k[i], constants + i * constants_of::bytes);
      }
      for (int t = begin; t < end; ++t) {
        alignas(64) uint8 c[Width];
        for (int i = 0; i < Width; ++i) c[i] = levels::encode(x[(t - begin) * Width + i], k[i], inverse[i]);
        pack<Bits, Width>(c, codes + t * row_bytes<Width>);
      }
    }
  }
};

}  // namespace kvc::inline v0_1::quant
