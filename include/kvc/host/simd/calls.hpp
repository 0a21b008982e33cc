// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/attention/state.hpp"
#include "kvc/core/dtype.hpp"
#include "kvc/quant/concept.hpp"

// What the kernels of host/simd take: plain data, the same for all compositions and instruction sets. Rows of a tile
// come in blocks of 16, in the order of the sequence; rows of a block lie `pitch` bytes apart.

namespace kvc::inline v0_1::host::detail {

inline constexpr int block_rows = 16;
inline constexpr int tile_blocks = 8;
inline constexpr int code_tile_rows = block_rows * tile_blocks;

/// A sum of codes that is whole as a float; what NaN made of it matters no more.
inline int32 whole_number(float x) {
  return x > -1e9f && x < 1e9f ? static_cast<int32>(x) : 0;
}

/// Packed rows of a tile.
struct code_tile {
  const byte* block[tile_blocks];
  int64 pitch;
};

/// One query's group of channels in 8 bits: q = scale x q8.
struct query_group {
  float scale;
  float sum;    ///< of the query's channels, in fp32
  int32 start;  ///< -centre x the sum of q8
};

/// One query's weights of a group in 8 bits: p x scale of the row = scale x w8.
struct weight_group {
  float scale;
  int32 start;  ///< -centre x the sum of w8
};

struct score_codes_call {
  code_tile rows;
  int blocks;
  int offset;      ///< bytes from a row's begin to the group
  int words;       ///< of q8: 4 channels each, in the order of the packed words: see store_query
  const int8* q8;  ///< [queries][q8_pitch]
  int64 q8_pitch;
  const query_group* group;  ///< [queries], group_pitch apart
  int64 group_pitch;
  int queries;
  const float* scale;   ///< [16 blocks]
  const float* middle;  ///< [16 blocks]
  float* scores;        ///< [queries][score_pitch]
  int64 score_pitch;
  byte* buffer;  ///< 64 x blocks x words, rounded up to whole chunks of 32 bytes of codes
};

struct sum_codes_call {
  code_tile rows;
  int blocks;
  int offset;
  int bytes;        ///< of the group in a row
  const uint8* w8;  ///< [queries][w8_pitch]
  int64 w8_pitch;
  const weight_group* group;  ///< [queries]
  int queries;
  float* o;  ///< [queries][o_pitch], room for whole chunks of 32 bytes of codes
  int64 o_pitch;
  byte* buffer;  ///< 2 x blocks x 16 x 64
};

/// Rows to be encoded as integers with constants in fp16 per row and group (quant/integer.hpp).
struct encode_call {
  const float* const* x;   ///< [rows], each [width]
  byte* const* codes;      ///< [rows], each [width bits / 8]
  byte* const* constants;  ///< [rows], each [groups]{scale, and offset if affine}
  int rows;
  int width;
  int group;  ///< channels, a multiple of 16 that divides the width
  int bits;
  quant::grid grid;
};

/// 16 codes of any number of bits, packed.
inline void pack_16(const uint8* codes, int bits, byte* packed) {
  for (int half = 0; half < 2; ++half) {
    uint64 word = 0;
    for (int i = 0; i < 8; ++i) word |= static_cast<uint64>(codes[8 * half + i]) << (bits * i);
    __builtin_memcpy(packed + half * bits, &word, static_cast<size_type>(bits));
  }
}

struct constants_call {
  const byte* pairs;  ///< [16 blocks]{scale, offset} in fp16
  int blocks;
  float centre;  ///< middle = offset + centre x scale
  float* scale;
  float* middle;
};

struct quantize_query_call {
  const float* q;  ///< [queries][q_pitch], [channels] of each, zero beyond the group's
  int queries;
  int64 q_pitch;
  int channels;         ///< a multiple of 16
  const float* scale;   ///< [channels] or null: of keys that are scaled per channel
  const float* middle;  ///< [channels] or null: 1
  int centre;           ///< taken off every code, so that what rounding loses is not multiplied by their mean
  int8* q8;             ///< [queries][q8_pitch], in the order of the packed words
  int64 q8_pitch;
  query_group* group;  ///< [queries], group_pitch apart
  int64 group_pitch;
};

struct softmax_call {
  float* scores;  ///< [queries][score_pitch], in and out
  int64 score_pitch;
  int queries;
  int blocks;
  const uint8* mask;  ///< [queries / group][mask_pitch], 255 where a row is seen, else 0; null: all are
  int64 mask_pitch;
  int group;               ///< queries that share a mask
  const float* constants;  ///< [queries]
  float scale;
  float cap;              ///< 0: none
  softmax_state* states;  ///< [queries], in and out
  float* factors;         ///< [queries], out: for what was summed before
};

struct quantize_weights_call {
  const float* p;  ///< [queries][p_pitch]
  int64 p_pitch;
  int queries;
  int blocks;
  const uint8* mask;  ///< as in softmax_call
  int64 mask_pitch;
  int query_group;
  const float* scale;   ///< [16 blocks]
  const float* middle;  ///< [16 blocks]
  uint8* w8;            ///< [queries][w8_pitch], out
  int64 w8_pitch;
  weight_group* group;  ///< [queries], out
  int centre;
  float* middles;  ///< [queries], middle_pitch apart: added to
  int64 middle_pitch;
};

struct score_tile_call {
  const float* q;  ///< [queries][q_pitch]
  int queries;
  int64 q_pitch;
  const float* rows;  ///< [row_count][row_pitch]
  int row_count;
  int64 row_pitch;
  int width;      ///< a multiple of 16
  float* scores;  ///< [queries][score_pitch]
  int64 score_pitch;
};

struct sum_tile_call {
  const float* weights;  ///< [queries][weight_pitch]
  int queries;
  int64 weight_pitch;
  const float* rows;  ///< [row_count][row_pitch]
  int row_count;
  int64 row_pitch;
  int width;  ///< a multiple of 16
  float* o;   ///< [queries][o_pitch]
  int64 o_pitch;
};

/// One instruction set's kernels; [..] by fields per byte: 1, 2, 4, or by whether scores are added to.
struct kernel_table {
  void (*score_codes[3])(const score_codes_call&);
  void (*sum_codes[3])(const sum_codes_call&);
  void (*quantize_query[3])(const quantize_query_call&);
  void (*load_constants)(const constants_call&);
  void (*encode)(const encode_call&);
  void (*quantize_weights)(const quantize_weights_call&);
  void (*softmax)(const softmax_call&);
  void (*score_tile[2])(const score_tile_call&);
  void (*sum_tile)(const sum_tile_call&);
  void (*rescale)(float* o, int count, float factor);
};

}  // namespace kvc::inline v0_1::host::detail
