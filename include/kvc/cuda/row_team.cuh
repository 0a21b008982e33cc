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

/// One model row from global memory, 16 bytes at a time: all loads are on their way before the first is used.
template <int Width, class T, class Team>
struct wide_row {
  static constexpr int per_load = 16 / static_cast<int>(sizeof(T));
  static constexpr int loads = Width / per_load;
  static constexpr int share = ceil_div(loads, Team::size());
  static constexpr bool fits = Width % per_load == 0;

  uint4 raw[share];

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
      const uint32 words[4] = {raw[i].x, raw[i].y, raw[i].z, raw[i].w};
#pragma unroll
      for (int q = 0; q < per_load / 4; ++q) {
        float4 f;
        if constexpr (sizeof(T) == 4) {
          f = make_float4(bits_float(words[0]), bits_float(words[1]), bits_float(words[2]), bits_float(words[3]));
        } else {
          f = make_float4(half_of(words[2 * q]), half_of(words[2 * q] >> 16), half_of(words[2 * q + 1]),
                          half_of(words[2 * q + 1] >> 16));
        }
        reinterpret_cast<float4*>(x)[c * (per_load / 4) + q] = f;
      }
    }
  }

 private:
  __device__ static float half_of(uint32 bits) {
    return to_float(T{static_cast<uint16>(bits)});
  }
};

/// Whether every row of a view can be read 16 bytes at a time.
template <class T>
bool is_wide(const rows_view<const T>& rows) {
  return reinterpret_cast<size_type>(rows.data) % 16 == 0 &&
         rows.row_stride * static_cast<int64>(sizeof(T)) % 16 == 0 &&
         rows.head_stride * static_cast<int64>(sizeof(T)) % 16 == 0;
}

}  // namespace kvc::inline v0_1::cuda::detail
