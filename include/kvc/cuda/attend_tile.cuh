// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <type_traits>

#include "kvc/cache/rows.hpp"
#include "kvc/cuda/attend_turn.cuh"
#include "kvc/cuda/codes.cuh"

// From pages to shared memory: a tile of rows of one stream, first as it is stored (staged), then as bf16 (decoded).

namespace kvc::inline v0_1::cuda::detail {

/// Alignment of everything that is staged of a stream, by pieces of so many rows; pages and stages begin at multiples
/// of 16.
template <class Spec, class Stream>
constexpr int copy_unit(int piece) {
  const int64 bits = Spec::first_stream::segment_bytes | Spec::second_stream::segment_bytes | Stream::codes_bytes |
                     piece * Stream::row_bytes | max_of(1, piece / Stream::tokens_per_group) * Stream::group_bytes | 16;
  return static_cast<int>(bits & -bits);
}

/// Whether a tile keeps rows as they are stored: always where they have no constants, else where the kernel folds them.
template <class Units>
constexpr bool uses_units(bool folds) {
  if constexpr (Units::exists) return folds || Units::groups == 0;
  return false;
}

/// What a tile takes from a codec's units, and what stands for them where rows are decoded.
template <class Units, bool Use>
struct tile_form {
  static constexpr bool in_units = false;
  static constexpr int groups = 0;
  static constexpr int group_chunks = 0;
  static constexpr bool has_offset = false;
  static constexpr float above = 0;
  static constexpr float middle = 0;
  KVC_HD static constexpr int channel(int position) { return position; }
};
template <class Units>
struct tile_form<Units, true> {
  static constexpr bool in_units = true;
  static constexpr int groups = Units::groups;
  static constexpr int group_chunks = Units::group_chunks;
  static constexpr bool has_offset = Units::has_offset;
  static constexpr float above = Units::above;
  static constexpr float middle = Units::middle;
  KVC_HD static constexpr int channel(int position) { return Units::channel(position); }
};

/// The order of channels alone, of a tile that is decoded.
template <class Codes>
struct channel_order {
  static constexpr int groups = 0;
  static constexpr int group_chunks = 1;
  static constexpr bool has_offset = false;
  static constexpr float above = 0;
  static constexpr float middle = 0;
  KVC_HD static constexpr int channel(int position) { return Codes::channel(position); }
};

/// The blocks of the pages that hold a tile.
template <int Pieces>
struct page_blocks {
  int32 of[Pieces];
};

/// A tile of Rows rows of one stream, for a block of Threads threads.
///
/// In shared memory a row has slots of 8 channels. A thread treats a chunk of 16 channels, number c, and puts its
/// halves into the slots c and c + chunks, so that neighbouring threads write neighbouring slots. Rows are padded by
/// one slot: their stride is odd, and eight rows of a matrix lie in different banks.
///
/// Where the codec allows it and Folds is set, rows stay as they are stored but for their scale and offset (codes.cuh),
/// which are put beside the tile. Otherwise they are decoded to fp32 and rounded; with Limbs = 2 to a pair of bf16.
template <class Spec, bool First, bool Scored, int Rows, int Limbs, bool Folds, int Threads>
struct device_tile {
  using stream_type = stream_of<Spec, First>;
  using rows_type = stream_rows<Spec, First>;
  using codec = typename stream_type::codec;
  using units = unit_codes<codec, stream_type::width>;

  static constexpr bool expands = Scored && stream_type::is_deferred;
  static constexpr bool has_chunks = quant::detail::has_decode_channels<codec, stream_type::width>;
  using turn = turning<stream_type>;
  static constexpr bool turns = expands && has_chunks && turn::exists;  ///< as chunks are decoded
  static constexpr bool by_rows = (expands && !turns) || !has_chunks;
  static constexpr int width = expands ? stream_type::model_width : stream_type::width;
  static constexpr int chunks = ceil_div(width, 16);
  static constexpr int pitch = 16 * chunks;  ///< channels in shared memory, zero beyond width

