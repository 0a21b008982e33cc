// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cache/rows.hpp"
#include "kvc/host/simd/dispatch.hpp"
#include "kvc/quant/integer.hpp"

// A stream whose codes are attended as they lie: what it takes to hand a tile of its rows to the kernels of host/simd.

namespace kvc::inline v0_1::host::detail {

/// What a codec's rows look like to the kernels. A codec without a specialisation is decoded to fp32 tiles instead.
template <class Codec, int Width>
struct packed_form {
  static constexpr bool fits = false;
  static constexpr bool is_per_channel = false;
};

/// Integers of up to 4 bits: beyond that, rounding queries and weights to 8 bits would add more error than the codec.
template <int Bits, int Group, quant::grid Grid, quant::grouping Grouping, quant::scale_type Type, int Width>
struct packed_form<quant::integer<Bits, Group, Grid, Grouping, Type>, Width> {
  using codec = quant::integer<Bits, Group, Grid, Grouping, Type>;
  static constexpr int bits = Bits;
  static constexpr int group = Grouping == quant::per_token ? codec::template group_length<Width> : Width;
  static constexpr bool fits =
      Bits <= 4 && group * Bits % 8 == 0 && (Grouping == quant::per_token || codec::tokens_per_group % block_rows == 0);
  static constexpr bool is_per_channel = Grouping == quant::per_channel;
  static constexpr int constants_bytes = codec::constants_of::bytes;
  static constexpr bool is_half = Type == quant::scale_type::fp16;
  static constexpr bool has_offset = Grid == quant::affine;
  /// value = scale (code - centre) + (offset + middle scale)
  static constexpr int centre = 1 << (Bits - 1);
  static constexpr float middle = Grid == quant::affine ? centre : (Grid == quant::midrise ? 0.5f : 0.0f);
};

/// Scores and sums over tiles of up to 128 rows of one stream. Scratch is carved from the caller's memory.
template <class Spec, bool First>
struct packed_stream {
  using stream_type = stream_of<Spec, First>;
  using form = packed_form<typename stream_type::codec, stream_type::width>;

