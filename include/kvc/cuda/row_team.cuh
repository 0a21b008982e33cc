// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cache/append.hpp"
#include "kvc/cuda/launch.cuh"
#include "kvc/cuda/team.cuh"

namespace kvc::inline v0_1::cuda::detail {

/// How kernels that treat rows one by one deal a block of threads: a team per row, with the row in shared memory.
template <class Stream>
struct row_teams {
  static constexpr int threads = 128;  ///< per block

  /// Eight channels per thread where that is a power of two: 16 bytes of bf16, and the work that all threads of a team
  /// repeat (scales, addresses) is shared by two rows of 128 channels per warp.
  static consteval int lanes_of() {
    int lanes = 4;
    while (lanes < 32 && 2 * lanes * 8 <= Stream::width) lanes *= 2;
    return lanes;
  }
  static constexpr int lanes = lanes_of();
  static constexpr int per_block = threads / lanes;
  using team = warp_team<lanes>;

  static constexpr bool in_place = transform<Stream>::dims_are_identity;
  static constexpr int model_floats = round_up(Stream::model_width, 4);
  static constexpr int stored_floats = in_place ? 0 : round_up(Stream::width, 4);
  /// Floats of a team; the teams of a warp lie in different banks.
  static constexpr int pitch = round_up(model_floats + stored_floats, 32) + (lanes < 32 ? lanes : 0);
  static constexpr int shared_bytes = per_block * pitch * 4;

  /// [model_width] of the team that this thread is in, and [width]: the same memory where dims leaves rows as they are.
  __device__ static float* model_row(float* shared) { return shared + static_cast<int>(threadIdx.x) / lanes * pitch; }
  __device__ static float* stored_row(float* shared) { return model_row(shared) + (in_place ? 0 : model_floats); }
};

/// Both streams of a composition in one launch: blockIdx.y says which.
template <class Spec>
struct row_grid {
  using first = row_teams<typename Spec::first_stream>;
  using second = row_teams<typename Spec::second_stream>;
  static constexpr int threads = first::threads;
  static constexpr int shared_bytes = max_of(first::shared_bytes, second::shared_bytes);
  static constexpr int per_block = min_of(first::per_block, second::per_block);
};

/// How append deals it where a row fits into the registers of a team: Stream::width / lanes neighbouring channels per
/// thread, nothing in shared memory, and all teams of a warp side by side.
template <class Stream>
struct row_shares {
  static constexpr int threads = 128;  ///< per block

  /// Eight channels are 16 bytes of bf16, so that rows that are stored so are read and written whole; for codes the
  /// work that all threads of a team repeat (scales, addresses) is shared by twice as many rows per warp.
  static constexpr bool in_elements = Stream::has_ring || Stream::row_bytes >= 2 * Stream::width;
  static constexpr int lanes = min_of(32, Stream::model_width / (in_elements ? 8 : 16));
  static constexpr int own = lanes < 1 ? 0 : Stream::model_width / lanes;  ///< channels per thread
  static constexpr int per_block = lanes < 1 ? 0 : threads / lanes;
  static constexpr bool fits =
      lanes >= 2 && (lanes & (lanes - 1)) == 0 && own % 8 == 0 && own * lanes == Stream::model_width;
  using team = warp_team<fits ? lanes : 2, true>;
  static constexpr bool exists = fits && transform<Stream>::template takes_shares<team>;
  /// Whether the codec takes them too, or wants the row in shared memory.
  static constexpr bool encodes =
      Stream::has_ring || quant::detail::encodes_share<typename Stream::codec, Stream::width, team>;

  /// Where a row must be in shared memory after all. [model_width] of the team that this thread is in.
  static constexpr int pitch = Stream::model_width + 4;
  static constexpr int shared_bytes = per_block * pitch * 4;
  __device__ static float* shared_row(float* shared) { return shared + static_cast<int>(threadIdx.x) / lanes * pitch; }
  /// x: [own], to and from there; the team waits.
  __device__ static void to_shared(const float* x, float* row) {
    float4* to = reinterpret_cast<float4*>(row + team::rank() * own);
#pragma unroll
    for (int k = 0; k < own; k += 4) to[k / 4] = make_float4(x[k], x[k + 1], x[k + 2], x[k + 3]);
    team::sync();
  }
  __device__ static void from_shared(float* x, const float* row) {
    const float4* from = reinterpret_cast<const float4*>(row + team::rank() * own);
    team::sync();
#pragma unroll
    for (int k = 0; k < own; k += 4) {
      const float4 f = from[k / 4];
      x[k] = f.x;
      x[k + 1] = f.y;
      x[k + 2] = f.z;
      x[k + 3] = f.w;
    }
  }
};

/// How append deals whole groups of tokens of a per-channel codec: a block per group, slices of it to the teams of
/// row_shares, all of it in registers.
template <class Stream>
struct group_shares {
  using shares = row_shares<Stream>;
  static constexpr int tokens = Stream::tokens_per_group;
  static constexpr int slices = max_of(1, shares::per_block);
  static constexpr int own_tokens = tokens / slices;  ///< per thread
  static constexpr int warps = shares::threads / 32;
  static consteval bool fits() {
    if constexpr (tokens > 1 && Stream::has_ring && shares::exists) {
      using codec = typename Stream::codec;
      return shares::own == 8 && tokens % slices == 0 && own_tokens <= 8 && requires {
        typename codec::levels;
        typename codec::constants_of;
      };
    } else {
      return false;
    }
  }
  static constexpr bool exists = fits();
  /// Extremes per warp and channel, then 1 / scale and offset per channel.
  static constexpr int shared_bytes = (warps + 1) * Stream::width * 8;