  static constexpr int per_page = stream_type::tokens_per_page;
  static constexpr int per_group = stream_type::tokens_per_group;

  /// Whether threads keep the constants of their channels.
  using by_channel = channel_codes<codec, stream_type::width>;
  static constexpr int row_threads = turns ? chunks / turn::chunks : chunks;  ///< that share a row
  static constexpr bool keeps_channels = by_channel::exists && !by_rows && Limbs == 1 && Threads % row_threads == 0 &&
                                         per_group % (Threads / row_threads) == 0;
  using form = tile_form<std::conditional_t<keeps_channels, channel_order<by_channel>, units>,
                         keeps_channels || (uses_units<units>(Folds) && !by_rows && !turns && Limbs == 1)>;
  static constexpr bool in_units = form::in_units;
  static constexpr int groups = form::groups;  ///< of a row's constants, 0 where it has none
  static constexpr int constant_groups = groups;
  static constexpr bool has_offset = form::has_offset;
  static constexpr float above = form::above;  ///< in every element of a sealed row
  static constexpr float middle = form::middle;
  static constexpr int group_chunks = form::in_units ? form::group_chunks : chunks;

  /// Whether the chunks of a row are decoded by different code.
  static constexpr bool chunks_differ = in_units && requires { units::chunks_differ; };

  static constexpr int row_bytes = stream_type::row_bytes;
  static constexpr int group_bytes = stream_type::group_bytes;
  static constexpr int piece = min_of(Rows, per_page);  ///< rows that lie together in a page
  static constexpr int unit = copy_unit<Spec, stream_type>(piece);
  static constexpr int codes_bytes = round_up(Rows * row_bytes, 16);
  static constexpr int stage_bytes = codes_bytes + round_up(max_of(1, Rows / per_group) * group_bytes, 16);

  /// The channel at element e of a slot.
  KVC_HD static constexpr int channel(int slot, int e) {
    const int position = (slot < chunks ? 0 : 8) + e;
    const int chunk = slot < chunks ? slot : slot - chunks;
    return 16 * chunk + form::channel(position);
  }
  /// The group of the constants of a slot's channels.
  KVC_HD static constexpr int group_of_slot(int slot) { return slot % chunks / group_chunks; }

  static constexpr int pieces = Rows / piece;

  /// Read ahead, as everything that follows waits for them.
  __device__ static page_blocks<pieces> find_pages(const rows_type& at, int tile, int high) {
    page_blocks<pieces> pages;
#pragma unroll
    for (int i = 0; i < pieces; ++i) {
      pages.of[i] = i * piece < high ? at.step->block(at.index, (tile + i * piece) / per_page) : -1;
    }
    return pages;
  }

  /// Starts copying the sealed rows [low, high) of the tile at row `tile` into a stage. Pages that were freed are left
  /// out: nobody sees their rows.
  __device__ static void stage(const rows_type& at, const page_blocks<pieces>& pages, int tile, int low, int high,
                               byte* to) {
#pragma unroll
    for (int i = 0; i < pieces; ++i) {
      if (pages.of[i] < 0) continue;
      const int begin = i * piece;
      const byte* segment = at.view->page(at.slot, pages.of[i]) + at.segment;
      const int in_page = (tile + begin) & (per_page - 1);
      const byte* codes = segment + in_page * row_bytes;
      const byte* constants = segment + stream_type::codes_bytes + in_page / per_group * group_bytes;
      byte* constants_to = to + codes_bytes + begin / per_group * group_bytes;
      if (unit == 16 && low <= begin && high >= begin + piece) {
        copy_whole<piece * row_bytes>(codes, to + begin * row_bytes);
        copy_whole<max_of(1, piece / per_group) * group_bytes>(constants, constants_to);
        continue;
      }
      const int from = max_of(begin, low) - begin;
      const int end = min_of(begin + piece, high) - begin;
      if (from >= end) continue;
      copy(codes, from * row_bytes, end * row_bytes, to + begin * row_bytes);
      if constexpr (group_bytes > 0) {
        const int group = in_page / per_group;
        copy(constants, ((in_page + from) / per_group - group) * group_bytes,
             ((in_page + end - 1) / per_group - group + 1) * group_bytes, constants_to);
      }
    }
  }