  static constexpr bool fits() {
    if constexpr (form::fits) return stream_type::tokens_per_page % block_rows == 0;
    return false;
  }
};

template <class Spec, bool First>
using packed_form_of = typename packed_stream<Spec, First>::form;

template <class Spec, bool First>
requires(packed_stream<Spec, First>::fits()) struct packed_rows {
  using stream_type = stream_of<Spec, First>;
  using form = packed_form<typename stream_type::codec, stream_type::width>;
  static constexpr int width = stream_type::width;
  static constexpr int group = form::group;
  static constexpr int groups = (width + group - 1) / group;
  /// 3 bits are parted into bytes first.
  static constexpr bool is_expanded = form::bits == 3;
  static constexpr int fields = is_expanded ? 1 : 8 / form::bits;
  static constexpr int field_index = fields == 1 ? 0 : fields / 2;  // of the kernel tables
  static constexpr int row_bytes = is_expanded ? width : stream_type::row_bytes;
  static constexpr int query_pitch = groups * round_up(group, 16);  ///< bytes of q8

  static constexpr int channels_of(int g) { return min_of(group, width - g * group); }
  static constexpr int bytes_of(int g) { return channels_of(g) / fields; }
  static constexpr int offset_of(int g) { return g * group / fields; }
  static constexpr int words_of(int g) { return ceil_div(bytes_of(g), 4) * fields; }
  /// Whether sums of a group can go to their channels at once: the kernel adds to whole chunks.
  static constexpr bool is_whole(int g) {
    return bytes_of(g) % 32 == 0 || (g == groups - 1 && groups * group == width &&
                                     round_up(bytes_of(g), 32) * fields <= round_up(width, 16) - g * group);
  }

  /// Bytes of scratch, for `queries` queries.
  static constexpr int64 scratch_bytes(int64 queries) {
    const int64 keys = queries * (query_pitch + groups * static_cast<int64>(sizeof(query_group)));
    const int64 constants = 2 * 4 * static_cast<int64>(form::is_per_channel ? width + 16 : groups * code_tile_rows);
    const int64 expanded = is_expanded ? code_tile_rows * width + 64 : 0;
    return round_up<int64>(keys, 64) + round_up<int64>(constants, 64) + round_up<int64>(expanded, 64) + 64;
  }

  /// Bytes that score_codes parts a group into.
  static constexpr int64 buffer_bytes() {
    return round_up(bytes_of(0), 32) / 4 * fields * static_cast<int64>(tile_blocks) * 64;
  }

  int8* q8;                ///< [queries][query_pitch]
  query_group* q8_groups;  ///< [queries][groups]
  float* scale;            ///< [groups][code_tile_rows]; per channel: [width]
  float* middle;           ///< the same
  byte* expanded;          ///< [code_tile_rows][width], of 3 bits
  code_tile rows;

  byte* carve(byte* at, int64 queries) {
    q8_groups = reinterpret_cast<query_group*>(at);
    q8 = reinterpret_cast<int8*>(at + queries * groups * static_cast<int64>(sizeof(query_group)));
    byte* next = at + round_up<int64>(queries * (query_pitch + groups * static_cast<int64>(sizeof(query_group))), 64);
    const int64 constants = form::is_per_channel ? width + 16 : groups * code_tile_rows;
    scale = reinterpret_cast<float*>(next);
    middle = scale + constants;
    next += round_up<int64>(2 * 4 * constants, 64);
    expanded = next;
    return at + scratch_bytes(queries);
  }

  /// Queries of one item in 8 bits; q: [count][pitch], zero beyond the width. Keys per channel: see score.
  void quantize(const kernel_table& kernels, const float* q, int count, int64 pitch) const {
    if constexpr (!form::is_per_channel) {
      for (int g = 0; g < groups; ++g) {
        const int channels = channels_of(g);
        for (int begin = 0; begin < count; begin += 16) {
          alignas(64) float padded[16][round_up(group, 16)];
          const int n = min_of(16, count - begin);
          for (int i = 0; i < n; ++i) {
            for (int c = 0; c < round_up(group, 16); ++c) {
              padded[i][c] = c < channels ? q[(begin + i) * pitch + g * group + c] : 0.0f;
            }
          }
          kernels.quantize_query[field_index]({padded[0], n, round_up(group, 16), round_up(channels, 16), nullptr,
                                               nullptr, form::centre,
                                               q8 + begin * query_pitch + g * round_up(group, 16), query_pitch,
                                               q8_groups + begin * groups + g, groups});
        }
      }
    }
  }

  /// Finds the rows [tile, tile + 16 blocks) and their constants.
  void load(const kernel_table& kernels, const stream_rows<Spec, First>& at, int64 tile, int blocks) {
    static constexpr byte blank[block_rows * stream_type::row_bytes + 32] = {};
    rows.pitch = row_bytes;
    for (int b = 0; b < blocks; ++b) {
      const int64 t = tile + b * block_rows;
      const byte* segment = at.segment_of(t);
      const int in_page = static_cast<int>(t % stream_type::tokens_per_page);
      // A page that was freed is not seen.
      const byte* codes = segment == nullptr ? blank : segment + in_page * stream_type::row_bytes;
      if constexpr (is_expanded) {
        byte* to = expanded + b * block_rows * width;
        for (int r = 0; r < block_rows; ++r) {
          quant::unpack<form::bits, width>(codes + r * stream_type::row_bytes, to + r * width);
        }
        codes = to;
      }
      rows.block[b] = codes;
      if constexpr (!form::is_per_channel) load_row_constants(kernels, segment, in_page, b);
    }
  }

  /// Adds to s[queries][pitch] over the tile's rows.
  void score(const kernel_table& kernels, const stream_rows<Spec, First>& at, int64 tile, int blocks, const float* q,
             int queries, int64 q_pitch, float* s, int64 pitch, byte* buffer) const {
    score_codes_call c{};
    c.q8 = q8;
    c.q8_pitch = query_pitch;
    c.group = q8_groups;
    c.group_pitch = groups;
    c.queries = queries;
    c.buffer = buffer;
    c.score_pitch = pitch;
    if constexpr (!form::is_per_channel) {
      c.rows = rows;
      c.blocks = blocks;
      c.scores = s;
      for (int g = 0; g < groups; ++g) {
        c.offset = offset_of(g);
        c.words = words_of(g);
        c.q8 = q8 + g * round_up(group, 16);
        c.group = q8_groups + g;
        c.scale = scale + g * code_tile_rows;
        c.middle = middle + g * code_tile_rows;
        kernels.score_codes[field_index](c);
      }
    } else {
      // The scales belong to channels: they are multiplied into the queries, once per group of tokens.
      alignas(64) static constexpr ones one{};
      constexpr int per_group = stream_type::tokens_per_group / block_rows;
      c.rows.pitch = row_bytes;
      c.offset = 0;
      c.words = words_of(0);
      c.scale = c.middle = one.value;
      for (int b = 0; b < blocks;) {
        const int64 t = tile + b * block_rows;
        const int in_group = static_cast<int>(t % stream_type::tokens_per_group) / block_rows;
        c.blocks = min_of(per_group - in_group, blocks - b);
        load_channel_constants(kernels, at, t);
        kernels.quantize_query[field_index]({q, queries, q_pitch, round_up(width, 16), scale, middle, form::centre, q8,
                                             query_pitch, q8_groups, groups});
        for (int i = 0; i < c.blocks; ++i) c.rows.block[i] = rows.block[b + i];
        c.scores = s + b * block_rows;
        kernels.score_codes[field_index](c);
        b += c.blocks;
      }
    }
  }

 private:
  struct ones {
    float value[code_tile_rows];
    constexpr ones() : value() {
      for (float& x : value) x = 1;
    }
  };

  static uint32 pair_at(const byte* at) {
    uint32 pair = 0;
    __builtin_memcpy(&pair, at, form::has_offset ? 4 : 2);
    return pair;
  }

  void load_row_constants(const kernel_table& kernels, const byte* segment, int in_page, int block) const {
    alignas(64) uint32 pairs[block_rows];
    for (int g = 0; g < groups; ++g) {
      float* to_scale = scale + g * code_tile_rows + block * block_rows;
      float* to_middle = middle + g * code_tile_rows + block * block_rows;
      if (segment == nullptr) {
        for (int r = 0; r < block_rows; ++r) to_scale[r] = to_middle[r] = 0;
        continue;
      }
      const byte* constants =
          segment + stream_type::codes_bytes + in_page * stream_type::group_bytes + g * form::constants_bytes;
      if constexpr (form::is_half) {
        const byte* from = constants;
        if constexpr (stream_type::group_bytes != 4 || !form::has_offset) {
          for (int r = 0; r < block_rows; ++r) pairs[r] = pair_at(constants + r * stream_type::group_bytes);
          from = reinterpret_cast<const byte*>(pairs);
        }
        kernels.load_constants({from, 1, form::middle, to_scale, to_middle});
      } else {
        for (int r = 0; r < block_rows; ++r) {
          const quant::grid_constants k = form::codec::constants_of::load(constants + r * stream_type::group_bytes);
          to_scale[r] = k.scale;
          to_middle[r] = __builtin_fmaf(k.scale, form::middle, k.offset);
        }
      }
    }
  }

  void load_channel_constants(const kernel_table& kernels, const stream_rows<Spec, First>& at, int64 t) const {
    const byte* segment = at.segment_of(t);
    for (int c = width; c < round_up(width, 16); ++c) scale[c] = middle[c] = 0;
    if (segment == nullptr) {
      for (int c = 0; c < width; ++c) scale[c] = middle[c] = 0;
      return;
    }
    const int in_page = static_cast<int>(t % stream_type::tokens_per_page);
    const byte* constants = segment + stream_type::codes_bytes +
                            static_cast<int64>(in_page / stream_type::tokens_per_group) * stream_type::group_bytes;
    if constexpr (form::is_half && width % block_rows == 0) {
      alignas(64) uint32 pairs[width];
      const byte* from = constants;
      if constexpr (!form::has_offset) {
        for (int c = 0; c < width; ++c) pairs[c] = pair_at(constants + c * form::constants_bytes);
        from = reinterpret_cast<const byte*>(pairs);
      }
      kernels.load_constants({from, width / block_rows, form::middle, scale, middle});
    } else {
      for (int c = 0; c < width; ++c) {
        const quant::grid_constants k = form::codec::constants_of::load(constants + c * form::constants_bytes);
        scale[c] = k.scale;
        middle[c] = __builtin_fmaf(k.scale, form::middle, k.offset);
      }
    }
  }
};

/// The sums' side of such a stream: weights of all queries, group by group. Constants belong to rows.
template <class Spec, bool First>
struct packed_sums {
  using rows_type = packed_rows<Spec, First>;
  static constexpr int groups = rows_type::groups;
  static constexpr int spare_channels = round_up(rows_type::bytes_of(0), 32) * rows_type::fields;

