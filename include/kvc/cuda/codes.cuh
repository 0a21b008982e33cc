// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cuda/mma.cuh"
#include "kvc/quant/quant.hpp"

// Rows for the tensor cores without decoding them: row = scale * u + offset, with u that bf16 holds exactly and
// constants per group of channels. Products take u; the constants are applied to sums (scores) and to weights (values),
// once per row and group instead of once per element.

namespace kvc::inline v0_1::cuda::detail {

/// A specialisation for each codec that has such a form:
///   groups, has_offset           constants of a row
///   middle                       of the values of u
///   above                        what is added to u; sums take it off again, as it is the same for all elements
///   channel(position)            which of a chunk's 16 channels lies at a position (0 to 15) of what load gives
///   load(row_codes, channel, w)  u + above of the chunk [channel, channel + 16), as bf16 pairs
///   constants(at, group)         {scale, offset}, where there are groups
/// Groups are of equal length, whole pairs of chunks. Other codecs decode to fp32 and round.
template <class Codec, int Width>
struct unit_codes {
  static constexpr bool exists = false;
};

/// (word & mask) | bits in one instruction.
__device__ inline uint32 masked_or(uint32 word, uint32 mask, uint32 bits) {
  uint32 out;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(out) : "r"(word), "r"(mask), "r"(bits));
  return out;
}
/// Twice the bf16 that is 128 + n, for n below 128 in either half.
inline constexpr uint32 bf16_128 = 0x43004300u;

/// 16 packed codes of Bits bits, at most 6, as bf16 pairs in their order: 128 + Factor (1 or 2) times the code.
template <int Bits, int Factor, int Align>
__device__ inline void insert_pairs(const byte* packed, uint32 (&w)[8]) {
  static_assert(Bits <= 6 && (Factor == 1 || Factor == 2));
  constexpr uint32 mask = ((1u << Bits) - 1u) * Factor;
  alignas(16) uint32 words[(Bits + 1) / 2 + 1] = {};
  __builtin_memcpy(words, __builtin_assume_aligned(packed, Align), 2 * Bits);
  // The bits from `bit` on, at the bottom of a word; above the first, they are moved up.
  const auto from = [&](int bit) {
    if (bit < 0) return words[0] << -bit;
    if (bit % 32 == 0) return words[bit / 32];
    return __funnelshift_r(words[bit / 32], words[bit / 32 + 1], static_cast<uint32>(bit % 32));
  };
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const uint32 low = from(2 * i * Bits - (Factor - 1));
    const uint32 high = from((2 * i + 1) * Bits - 16 - (Factor - 1));
    w[i] = masked_or(high, mask << 16, masked_or(low, mask, bf16_128));
  }
}

/// 16 packed codes of Bits bits as bf16 pairs: u = factor * code - bias, so that u is an integer and the grid's value
/// scale / factor * u + offset. What is loaded is u + above; see channel().
template <int Bits, quant::grid Grid, int Align>
struct packed_units {
  static constexpr int factor = Grid == quant::midrise ? 2 : 1;
  static constexpr int bias = Grid == quant::affine ? 0 : Grid == quant::symmetric ? 1 << (Bits - 1) : (1 << Bits) - 1;
  /// bf16 between 128 and 256 count in ones: codes are inserted as they are, or their double one bit higher.
  static constexpr float above = Bits >= 7 ? 0.0f : static_cast<float>(128 + bias);

  KVC_HD static constexpr int channel(int position) {
    if (Bits == 4) return position / 8 * 8 + position % 8 / 2 + position % 2 * 4;
    if (Bits == 2) return position / 2 + position % 2 * 8;
    return position;
  }
  /// The inverse.
  KVC_HD static constexpr int position(int channel) {
    if (Bits == 4) return channel / 8 * 8 + channel % 4 * 2 + channel % 8 / 4;
    if (Bits == 2) return channel % 8 * 2 + channel / 8;
    return channel;
  }
  __device__ static void load(const byte* packed, uint32 (&w)[8]) {
    constexpr uint32 mask = (1u << Bits) - 1u;
    if constexpr (Bits == 4 || Bits == 2) {
      // A word's lower half holds the codes of the pairs' first channels, its upper half those of the second.
      uint32 words[Bits / 2];
      __builtin_memcpy(words, __builtin_assume_aligned(packed, Align), sizeof words);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int shift = i % (16 / Bits) * Bits - (factor - 1);
        const uint32 word = words[i / (16 / Bits)];
        const uint32 pair = shift < 0 ? word << -shift : word >> shift;
        w[i] = masked_or(pair, (mask | mask << 16) << (factor - 1), bf16_128);
      }
    } else {
      uint32 c[16];
      quant::unpack_chunk<Bits, Align>(packed, c);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        if constexpr (Bits >= 7) {
          w[i] = pack_bf16(number(c[2 * i]), number(c[2 * i + 1]));
        } else {
          w[i] = (c[2 * i] | c[2 * i + 1] << 16) * factor | bf16_128;
        }
      }
    }
  }

 private:
  __device__ static float number(uint32 code) {
    return (bits_float(0x4b000000u | code) - 8388608.0f) * static_cast<float>(factor) - static_cast<float>(bias);
  }
};