  /// Scales and offsets of the tile's rows: [groups][Rows].
  __device__ static void put_constants(int low, int high, bool exact, const byte* staged, float2* out) {
    if constexpr (groups > 0) {
#pragma unroll
      for (int begin = 0; begin < groups * Rows; begin += Threads) {
        const int i = begin + static_cast<int>(threadIdx.x);
        if (groups * Rows % Threads != 0 && i >= groups * Rows) break;
        const int r = i % Rows;
        const bool sealed = stream_type::exact_rows == 0 || !exact;
        float2 k = sealed ? units::constants(group_at(r, staged), i / Rows) : make_float2(1, above);
        if (r < low || r >= high) k = make_float2(0, 0);
        out[i] = k;
      }
    }
  }

  /// Rows [low, high) of the tile into bf16 rows of `stride` elements, zero in the others. `staged` holds the sealed
  /// rows; exact rows come from the tail and the running step.
  __device__ static void decode(const rows_type& at, int tile, int low, int high, bool exact, const byte* staged,
                                const float* constants, const rotary::table_view& table, uint16* out, int stride,
                                int limb_stride) {
    if constexpr (turns) {
      decode_turned(at, tile, low, high, exact, staged, constants, table, out, stride, limb_stride);
    } else if constexpr (by_rows) {
      for (int r = static_cast<int>(threadIdx.x); r < Rows; r += Threads) {
        float x[pitch] = {};
        if (r >= low && r < high) read_row(at, tile, r, exact, staged, constants, table, x);
        for (int c = 0; c < chunks; ++c) store(x + 16 * c, c, out + r * stride, limb_stride);
      }
    } else if (low == 0 && high == Rows && (stream_type::exact_rows == 0 || !exact)) {
      if constexpr (keeps_channels) {
        decode_channels(staged, out, stride);
      } else {
#pragma unroll
        for (int begin = 0; begin < Rows * chunks; begin += Threads) {
          const int u = begin + static_cast<int>(threadIdx.x);
          if (Rows * chunks % Threads != 0 && u >= Rows * chunks) break;
          const int r = chunks_differ ? u % Rows : u / chunks;
          const int c = chunks_differ ? u / Rows : u % chunks;
          decode_chunk(r, c, staged, out + r * stride, limb_stride);
        }
      }
    } else {
#pragma unroll 1
      for (int u = static_cast<int>(threadIdx.x); u < Rows * chunks; u += Threads) {
        const int r = u / chunks;
        const int c = u % chunks;
        if (r >= low && r < high && (stream_type::exact_rows == 0 || !exact)) {
          decode_chunk(r, c, staged, out + r * stride, limb_stride);
          continue;
        }
        float x[16] = {};
        if (r >= low && r < high) read_exact(at.exact_row(tile + r), c, x);
        store(x, c, out + r * stride, limb_stride);
      }
    }
  }

 private:
  /// A whole tile of sealed rows, constants per channel.
  __device__ static void decode_channels(const byte* staged, uint16* out, int stride) {
    if constexpr (keeps_channels) {
      const int c = static_cast<int>(threadIdx.x) % chunks;
      constexpr int rows_at_once = Threads / chunks;
      by_channel codes;
#pragma unroll
      for (int begin = 0; begin < Rows; begin += rows_at_once) {
        if (begin % min_of(per_group, Rows) == 0) codes.load_constants(group_at(begin, staged), 16 * c);
        const int r = begin + static_cast<int>(threadIdx.x) / chunks;
        uint32 w[8];
        codes.load(staged + r * row_bytes, 16 * c, w);
        put(w, c, out + r * stride);
      }
    }
  }

  // Rows that are turned: a thread has whole pairs, in one chunk or two.

