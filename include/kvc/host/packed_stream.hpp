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

  static constexpr int channels_of(int g) { return min_of(group, width - g * group); }
  static constexpr int bytes_of(int g) { return channels_of(g) / fields; }
  static constexpr int offset_of(int g) { return g * group / fields; }
  static constexpr int query_pitch = groups * words_of_group(bytes_of(0), fields) * 4;  ///< bytes of q8

  /// Bytes of scratch, for `queries` queries.
  static constexpr int64 scratch_bytes(int64 queries) {
    return round_up<int64>(queries * groups * static_cast<int64>(sizeof(query_group)), 64) +
           round_up<int64>((queries + 16) * query_pitch + 256, 64) + round_up<int64>(2 * 4 * constants_count, 64) +
           round_up<int64>(is_expanded ? code_tile_rows * width + 64 : 0, 64);
  }

  query_group* q8_groups;  ///< [queries][groups]
  int8* q8;                ///< as score_codes takes it
  float* scale;            ///< [groups][code_tile_rows]; per channel: [width]
  float* middle;           ///< the same
  byte* expanded;          ///< [code_tile_rows][width], of 3 bits
  code_tile rows;

  byte* carve(byte* at, int64 queries) {
    const auto take = [&at](int64 bytes) {
      byte* p = at;
      at += round_up<int64>(bytes, 64);
      return p;
    };
    q8_groups = reinterpret_cast<query_group*>(take(queries * groups * static_cast<int64>(sizeof(query_group))));
    q8 = reinterpret_cast<int8*>(take((queries + 16) * query_pitch + 256));
    scale = reinterpret_cast<float*>(take(2 * 4 * constants_count));
    middle = scale + constants_count;
    expanded = take(is_expanded ? code_tile_rows * width + 64 : 0);
    return at;
  }

  /// Queries of one item in 8 bits; q: [count][pitch], zero beyond the width. Keys per channel: see score.
  void quantize(const kernel_table& kernels, const float* q, int count, int64 pitch) const {
    if constexpr (!form::is_per_channel) quantize_with(kernels, q, count, pitch, nullptr, nullptr);
  }

  /// Finds the rows [tile, tile + 16 blocks) and their constants, and the rows below `end` that follow.
  void load(const kernel_table& kernels, const stream_rows<Spec, First>& at, int64 tile, int blocks, int64 end) {
    static constexpr byte blank[block_rows * stream_type::row_bytes + 32] = {};
    rows.pitch = row_bytes;
    for (int b = 0; b < blocks; ++b) {
      const int64 t = tile + b * block_rows;
      const byte* segment = at.segment_of(t);
      const int in_page = static_cast<int>(t % stream_type::tokens_per_page);
      // A page that was freed is not seen.
      const byte* codes = segment == nullptr ? blank : segment + in_page * stream_type::row_bytes;
      rows.next[b] = t + code_tile_rows < end ? rows_ahead(at, t + code_tile_rows) : nullptr;
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
             int queries, int64 q_pitch, float* s, int64 pitch) const {
    score_codes_call c{rows,        blocks,    fields,  groups, bytes_of(0), bytes_of(groups - 1), q8,
                       query_pitch, q8_groups, queries, scale,  middle,      code_tile_rows,       s,
                       pitch};
    if constexpr (!form::is_per_channel) {
      kernels.score_codes(c);
    } else {
      // The scales belong to channels: they are multiplied into the queries, once per group of tokens.
      alignas(64) static constexpr ones one{};
      constexpr int per_group = stream_type::tokens_per_group / block_rows;
      c.scale = c.middle = one.value;
      for (int b = 0; b < blocks; b += c.blocks) {
        const int64 t = tile + b * block_rows;
        const int in_group = static_cast<int>(t % stream_type::tokens_per_group) / block_rows;
        c.blocks = min_of(per_group - in_group, blocks - b);
        load_channel_constants(kernels, at, t);
        quantize_with(kernels, q, queries, q_pitch, scale, middle);
        for (int i = 0; i < c.blocks; ++i) {
          c.rows.block[i] = rows.block[b + i];
          c.rows.next[i] = rows.next[b + i];
        }
        c.scores = s + b * block_rows;
        kernels.score_codes(c);
      }
    }
  }

 private:
  static constexpr int constants_count = form::is_per_channel ? width + 16 : groups * code_tile_rows;

  void quantize_with(const kernel_table& kernels, const float* q, int count, int64 pitch, const float* channel_scale,
                     const float* channel_middle) const {
    for (int begin = 0; begin < count;) {
      const int block = query_block(count - begin);
      const int n = min_of(block, count - begin);
      for (int g = 0; g < groups; ++g) {
        const int channels = channels_of(g);
        quantize_query_call c{q + begin * pitch + g * group,
                              n,
                              pitch,
                              round_up(channels, 16),
                              channel_scale,
                              channel_middle,
                              form::centre,
                              q8 + begin * query_pitch + g * words_of_group(bytes_of(0), fields) * 4 * block,
                              block,
                              q8_groups + begin * groups + g,
                              groups};
        alignas(64) float padded[16][round_up(group, 16)];
        if (channels % 16 != 0 && groups > 1) {  // what follows is not zero
          for (int i = 0; i < n; ++i) {
            for (int d = 0; d < c.channels; ++d) padded[i][d] = d < channels ? c.q[i * pitch + d] : 0.0f;
          }
          c.q = padded[0];
          c.q_pitch = round_up(group, 16);
        }
        kernels.quantize_query[field_index](c);
      }
      begin += block;
    }
  }

  struct ones {
    float value[code_tile_rows];
    constexpr ones() : value() {
      for (float& x : value) x = 1;
    }
  };

  /// The rows from t on, for kernels to ask for; their constants are asked for here.
  static const byte* rows_ahead(const stream_rows<Spec, First>& at, int64 t) {
    const byte* segment = at.segment_of(t);
    if (segment == nullptr) return nullptr;
    const int64 in_page = t % stream_type::tokens_per_page;
    const byte* constants =
        segment + stream_type::codes_bytes + in_page / stream_type::tokens_per_group * stream_type::group_bytes;
    constexpr int bytes = ceil_div(block_rows, stream_type::tokens_per_group) * stream_type::group_bytes;
    prefetch_bytes<2>(constants, bytes);
    const byte* codes = segment + in_page * stream_type::row_bytes;
    if constexpr (is_expanded) {
      prefetch_bytes<2>(codes, block_rows * stream_type::row_bytes);
      return nullptr;
    } else {
      return codes;
    }
  }

  static uint32 pair_at(const byte* at) {
    uint32 pair = 0;
    __builtin_memcpy(&pair, at, form::has_offset ? 4 : 2);
    return pair;
  }

  void load_row_constants(const kernel_table& kernels, const byte* segment, int in_page, int block) const {
    float* to_scale = scale + block * block_rows;
    float* to_middle = middle + block * block_rows;
    if (segment == nullptr) {
      for (int g = 0; g < groups; ++g) {
        for (int r = 0; r < block_rows; ++r) {
          to_scale[g * code_tile_rows + r] = to_middle[g * code_tile_rows + r] = 0;
        }
      }
      return;
    }
    const byte* constants = segment + stream_type::codes_bytes + in_page * stream_type::group_bytes;
    if constexpr (form::is_half && form::has_offset) {
      kernels.load_constants({constants, 1, groups, form::middle, to_scale, to_middle, code_tile_rows});
    } else {
      alignas(64) uint32 pairs[block_rows];
      for (int g = 0; g < groups; ++g) {
        for (int r = 0; r < block_rows; ++r) {
          const byte* at = constants + r * stream_type::group_bytes + g * form::constants_bytes;
          if constexpr (form::is_half) {
            pairs[r] = pair_at(at);
          } else {
            const quant::grid_constants k = form::codec::constants_of::load(at);
            to_scale[g * code_tile_rows + r] = k.scale;
            to_middle[g * code_tile_rows + r] = __builtin_fmaf(k.scale, form::middle, k.offset);
          }
        }
        if constexpr (form::is_half) {
          kernels.load_constants({reinterpret_cast<const byte*>(pairs), 1, 1, form::middle,
                                  to_scale + g * code_tile_rows, to_middle + g * code_tile_rows, 0});
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
      kernels.load_constants({from, width / block_rows, 1, form::middle, scale, middle, 0});
    } else {
      for (int c = 0; c < width; ++c) {
        const quant::grid_constants k = form::codec::constants_of::load(constants + c * form::constants_bytes);
        scale[c] = k.scale;
        middle[c] = __builtin_fmaf(k.scale, form::middle, k.offset);
      }
    }
  }
};

/// A piece of a packed row that sums take at once, of up to 64 bytes: of one group, or of several that are short.
struct sum_chunk {
  int offset;  ///< bytes from the row's begin
  int bytes;
  int sets;     ///< rows of 32 bytes and less are taken in pairs: see sum_codes_call
  int group;    ///< the first one
  int parts;    ///< groups
  int channel;  ///< the first one
  int32 lanes[2][16];
};

template <class Rows>
struct sum_chunks {
  static constexpr int group_bytes = Rows::bytes_of(0);
  static constexpr bool joins_groups =
      (group_bytes == 8 || group_bytes == 16 || group_bytes == 32) && Rows::width % Rows::group == 0;
  sum_chunk chunk[joins_groups ? (Rows::width / Rows::fields + 63) / 64 : Rows::groups * ((group_bytes + 63) / 64)];
  int count = 0;
  int most_parts = 1;

  constexpr sum_chunks() : chunk() {
    constexpr int span = joins_groups ? Rows::width / Rows::fields : group_bytes;
    for (int begin = 0; begin < Rows::width / Rows::fields; begin += span) {
      const int end = min_of(begin + span, Rows::width / Rows::fields);
      for (int at = begin; at < end; at += 64) {
        sum_chunk& c = chunk[count++];
        c.offset = at;
        c.bytes = min_of(64, end - at);
        c.sets = c.bytes <= 32 ? 2 : 1;
        c.group = at / group_bytes;
        c.parts = joins_groups ? c.bytes / group_bytes : 1;
        c.channel = at * Rows::fields;
        most_parts = max_of(most_parts, room_for(c.parts));
        for (int i = 0; i < 32; ++i) {
          const int quarter = i % 16 / 4;  // of a vector: 16 bytes of four rows
          const int in_row = quarter % (4 / c.sets) * 16 + i / 16 * 8;
          const int part = c.parts == 1 ? 0 : min_of(in_row / group_bytes, c.parts - 1);
          c.lanes[i / 16][i % 16] = quarter / (4 / c.sets) * room_for(c.parts) + part;
        }
      }
    }
  }
};

/// The sums' side of such a stream: weights of all queries, group by group. Constants belong to rows.
template <class Spec, bool First>
struct packed_sums {
  using rows_type = packed_rows<Spec, First>;
  static constexpr int groups = rows_type::groups;
  static constexpr int fields = rows_type::fields;
  static constexpr sum_chunks<rows_type> chunks{};
  static constexpr int w8_pitch = code_tile_rows * chunks.most_parts;
  static constexpr int code_sums = chunks.count * fields * 64;
  /// Floats of a query's sums: [chunks][fields][4][16] in the order of the codes, then what the middles of the levels
  /// add to each group.
  static constexpr int pitch = code_sums + round_up(groups, 16);

  static constexpr int64 scratch_bytes(int64 queries) {
    return round_up<int64>(queries * w8_pitch + 32, 64) +
           round_up<int64>(queries * static_cast<int64>(sizeof(weight_groups)), 64);
  }

  uint8* w8;               ///< [queries][w8_pitch]
  weight_groups* weights;  ///< [queries]

  byte* carve(byte* at, int64 queries) {
    w8 = at;
    at += round_up<int64>(queries * w8_pitch + 32, 64);
    weights = reinterpret_cast<weight_groups*>(at);
    return at + round_up<int64>(queries * static_cast<int64>(sizeof(weight_groups)), 64);
  }

  /// o[queries][o_pitch] += p[queries][p_pitch] times the tile's rows.
  void add(const kernel_table& kernels, const rows_type& rows, int blocks, const float* p, int queries, int64 p_pitch,
           const uint8* mask, int64 mask_pitch, int query_group, float* o, int64 o_pitch, byte* buffer) const {
    code_tile tile = rows.rows;
    if constexpr (Spec::is_latent) {  // their scores asked for what comes next
      for (const byte*& next : tile.next) next = nullptr;
    }
    for (int i = 0; i < chunks.count; ++i) {
      const sum_chunk& chunk = chunks.chunk[i];
      const int g = chunk.group;
      if (i == 0 || chunks.chunk[i - 1].group != g) {  // a long group has several chunks
        kernels.quantize_weights({p, p_pitch, queries, blocks, mask, mask_pitch, query_group,
                                  rows.scale + g * code_tile_rows, rows.middle + g * code_tile_rows, code_tile_rows, w8,
                                  w8_pitch, chunk.parts, chunk.sets, weights, rows_type::form::centre,
                                  o + code_sums + g, o_pitch});
      }
      kernels.sum_codes({tile, blocks, rows_type::row_bytes, chunk.offset, chunk.bytes, fields, chunk.sets, w8,
                         w8_pitch, room_for(chunk.parts), chunk.lanes, weights, queries, o + i * fields * 64, o_pitch,
                         buffer});
    }
  }

  /// Adds a query's sums to o, in the order of the channels.
  static void finish(const float* from, float* o) {
    for (int g = 0; g < groups; ++g) {
      for (int c = 0; c < rows_type::channels_of(g); ++c) o[g * rows_type::group + c] += from[code_sums + g];
    }
    for (const sum_chunk& c : chunks.chunk) {
      float* to = o + c.channel;
      for (int b = 0; b < c.bytes; ++b) {
        const int lane = b / 16 * 4 + b % 4;
        const float* at = from + b % 16 / 4 * 16 + lane;
        for (int f = 0; f < fields; ++f) to[b * fields + f] += c.sets == 1 ? at[f * 64] : at[f * 64] + at[f * 64 + 8];
      }
      from += fields * 64;
    }
  }
};

}  // namespace kvc::inline v0_1::host::detail