template <int Bits, int Group, quant::grid Grid, quant::scale_type Type, int Width>
requires(Width % 16 == 0 &&
         (Group >= Width ||
          (Group % 32 == 0 &&
           Width % Group == 0))) struct unit_codes<quant::integer<Bits, Group, Grid, quant::per_token, Type>, Width> {
  using codec = quant::integer<Bits, Group, Grid, quant::per_token, Type>;
  static constexpr bool exists = true;
  static constexpr int groups = codec::template groups<Width>;
  static constexpr int group_chunks = codec::template group_length<Width> / 16;
  static constexpr bool has_offset = Grid == quant::affine;
  using units = packed_units<Bits, Grid, quant::common_alignment(2 * Bits, codec::template row_bytes<Width>, 16)>;
  static constexpr float above = units::above;
  static constexpr float middle = Grid == quant::affine ? 0.5f * static_cast<float>((1 << Bits) - 1) : 0.0f;

  KVC_HD static constexpr int channel(int position) { return units::channel(position); }
  __device__ static void load(const byte* row_codes, int channel, uint32 (&w)[8]) {
    units::load(row_codes + channel * Bits / 8, w);
  }
  __device__ static float2 constants(const byte* at, int group) {
    const quant::grid_constants k = codec::constants_of::load(at + group * codec::constants_of::bytes);
    return make_float2(k.scale / static_cast<float>(units::factor), k.offset);
  }
};

/// Codes with constants per channel: a thread keeps those of its chunk, which all rows of the group share.
template <class Codec, int Width>
struct channel_codes {
  static constexpr bool exists = false;
};

template <int Bits, int Group, quant::grid Grid, quant::scale_type Type, int Width>
requires(Width % 16 == 0) struct channel_codes<quant::integer<Bits, Group, Grid, quant::per_channel, Type>, Width> {
  using codec = quant::integer<Bits, Group, Grid, quant::per_channel, Type>;
  static constexpr bool exists = true;
  using units = packed_units<Bits, Grid, quant::common_alignment(2 * Bits, codec::template row_bytes<Width>, 16)>;

  float scale[16];
  float offset[16];

  KVC_HD static constexpr int channel(int position) { return units::channel(position); }
  KVC_HD static constexpr int position(int channel) { return units::position(channel); }

  /// The constants of channels [channel, channel + 16) of a group, by position.
  __device__ void load_constants(const byte* group_constants, int channel) {
    constexpr int bytes = codec::constants_of::bytes;
    alignas(16) byte k[16 * bytes];
    __builtin_memcpy(k, __builtin_assume_aligned(group_constants + channel * bytes, 16), sizeof k);
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const quant::grid_constants g = codec::constants_of::load(k + units::channel(i) * bytes);
      scale[i] = g.scale / static_cast<float>(units::factor);
      offset[i] = g.offset - units::above * scale[i];
    }
  }
  /// The chunk of one row, decoded, by position.
  __device__ void decode(const byte* row_codes, int channel, float (&x)[16]) const {
    uint32 w[8];
    units::load(row_codes + channel * Bits / 8, w);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      x[2 * i] = low_bf16(w[i]) * scale[2 * i] + offset[2 * i];
      x[2 * i + 1] = high_bf16(w[i]) * scale[2 * i + 1] + offset[2 * i + 1];
    }
  }
  /// The same as bf16 pairs.
  __device__ void load(const byte* row_codes, int channel, uint32 (&w)[8]) const {
    float x[16];
    decode(row_codes, channel, x);
#pragma unroll
    for (int i = 0; i < 8; ++i) w[i] = pack_bf16(x[2 * i], x[2 * i + 1]);
  }
};

template <int Width>
requires(Width % 16 == 0) struct unit_codes<quant::none<bf16>, Width> {
  static constexpr bool exists = true;
  static constexpr int groups = 0;  ///< no constants
  static constexpr int group_chunks = Width / 16;
  static constexpr bool has_offset = false;
  static constexpr float above = 0;
  static constexpr float middle = 0;

  KVC_HD static constexpr int channel(int position) { return position; }
  __device__ static void load(const byte* row_codes, int channel, uint32 (&w)[8]) {
    __builtin_memcpy(w, __builtin_assume_aligned(row_codes + 2 * channel, 16), sizeof w);
  }
};