  using channels = float[turn::chunks][16];
  __device__ static int turned_chunk(int c, int h) {
    return c + h * row_threads;
  }
  __device__ static const float* mean_of(const float* constants) {
    return constants + stream_type::dims_floats;
  }

  __device__ static void decode_turned(const rows_type& at, int tile, int low, int high, bool exact, const byte* staged,
                                       const float* constants, const rotary::table_view& table, uint16* out, int stride,
                                       int limb_stride) {
    if constexpr (turns) {
      const bool sealed = stream_type::exact_rows == 0 || !exact;
      if (keeps_channels && sealed && low == 0 && high == Rows) {
        decode_turned_channels(tile, staged, constants, table, out, stride, limb_stride);
        return;
      }
#pragma unroll 1
      for (int u = static_cast<int>(threadIdx.x); u < Rows * row_threads; u += Threads) {
        const int r = u / row_threads;
        const int c = u % row_threads;
        channels x = {};
        if (r >= low && r < high) {
#pragma unroll
          for (int h = 0; h < turn::chunks; ++h) {
            const int chunk = turned_chunk(c, h);
            if (!sealed) {
              read_exact(at.exact_row(tile + r), chunk, x[h]);
            } else if constexpr (keeps_channels) {
              by_channel codes;
              codes.load_constants(group_at(r, staged), 16 * chunk);
              codes.decode(staged + r * row_bytes, 16 * chunk, x[h]);
            } else {
              codec::template decode_channels<width>(staged + r * row_bytes, group_at(r, staged), 16 * chunk, x[h]);
            }
            if constexpr (turn::has_mean) {
              for (int i = 0; i < 16; ++i) {
                const int channel = 16 * chunk + form::channel(i);
                if (channel < width) x[h][i] += mean_of(constants)[channel];
              }
            }
          }
          turn_channels(x, c, angles_of<typename turn::order>(table, tile + r));
        }
        for (int h = 0; h < turn::chunks; ++h) store(x[h], turned_chunk(c, h), out + r * stride, limb_stride);
      }
    }
  }
  /// A whole tile of sealed rows, constants per channel.
  __device__ static void decode_turned_channels(int tile, const byte* staged, const float* constants,
                                                const rotary::table_view& table, uint16* out, int stride,
                                                int limb_stride) {
    if constexpr (keeps_channels) {
      const int c = static_cast<int>(threadIdx.x) % row_threads;
      constexpr int rows_at_once = Threads / row_threads;
      by_channel codes[turn::chunks];
#pragma unroll
      for (int begin = 0; begin < Rows; begin += rows_at_once) {
        const int r = begin + static_cast<int>(threadIdx.x) / row_threads;
        channels x;
#pragma unroll
        for (int h = 0; h < turn::chunks; ++h) {
          const int chunk = turned_chunk(c, h);
          if (begin % min_of(per_group, Rows) == 0) {
            codes[h].load_constants(group_at(begin, staged), 16 * chunk);
            if constexpr (turn::has_mean) {
              for (int i = 0; i < 16; ++i) codes[h].offset[i] += mean_of(constants)[16 * chunk + form::channel(i)];
            }
          }
          codes[h].decode(staged + r * row_bytes, 16 * chunk, x[h]);
        }
        turn_channels(x, c, angles_of<typename turn::order>(table, tile + r));
#pragma unroll
        for (int h = 0; h < turn::chunks; ++h) store(x[h], turned_chunk(c, h), out + r * stride, limb_stride);
      }
    }
  }
  /// angles: of the row.
  __device__ static void turn_channels(channels& x, int c, const float* angles) {
    constexpr int pairs = 8 * turn::chunks;
#pragma unroll
    for (int i = 0; i < pairs; i += 2) {
      const float4 a = load_angles<typename turn::order>(angles, pairs * c + i);
      if constexpr (turn::order::halves) {
        turn_pair(x[0][position(i)], x[turn::chunks - 1][position(i)], a.x, a.y);
        turn_pair(x[0][position(i + 1)], x[turn::chunks - 1][position(i + 1)], a.z, a.w);
      } else {
        turn_pair(x[0][position(2 * i)], x[0][position(2 * i + 1)], a.x, a.y);
        turn_pair(x[0][position(2 * i + 2)], x[0][position(2 * i + 3)], a.z, a.w);
      }
    }
  }
  /// Of a channel of a chunk.
  KVC_HD static constexpr int position(int channel) {
    if constexpr (keeps_channels) return by_channel::position(channel);
    return channel;
  }