  static constexpr int64 scratch_bytes(int64 queries) {
    return round_up<int64>(queries * (code_tile_rows + static_cast<int64>(sizeof(weight_group)) + 4 * groups), 64) +
           round_up<int64>(queries * spare_channels * 4, 64);
  }

  uint8* w8;              ///< [queries][code_tile_rows]
  weight_group* weights;  ///< [queries]
  float* middles;         ///< [queries][groups]: what the middles of the levels add to the sums
  float* spare;           ///< [queries][spare_channels], of groups that do not fill chunks

  byte* carve(byte* at, int64 queries) {
    weights = reinterpret_cast<weight_group*>(at);
    middles = reinterpret_cast<float*>(weights + queries);
    w8 = reinterpret_cast<uint8*>(middles + queries * groups);
    spare = reinterpret_cast<float*>(at + round_up<int64>(queries * (code_tile_rows + 8 + 4 * groups), 64));
    return at + scratch_bytes(queries);
  }

  /// o[queries][o_pitch] and the middles of queries [0, queries) += p[queries][p_pitch] times the tile's rows.
  void add(const kernel_table& kernels, const rows_type& rows, int blocks, const float* p, int queries, int64 p_pitch,
           const uint8* mask, int64 mask_pitch, int query_group, float* o, int64 o_pitch, byte* buffer) const {
    for (int g = 0; g < groups; ++g) {
      kernels.quantize_weights({p, p_pitch, queries, blocks, mask, mask_pitch, query_group,
                                rows.scale + g * code_tile_rows, rows.middle + g * code_tile_rows, w8, code_tile_rows,
                                weights, rows_type::form::centre, middles + g, groups});
      sum_codes_call c{rows.rows,
                       blocks,
                       rows_type::offset_of(g),
                       rows_type::bytes_of(g),
                       w8,
                       code_tile_rows,
                       weights,
                       queries,
                       o + g * rows_type::group,
                       o_pitch,
                       buffer};
      if (rows_type::is_whole(g)) {
        kernels.sum_codes[rows_type::field_index](c);
        continue;
      }
      for (int64 i = 0; i < queries * static_cast<int64>(spare_channels); ++i) spare[i] = 0;
      c.o = spare;
      c.o_pitch = spare_channels;
      kernels.sum_codes[rows_type::field_index](c);
      for (int i = 0; i < queries; ++i) {
        float* to = o + i * o_pitch + g * rows_type::group;
        for (int n = 0; n < rows_type::channels_of(g); ++n) to[n] += spare[i * spare_channels + n];
      }
    }
  }

  void clear(int query) const {
    for (int g = 0; g < groups; ++g) middles[query * groups + g] = 0;
  }
  void rescale(int query, float factor) const {
    for (int g = 0; g < groups; ++g) middles[query * groups + g] *= factor;
  }
  /// Puts the middles into the sums.
  void finish(int query, float* o) const {
    for (int g = 0; g < groups; ++g) {
      for (int c = 0; c < rows_type::channels_of(g); ++c) o[g * rows_type::group + c] += middles[query * groups + g];
    }
  }
};

}  // namespace kvc::inline v0_1::host::detail
