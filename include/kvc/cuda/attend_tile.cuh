// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cache/rows.hpp"
#include "kvc/cuda/mma.cuh"

// From pages to shared memory: a tile of rows of one stream, first as it is stored (staged), then as bf16 (decoded).

namespace kvc::inline v0_1::cuda::detail {

inline constexpr int warps = 4;
inline constexpr int threads = 32 * warps;

/// Shared memory holds a bf16 row in slots of 8 channels. A thread decodes 16 channels at a time, chunk c, and puts the
/// halves into the slots c and c + Chunks, so that neighbouring threads write neighbouring slots. Rows are padded by
/// one slot: their stride is odd, and eight rows of a matrix lie in different banks.
template <int Chunks>
struct slots {
  KVC_HD static constexpr int channel(int slot) { return slot < Chunks ? 16 * slot : 16 * (slot - Chunks) + 8; }
};

/// Sizes of a tile of Rows rows of a stream.
template <class Stream, bool Scored, int Rows>
struct tile_shape {
  static constexpr bool expands = Scored && Stream::is_deferred;
  static constexpr int width = expands ? Stream::model_width : Stream::width;
  static constexpr int chunks = ceil_div(width, 16);
  static constexpr int pitch = 16 * chunks;  ///< channels in shared memory, zero beyond width
  static constexpr bool by_rows = expands || !quant::detail::has_decode_channels<typename Stream::codec, Stream::width>;

  static constexpr int groups = max_of(1, Rows / Stream::tokens_per_group);
  static constexpr int codes_bytes = Rows * Stream::row_bytes;
  static constexpr int stage_bytes = round_up(codes_bytes, 16) + round_up(groups * Stream::group_bytes, 16);
};

/// Alignment of everything that is staged of a stream, by pieces of so many rows; pages and stages begin at multiples
/// of 16.
template <class Spec, class Stream>
constexpr int copy_unit(int piece) {
  const int64 bits = Spec::first_stream::segment_bytes | Spec::second_stream::segment_bytes | Stream::codes_bytes |
                     piece * Stream::row_bytes | max_of(1, piece / Stream::tokens_per_group) * Stream::group_bytes | 16;
  return static_cast<int>(bits & -bits);
}

/// A tile of one stream, for a block of `threads` threads.
template <class Spec, bool First, bool Scored, int Rows, int Limbs>
struct device_tile {
  using stream_type = stream_of<Spec, First>;
  using codec = typename stream_type::codec;
  using shape = tile_shape<stream_type, Scored, Rows>;
  static constexpr int width = stream_type::width;
  static constexpr int per_page = stream_type::tokens_per_page;
  static constexpr int per_group = stream_type::tokens_per_group;
  static constexpr int group_bytes = stream_type::group_bytes;
  static constexpr int piece = min_of(Rows, per_page);  ///< rows that lie together in a page

  static constexpr int unit = copy_unit<Spec, stream_type>(piece);

  /// Starts copying the sealed rows [low, high) of the tile at row `tile` into a stage.
  __device__ static void stage(const stream_rows<Spec, First>& at, int64 tile, int low, int high, byte* to) {
    for (int begin = 0; begin < Rows; begin += piece) {
      const int from = max_of(begin, low);
      const int end = min_of(begin + piece, high);
      if (from >= end) continue;
      const byte* segment = at.segment_of(tile + begin);
      const int in_page = static_cast<int>((tile + begin) % per_page);
      copy(segment + in_page * stream_type::row_bytes, (from - begin) * stream_type::row_bytes,
           (end - begin) * stream_type::row_bytes, to + begin * stream_type::row_bytes);
      if constexpr (group_bytes > 0) {
        const int group = in_page / per_group;
        const int first_group = (in_page + from - begin) / per_group;
        const int last_group = (in_page + end - begin - 1) / per_group;
        copy(segment + stream_type::codes_bytes + group * group_bytes, (first_group - group) * group_bytes,
             (last_group - group + 1) * group_bytes,
             to + round_up(shape::codes_bytes, 16) + begin / per_group * group_bytes);
      }
    }
  }

