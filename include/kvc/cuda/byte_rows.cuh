// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <type_traits>

#include "kvc/attention/mask.hpp"
#include "kvc/cache/rows.hpp"
#include "kvc/cuda/attend_spans.cuh"
#include "kvc/cuda/row_copy.cuh"
#include "kvc/cuda/team.cuh"
#include "kvc/quant/quant.hpp"

// Rows in codes of 4 bits, and rotary keys in more, for products of bytes: from pages to shared memory, codes as they
// lie, constants as floats.

namespace kvc::inline v0_1::cuda::detail {

/// A stream of codes per token, in Bits: value = scale code + offset.
template <int Bits, class Codec, int Width>
struct code_rows {
  static constexpr bool exists = false;
};

template <int Bits, int Group, quant::grid Grid, quant::scale_type Type, int Width>
requires(Width % 32 == 0 &&
         (Group >= Width ||
          Group % 32 == 0)) struct code_rows<Bits, quant::integer<Bits, Group, Grid, quant::per_token, Type>, Width> {
  using codec = quant::integer<Bits, Group, Grid, quant::per_token, Type>;
  static constexpr bool exists = true;
  static constexpr int bits = Bits;
  static constexpr int chunks = Width / 32;          ///< of 32 channels: the depth of a product
  static constexpr int chunk_bytes = 32 * Bits / 8;  ///< of a row
  static constexpr int groups = codec::template groups<Width>;
  static constexpr int group_chunks = codec::template group_length<Width> / 32;
  static constexpr int row_bytes = Width * Bits / 8;
  static constexpr int constant_bytes = codec::constants_of::bytes;
  static constexpr int group_bytes = groups * constant_bytes;
  static constexpr int middle = 1 << (Bits - 1);  ///< the code that scores count from
  static constexpr int top = (1 << Bits) - 1;

  KVC_HD static constexpr int group_begin(int g) { return g * group_chunks; }
  KVC_HD static constexpr int group_end(int g) { return min_of((g + 1) * group_chunks, chunks); }

  /// {scale, offset} of a row's groups.
  __device__ static void constants(const byte* at, float2 (&k)[groups]) {
    constexpr int align = min_of(16, group_bytes & -group_bytes);
    alignas(16) byte raw[group_bytes];
    __builtin_memcpy(raw, __builtin_assume_aligned(at, align), group_bytes);
#pragma unroll
    for (int g = 0; g < groups; ++g) {
      const quant::grid_constants c = codec::constants_of::load(raw + g * constant_bytes);
      constexpr float zero = Grid == quant::midrise ? middle - 0.5f : middle;  // where grids without an offset have it
      k[g] = make_float2(c.scale, Grid == quant::affine ? c.offset : -zero * c.scale);
    }
  }
};

/// A stream of bf16 without constants: a product takes 16 channels.
template <class Codec, int Width>
struct half_rows {
  static constexpr bool exists = false;
};

template <int Width>
requires(Width % 32 == 0) struct half_rows<quant::none<bf16>, Width> {
  static constexpr bool exists = true;
  static constexpr int bits = 16;
  static constexpr int chunks = Width / 16;  ///< of 16 channels
  static constexpr int chunk_bytes = 32;
  static constexpr int groups = 0;
  static constexpr int group_chunks = 0;
  static constexpr int row_bytes = Width * 2;
  static constexpr int group_bytes = 0;
  static constexpr int top = 0;

  KVC_HD static constexpr int group_begin(int) { return 0; }
  KVC_HD static constexpr int group_end(int) { return 0; }
};

/// Sizes of a block that attends over a latent in 4-bit codes and its rotary key in codes of 4 or 8 bits, or bf16.
template <class Spec>
struct byte_shape {
  using first = typename Spec::first_stream;
  using second = typename Spec::second_stream;
  using latent = code_rows<4, typename first::codec, first::width>;
  using key_nibbles = code_rows<4, typename second::codec, second::width>;
  using key_bytes = code_rows<8, typename second::codec, second::width>;
  using key_halves = half_rows<typename second::codec, second::width>;
  using key = std::conditional_t<key_nibbles::exists, key_nibbles,
                                 std::conditional_t<key_bytes::exists, key_bytes, key_halves>>;  ///< the rotary key
  /// Products of sums have 64 channels of one group. More groups would not fit into a thread's registers, wider rows
  /// not into shared memory.
  static constexpr bool fits = [] {
    if constexpr (latent::exists && key::exists) {
      return first::width % 64 == 0 && first::width <= 512 && latent::groups <= 4 &&
             (latent::groups == 1 || latent::group_chunks % 2 == 0) && second::width <= 64;
    }
    return false;
  }();
  static constexpr bool exists = Spec::is_latent && !Spec::has_tail && !first::is_deferred && fits;
};

/// How a team of warps takes tiles of Spec's rows into its memory. Each warp takes 16 rows, which lie in one page.
template <class Spec, int Warps, int Stages>
struct byte_tiles {
  using first = typename Spec::first_stream;
  using second = typename Spec::second_stream;
  using latent = typename byte_shape<Spec>::latent;
  using key = typename byte_shape<Spec>::key;
  static constexpr int warp_rows = 16;
  static constexpr int rows = warp_rows * Warps;  ///< of a tile
  static constexpr int per_page = first::tokens_per_page;
  static_assert(per_page % warp_rows == 0);

