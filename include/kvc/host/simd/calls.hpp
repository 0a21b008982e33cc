// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/attention/state.hpp"
#include "kvc/core/dtype.hpp"
#include "kvc/core/view.hpp"
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
  const byte* next[tile_blocks];  ///< rows that will be needed after these, or null
  int64 pitch;
};

/// One query's group of channels in 8 bits: q = scale x q8.
struct query_group {
  float scale;
  float sum;    ///< of the query's channels, in fp32
  int32 start;  ///< -centre x the sum of q8
};

/// Weights of one query in 8 bits, for up to 8 groups: p x scale of the row = scale x w8.
struct weight_groups {
  float scale[8];
  int32 start[8];  ///< -centre x the sum of w8
};

/// Weights of several groups stand together, with room for 1, 2, 4 or 8.
constexpr int room_for(int parts) {
  return parts <= 2 ? parts : (parts <= 4 ? 4 : 8);
}

/// Queries that a pass over a tile of codes serves, of those that are left.
constexpr int query_block(int left) {
  return left > 8 ? 16 : (left > 1 ? 4 : 1);
}

struct score_codes_call {
  code_tile rows;
  int blocks;
  int fields;  ///< per byte
  int groups;
  int group_bytes;           ///< of codes, in a row
  int last_bytes;            ///< of the last group, which may be shorter
  const int8* q8;            ///< per block of Q queries, q8_pitch x Q apart: [groups][words][Q][4]
  int64 q8_pitch;            ///< groups x words x 4
  const query_group* group;  ///< [queries][groups]
  int queries;
  const float* scale;     ///< [groups][constants_pitch], of 16 blocks
  const float* middle;    ///< the same
  int64 constants_pitch;  ///< floats
  float* scores;          ///< [queries][score_pitch]
  int64 score_pitch;
};

/// 4 bytes of codes are one word per field.
constexpr int words_of_group(int group_bytes, int fields) {
  return (group_bytes + 3) / 4 * fields;
}

/// A chunk of rows: up to 64 bytes of a row in a vector, or up to 32 bytes of two rows that lie four apart.
struct sum_codes_call {
  code_tile rows;
  int blocks;
  int row_bytes;
  int offset;  ///< bytes from a row's begin to the chunk
  int bytes;
  int fields;       ///< per byte
  int sets;         ///< of four rows in a vector: 1 or 2
  const uint8* w8;  ///< [queries][w8_pitch]: [rows / 4][parts][4]
  int64 w8_pitch;
  int parts;                   ///< groups in the chunk, rounded up to 1, 2, 4 or 8
  const int32 (*lanes)[16];    ///< which of sets x parts words of weights lanes take: vectors 0 and 1, then 2 and 3
  const weight_groups* group;  ///< [queries]
  int queries;
  float* o;  ///< [queries][o_pitch]: [fields][4][16], in the order of load_interleaved
  int64 o_pitch;
  byte* buffer;  ///< 1024 bytes per block
};

/// Rows to be encoded as integers with constants in fp16 per row and group (quant/integer.hpp).
struct encode_call {
  const float* const* x;     ///< [rows], each [width]
  const byte* const* ahead;  ///< [rows]: what is needed next, as many bytes, or null
  byte* const* codes;        ///< [rows], each [width bits / 8]
  byte* const* constants;    ///< [rows], each [groups]{scale, and offset if affine}
  int rows;
  int width;
  int group;  ///< channels, a multiple of 16 that divides the width
  int bits;
  quant::grid grid;
};

/// x = signs from, then H x / sqrt(block) in blocks (quant/rotated.hpp).
struct rotate_call {
  const float* from;   ///< [width], may be x
  float* x;            ///< [width]
  const float* signs;  ///< [width]
  int width;
  int block;  ///< a power of two, at least 16, that divides the width
  float scale;
};