  /// Decodes rows [low, high) of the tile into bf16 rows of `stride` elements, zero in the others. `staged` holds the
  /// sealed rows; exact rows come from the tail and the running step.
  __device__ static void decode(const stream_rows<Spec, First>& at, int64 tile, int low, int high, bool exact,
                                const byte* staged, const float* constants, const rotary::table_view& table,
                                uint16* out, int stride, int limb_stride) {
    if constexpr (shape::by_rows) {
      for (int r = static_cast<int>(threadIdx.x); r < Rows; r += threads) {
        float x[shape::pitch] = {};
        if (r >= low && r < high) read_row(at, tile, r, exact, staged, constants, table, x);
        for (int c = 0; c < shape::chunks; ++c) store(x + 16 * c, c, out + r * stride, limb_stride);
      }
    } else {
#pragma unroll 4
      for (int u = static_cast<int>(threadIdx.x); u < Rows * shape::chunks; u += threads) {
        const int r = u / shape::chunks;
        const int c = u % shape::chunks;
        float x[16];
        if (r < low || r >= high) {
          for (int i = 0; i < 16; ++i) x[i] = 0;
        } else if (stream_type::exact_rows > 0 && exact) {
          const byte* row = at.exact_row(tile + r);
          for (int i = 0; i < 16; ++i) x[i] = 16 * c + i < width ? exact_at(row, 16 * c + i) : 0.0f;
        } else {
          codec::template decode_channels<width>(staged + r * stream_type::row_bytes, group_of(tile, r, staged), 16 * c,
                                                 x);
        }
        store(x, c, out + r * stride, limb_stride);
      }
    }
  }

 private:
  /// Bytes [begin, end) of `from` into `to`, rounded outwards to whole units.
  __device__ static void copy(const byte* from, int begin, int end, byte* to) {
    if constexpr (unit >= 4) {
      for (int i = begin / unit + static_cast<int>(threadIdx.x); i < ceil_div(end, unit); i += threads) {
        copy_async<unit>(to + i * unit, from + i * unit);
      }
    } else {
      for (int i = begin + static_cast<int>(threadIdx.x); i < end; i += threads) to[i] = from[i];
    }
  }

  __device__ static const byte* group_of(int64 tile, int row, const byte* staged) {
    const byte* groups = staged + round_up(shape::codes_bytes, 16);
    return groups + (per_group >= Rows ? 0 : row / per_group) * group_bytes;
  }

  __device__ static float exact_at(const byte* row, int channel) {
    bf16 b;
    __builtin_memcpy(&b, __builtin_assume_aligned(row + 2 * channel, 2), 2);
    return b.value();
  }

  /// A whole row by one thread: as it is scored, after expansion and rotation where keys are stored before those.
  __device__ static void read_row(const stream_rows<Spec, First>& at, int64 tile, int r, bool exact, const byte* staged,
                                  const float* constants, const rotary::table_view& table, float* x) {
    float stored[width];
    if (stream_type::exact_rows > 0 && exact) {
      stream_rows<Spec, First>::read_exact(at.exact_row(tile + r), stored);
    } else {
      const int in_group = static_cast<int>((tile + r) % per_group);
      codec::template decode<width>(staged + (r - in_group) * stream_type::row_bytes, group_of(tile, r, staged),
                                    in_group, in_group + 1, stored);
    }
    if constexpr (shape::expands) {
      transform<stream_type>::restore(stored, x, constants);
      stream_type::rotary_policy::template rotate<stream_type::model_width>(x, table.at(tile + r));
    } else {
      for (int i = 0; i < width; ++i) x[i] = stored[i];
    }
  }

  /// 16 channels into a row's slots: rounded, and with two limbs what rounding left.
  __device__ static void store(const float* x, int chunk, uint16* row, int limb_stride) {
    uint32 w[8];
    for (int i = 0; i < 8; ++i) w[i] = pack_bf16(x[2 * i], x[2 * i + 1]);
    put(w, chunk, row);
    if constexpr (Limbs == 2) {
      for (int i = 0; i < 8; ++i) w[i] = pack_rest(x[2 * i], x[2 * i + 1], w[i]);
      put(w, chunk, row + limb_stride);
    }
  }
  __device__ static void put(const uint32 (&w)[8], int chunk, uint16* row) {
    *reinterpret_cast<uint4*>(row + 8 * chunk) = make_uint4(w[0], w[1], w[2], w[3]);
    *reinterpret_cast<uint4*>(row + 8 * (chunk + shape::chunks)) = make_uint4(w[4], w[5], w[6], w[7]);
  }
};

}  // namespace kvc::inline v0_1::cuda::detail