template <int Group, quant::scale_type Type, int Width>
requires(Width % 16 == 0 &&
         (Group == 0 || Group >= Width ||
          (Group % 32 == 0 && Width % Group == 0))) struct unit_codes<quant::fp8_e4m3<Group, Type>, Width> {
  using codec = quant::fp8_e4m3<Group, Type>;
  static constexpr bool exists = true;
  static constexpr int groups = Group == 0 ? 0 : codec::template groups<Width>;
  static constexpr int group_chunks = codec::template group_length<Width> / 16;
  static constexpr bool has_offset = false;
  static constexpr float above = 0;
  static constexpr float middle = 0;

  KVC_HD static constexpr int channel(int position) { return position; }
  __device__ static void load(const byte* row_codes, int channel, uint32 (&w)[8]) {
    uint32 words[4];
    __builtin_memcpy(words, __builtin_assume_aligned(row_codes + channel, 16), sizeof words);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      // Exponent and mantissa where bf16 has them, then 2^120 makes up for the difference of the biases.
      const uint32 low = __byte_perm(words[i], 0, 0x1404);
      const uint32 high = __byte_perm(words[i], 0, 0x3424);
      w[2 * i] = scale_up((low >> 4 & 0x07f007f0u) | (low & 0x80008000u));
      w[2 * i + 1] = scale_up((high >> 4 & 0x07f007f0u) | (high & 0x80008000u));
      const uint32 is_nan = ((words[i] & 0x7f7f7f7fu) + 0x01010101u) & 0x80808080u;
      if (is_nan != 0) {
        if (is_nan & 0x80u) w[2 * i] |= 0x00007fffu;
        if (is_nan & 0x8000u) w[2 * i] |= 0x7fff0000u;
        if (is_nan & 0x800000u) w[2 * i + 1] |= 0x00007fffu;
        if (is_nan & 0x80000000u) w[2 * i + 1] |= 0x7fff0000u;
      }
    }
  }
  __device__ static float2 constants(const byte* at, int group) {
    return make_float2(codec::constants_of::load(at + group * codec::constants_of::bytes).scale, 0);
  }

 private:
  __device__ static uint32 scale_up(uint32 x) {
    return multiply_add_pair(x, 0x7b807b80u, 0x80008000u);
  }
};

template <class... Runs, int Width>
requires(Width % 16 == 0 && quant::tapered<Runs...>::in_chunks) struct unit_codes<quant::tapered<Runs...>, Width> {
  using codec = quant::tapered<Runs...>;
  static constexpr bool exists = true;
  static constexpr int groups = 1;
  static constexpr int group_chunks = Width / 16;
  static constexpr bool has_offset = false;
  static constexpr float above = 0;
  static constexpr float middle = 0;
  static constexpr bool chunks_differ = true;  ///< in their code: threads of a warp had better load the same one

  KVC_HD static constexpr int channel(int position) { return position; }
  __device__ static void load(const byte* row_codes, int channel, uint32 (&w)[8]) {
    load_from<0, 0, Runs...>(row_codes, channel, w);
  }
  __device__ static float2 constants(const byte* at, int) {
    return make_float2(codec::constants_of::load(at).scale, 0);
  }

 private:
  /// Of the runs from channel First on, whose codes begin at byte Offset of the row.
  template <int First, int Offset, class Run, class... Rest>
  __device__ static void load_from(const byte* row_codes, int channel, uint32 (&w)[8]) {
    if (sizeof...(Rest) == 0 || channel < First + Run::channels) {
      constexpr int align = quant::common_alignment(codec::template row_bytes<Width>, Offset, 2 * Run::bits);
      load_run<Run, align>(row_codes + Offset + (channel - First) * Run::bits / 8, w);
    } else if constexpr (sizeof...(Rest) > 0) {
      load_from<First + Run::channels, Offset + Run::channels * Run::bits / 8, Rest...>(row_codes, channel, w);
    }
  }
  template <class Run, int Align>
  __device__ static void load_run(const byte* codes, uint32 (&w)[8]) {
    if constexpr (Run::bits <= 6) {
      insert_pairs<Run::bits, 2, Align>(codes, w);
      constexpr uint32 minus = bf16_bits(-0.5f * static_cast<float>(128 + (1 << Run::bits) - 1));
#pragma unroll
      for (int i = 0; i < 8; ++i) w[i] = multiply_add_pair(w[i], 0x3f003f00u, minus | minus << 16);
    } else {
      constexpr float bias = 0.5f * static_cast<float>((1 << Run::bits) - 1);
      uint32 c[16];
      quant::unpack_chunk<Run::bits, Align>(codes, c);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        w[i] = pack_bf16(bits_float(0x4b000000u | c[2 * i]) - 8388608.0f - bias,
                         bits_float(0x4b000000u | c[2 * i + 1]) - 8388608.0f - bias);
      }
    }
  }
  KVC_HD static constexpr uint32 bf16_bits(float x) {
    return __builtin_bit_cast(uint32, x) >> 16;
  }
};

}  // namespace kvc::inline v0_1::cuda::detail