  // A stage: codes [rows][latent, rotary key], an odd number of 16-byte slots to a row, then constants.
  static constexpr int pitch = ((latent::row_bytes + key::row_bytes) / 16 | 1) * 16;
  static constexpr int latent_constants_at = rows * pitch;
  static constexpr int key_constants_at = latent_constants_at + rows * latent::group_bytes;
  static constexpr int stage_bytes = round_up(key_constants_at + rows * key::group_bytes, 16);
  static constexpr int bytes = Stages * stage_bytes;

  /// A tile on the walk over the spans.
  struct cursor {
    int span;
    int begin;
    tile_span range;
    int32 blocks;  ///< of the pages that have the warp's rows: lane l knows that of the tile l steps on
    int steps;     ///< since they were loaded

    __device__ bool is_end() const { return range.begin >= range.end; }
    __device__ bool is_whole() const { return range.begin <= begin && begin + rows <= range.end; }
    /// The warp's rows that exist, counted from its first.
    __device__ int low(int warp) const { return range.begin - begin - warp * warp_rows; }
    __device__ int high(int warp) const { return range.end - begin - warp * warp_rows; }
    __device__ bool has_rows(int warp) const { return low(warp) < warp_rows && high(warp) > 0; }
  };
  __device__ static cursor at_span(const tile_span* spans, int i) {
    const tile_span s = spans[i];
    return {i, s.begin / rows * rows, s, 0, 32};
  }
  /// Several tiles on.
  __device__ static void skip(const tile_span* spans, cursor& c, int tiles) {
    c.begin += tiles * rows;
    ++c.steps;
    while (c.begin >= c.range.end && !c.is_end()) {
      const int more = c.begin - round_up(c.range.end, rows);
      c = at_span(spans, c.span + 1);
      c.begin += more;
    }
  }
  /// The block of the warp's rows, for a walk that always skips so many tiles.
  __device__ static int32 find_block(cursor& c, int tiles, const step_view& step, int index, int warp, int lane) {
    if (c.steps >= 32) {
      const int t = c.begin + warp * warp_rows + lane * tiles * rows;
      c.blocks = t < c.range.end && t + warp_rows > c.range.begin ? step.block(index, t / per_page) : 0;
      c.steps = 0;
    }
    return __shfl_sync(~0u, c.blocks, c.steps);
  }

  using latent_copy = rows_copy<latent::row_bytes, pitch>;
  using key_copy = rows_copy<key::row_bytes, pitch>;
  using latent_constants_copy = rows_copy<latent::group_bytes, latent::group_bytes>;
  using key_constants_copy = rows_copy<key::group_bytes, key::group_bytes>;
  static constexpr int64 key_at = first::segment_bytes;  ///< of a page: a latent has one head

  /// Calls f(copy, from, to) for the codes and constants of both streams, of the rows from `row` of a tile on, which
  /// are those from `in_page` of a page on.
  template <class Function>
  __device__ static void for_each_copy(const byte* page, int in_page, byte* stage, int row, const Function& f) {
    f(latent_copy{}, page + in_page * latent::row_bytes, stage + row * pitch);
    f(key_copy{}, page + key_at + in_page * key::row_bytes, stage + row * pitch + latent::row_bytes);
    f(latent_constants_copy{}, page + first::codes_bytes + in_page * latent::group_bytes,
      stage + latent_constants_at + row * latent::group_bytes);
    if constexpr (key::group_bytes > 0) {
      f(key_constants_copy{}, page + key_at + second::codes_bytes + in_page * key::group_bytes,
        stage + key_constants_at + row * key::group_bytes);
    }
  }

  /// The copies of the warp's rows of a tile, which are asked for one after the other, between other work: the queue of
  /// copies is short, and a thread waits where it is full.
  struct copies {
    bool wanted;
    const byte* page;
    byte* stage;
    int in_page;  ///< of the first row
    int row;      ///< the same in the tile
    int lane;

    static constexpr int count = latent_copy::lane_pieces + key_copy::lane_pieces + latent_constants_copy::lane_pieces +
                                 key_constants_copy::lane_pieces;
    __device__ void ask(int i) const {
      int first_piece = 0;
      for_each_copy(page, in_page, stage, row, [&](auto copy, const byte* from, byte* to) {
        if (i >= first_piece && i < first_piece + copy.lane_pieces) copy.piece(wanted, i - first_piece, from, to, lane);
        first_piece += copy.lane_pieces;
      });
    }
  };
  /// Those of a tile whose rows all exist; others are asked for here.
  __device__ static copies prepare(cursor& c, int tiles, const cache_view<Spec>& view, const step_view& step, int index,
                                   int slot, byte* stage, int warp, int lane) {
    if (c.is_end() || !c.has_rows(warp)) return {};
    const int row = warp * warp_rows;
    const int in_page = (c.begin + row) % per_page;
    const byte* page = view.page(slot, find_block(c, tiles, step, index, warp, lane));
    if (c.is_whole()) return {true, page, stage, in_page, row, lane};
    const int low = c.low(warp);
    const int high = c.high(warp);
    for_each_copy(page, in_page, stage, row,
                  [&](auto copy, const byte* from, byte* to) { copy.some(low, high, from, to, lane); });
    return {};
  }
};

}  // namespace kvc::inline v0_1::cuda::detail