/// 16 codes of any number of bits, packed.
inline void pack_16(const uint8* codes, int bits, byte* packed) {
  for (int half = 0; half < 2; ++half) {
    uint64 word = 0;
    for (int i = 0; i < 8; ++i) word |= static_cast<uint64>(codes[8 * half + i]) << (bits * i);
    __builtin_memcpy(packed + half * bits, &word, static_cast<size_type>(bits));
  }
}

/// Lane i of 16 channels, in the order of the packed words: a word's byte b and field f is its channel b Fields + f,
/// and the four channels of a field stand together.
template <int Fields>
constexpr int query_lane(int i) {
  const int in_word = i % (4 * Fields);
  return i - in_word + in_word % Fields * 4 + in_word / Fields;
}

/// Lane i of pack_words, of 4 parts or of 4 / Parts blocks of 16 rows, in [rows / 4][Parts][4]; of 8 parts, half of it.
template <int Parts>
constexpr int weight_lane(int i) {
  return Parts >= 4 ? i / 4 * Parts + i % 4 : i % 4 / Parts * 4 * Parts + i / 4 * Parts + i % Parts;
}

/// to[Place(i)] = words[i], of 16.
template <int (*Place)(int)>
__attribute__((always_inline)) inline void scatter_words(const int32* words, void* to) {
  for (int i = 0; i < 16; ++i) __builtin_memcpy(static_cast<byte*>(to) + 4 * Place(i), words + i, 4);
}

/// Constants in fp16. Of several groups, the 32 bytes before the pairs are readable.
struct constants_call {
  const byte* pairs;  ///< of one group [16 blocks]{scale, offset}, of several [16][groups]{scale, offset}
  int blocks;
  int groups;
  float centre;   ///< middle = offset + centre x scale
  float* scale;   ///< [groups][pitch]
  float* middle;  ///< the same
  int64 pitch;
};

/// Up to 16 queries, a block of them or its begin.
struct quantize_query_call {
  const float* q;  ///< [queries][q_pitch], [channels] of each, zero beyond the group's
  int queries;
  int64 q_pitch;
  int channels;         ///< a multiple of 16
  const float* scale;   ///< [channels] or null: of keys that are scaled per channel
  const float* middle;  ///< [channels] or null: 1
  int centre;           ///< taken off every code, so that what rounding loses is not multiplied by their mean
  int8* q8;             ///< [words][block][4], in the order of the packed words, written in fours of words
  int block;            ///< of queries: those that are not there get zeros
  query_group* group;   ///< [queries], group_pitch apart
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
  const float* scale;   ///< [parts][constants_pitch]
  const float* middle;  ///< the same
  int64 constants_pitch;
  uint8* w8;  ///< [queries][w8_pitch], out: [rows / 4][room for parts][4]
  int64 w8_pitch;
  int parts;
  int sets;              ///< scales are stored for each, starts for the first
  weight_groups* group;  ///< [queries], out
  int centre;
  float* middles;  ///< [queries][parts], queries middle_pitch apart: added to
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
  void (*begin)();  ///< before a thread attends, and after it has: kernel_scope
  void (*end)();
  void (*score_codes)(const score_codes_call&);
  void (*sum_codes)(const sum_codes_call&);
  void (*quantize_query[3])(const quantize_query_call&);
  void (*load_constants)(const constants_call&);
  void (*encode)(const encode_call&);
  void (*rotate)(const rotate_call&);
  void (*quantize_weights)(const quantize_weights_call&);
  void (*softmax)(const softmax_call&);
  void (*score_tile[2])(const score_tile_call&);
  void (*sum_tile)(const sum_tile_call&);
  void (*rescale)(float* o, int count, float factor);
};

inline void nothing_to_begin() {}

/// A thread may call all of a table's kernels while this lives; without it, those of append.
class kernel_scope {
 public:
  explicit kernel_scope(const kernel_table& t) : end_(t.end) { t.begin(); }
  ~kernel_scope() { end_(); }
  kernel_scope(const kernel_scope&) = delete;
  kernel_scope& operator=(const kernel_scope&) = delete;

 private:
  void (*end_)();
};

}  // namespace kvc::inline v0_1::host::detail