  __device__ static void decode_chunk(int r, int c, const byte* staged, uint16* out, int limb_stride) {
    if constexpr (keeps_channels) {
      uint32 w[8];
      by_channel codes;
      codes.load_constants(group_at(r, staged), 16 * c);
      codes.load(staged + r * row_bytes, 16 * c, w);
      put(w, c, out);
    } else if constexpr (in_units) {
      uint32 w[8];
      units::load(staged + r * row_bytes, 16 * c, w);
      put(w, c, out);
    } else if constexpr (!by_rows) {
      float x[16];
      codec::template decode_channels<stream_type::width>(staged + r * row_bytes, group_at(r, staged), 16 * c, x);
      store(x, c, out, limb_stride);
    }
  }

  /// Bytes known at compile time, a multiple of 16.
  template <int64 Bytes>
  __device__ static void copy_whole(const byte* from, byte* to) {
#pragma unroll
    for (int begin = 0; begin < Bytes; begin += 16 * Threads) {
      const int i = begin + 16 * static_cast<int>(threadIdx.x);
      if (Bytes % (16 * Threads) != 0 && i >= Bytes) break;
      copy_async<16>(to + i, from + i);
    }
  }
  /// Bytes [begin, end) of `from` into `to`, rounded outwards to whole units.
  __device__ static void copy(const byte* from, int begin, int end, byte* to) {
    if constexpr (unit >= 4) {
      for (int i = begin / unit + static_cast<int>(threadIdx.x); i < ceil_div(end, unit); i += Threads) {
        copy_async<unit>(to + i * unit, from + i * unit);
      }
    } else {
      for (int i = begin + static_cast<int>(threadIdx.x); i < end; i += Threads) to[i] = from[i];
    }
  }

  __device__ static const byte* group_at(int row, const byte* staged) {
    return staged + codes_bytes + (per_group >= Rows ? 0 : row / per_group) * group_bytes;
  }

  /// A chunk of an exact row, by position.
  __device__ static void read_exact(const byte* row, int chunk, float (&x)[16]) {
    for (int i = 0; i < 16; ++i) {
      const int channel = 16 * chunk + form::channel(i);
      if (channel >= width) continue;
      bf16 b;
      __builtin_memcpy(&b, __builtin_assume_aligned(row + 2 * channel, 2), 2);
      x[i] = b.value();
    }
  }

  /// A whole row by one thread: as it is scored, after expansion and rotation where keys are stored before those.
  __device__ static void read_row(const rows_type& at, int tile, int r, bool exact, const byte* staged,
                                  const float* constants, const rotary::table_view& table, float* x) {
    float stored[stream_type::width];
    if (stream_type::exact_rows > 0 && exact) {
      rows_type::read_exact(at.exact_row(tile + r), stored);
    } else {
      const int in_group = (tile + r) % per_group;
      codec::template decode<stream_type::width>(staged + (r - in_group) * row_bytes, group_at(r, staged), in_group,
                                                 in_group + 1, stored);
    }
    if constexpr (expands) {
      transform<stream_type>::restore(stored, x, constants);
      stream_type::rotary_policy::template rotate<stream_type::model_width>(x, table.at(tile + r));
    } else {
      for (int i = 0; i < stream_type::width; ++i) x[i] = stored[i];
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
    *reinterpret_cast<uint4*>(row + 8 * (chunk + chunks)) = make_uint4(w[4], w[5], w[6], w[7]);
  }
};

}  // namespace kvc::inline v0_1::cuda::detail