  /// Groups of a sequence that a step can touch: those of its open rows, and of its new ones.
  KVC_HD static int64 most(const step_bounds& bounds) {
    return ceil_div<int64>(Stream::open_rows + bounds.max_rows, Stream::tokens_per_group);
  }
};

/// The sequence that owns row `row` of a step: the last one with row_indptr[i] <= row. All threads of a team search.
template <class Team>
__device__ int sequence_of(const int64* row_indptr, int sequences, int64 row, Team team) {
  // One row per sequence, the usual decoding step, needs no search.
  if (row < sequences && row_indptr[row] == row && row_indptr[row + 1] == row + 1) return static_cast<int>(row);
  int low = 0;
  int high = sequences;
  while (high - low > 1) {
    const int step = ceil_div(high - low, Team::size() + 1);
    const int probe = low + (team.rank() + 1) * step;
    const float below = probe < high && row_indptr[probe] <= row ? 1.0f : 0.0f;
    low += static_cast<int>(team.sum(below)) * step;
    high = min_of(high, low + step);
  }
  return low;
}

/// 16 bytes of elements as fp32, x: [16 / sizeof(T)].
template <class T>
__device__ void unpack_load(uint4 raw, float* x) {
  const uint32 words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    if constexpr (sizeof(T) == 4) {
      x[w] = bits_float(words[w]);
    } else {
      x[2 * w] = to_float(T{static_cast<uint16>(words[w])});
      x[2 * w + 1] = to_float(T{static_cast<uint16>(words[w] >> 16)});
    }
  }
}

/// Own neighbouring channels of a model row, 16 bytes at a time.
template <int Own, class T>
struct own_channels {
  static constexpr int per_load = 16 / static_cast<int>(sizeof(T));
  static constexpr int loads = Own / per_load;

  uint4 raw[loads] = {};

  __device__ void load(const T* source) {
#pragma unroll
    for (int i = 0; i < loads; ++i) raw[i] = __ldg(reinterpret_cast<const uint4*>(source) + i);
  }
  __device__ void unpack(float* x) const {
#pragma unroll
    for (int i = 0; i < loads; ++i) unpack_load<T>(raw[i], x + i * per_load);
  }
};

/// One model row from global memory, 16 bytes at a time: all loads are on their way before the first is used.
template <int Width, class T, class Team>
struct wide_row {
  static constexpr int per_load = 16 / static_cast<int>(sizeof(T));
  static constexpr int loads = Width / per_load;
  static constexpr int share = ceil_div(loads, Team::size());
  static constexpr bool fits = Width % per_load == 0;

  uint4 raw[max_of(1, share)];

  __device__ void load(const T* source, Team team) {
#pragma unroll
    for (int i = 0; i < share; ++i) {
      const int c = team.rank() + i * Team::size();
      if (c < loads) raw[i] = __ldg(reinterpret_cast<const uint4*>(source) + c);
    }
  }
  __device__ void store(float* x, Team team) const {
#pragma unroll
    for (int i = 0; i < share; ++i) {
      const int c = team.rank() + i * Team::size();
      if (c >= loads) continue;
      float channels[per_load];
      unpack_load<T>(raw[i], channels);
#pragma unroll
      for (int q = 0; q < per_load; q += 4) {
        reinterpret_cast<float4*>(x + c * per_load)[q / 4] =
            make_float4(channels[q], channels[q + 1], channels[q + 2], channels[q + 3]);
      }
    }
  }
};

/// Whether its elements lie where they can be read.
template <class T>
bool is_aligned(const rows_view<const T>& rows) {
  return reinterpret_cast<size_type>(rows.data) % alignof(T) == 0;
}

/// Whether every row of a view can be read 16 bytes at a time.
template <class T>
bool is_wide(const rows_view<const T>& rows) {
  return reinterpret_cast<size_type>(rows.data) % 16 == 0 &&
         rows.row_stride * static_cast<int64>(sizeof(T)) % 16 == 0 &&
         rows.head_stride * static_cast<int64>(sizeof(T)) % 16 == 0;
}

}  // namespace kvc::inline v0_1::cuda::detail
