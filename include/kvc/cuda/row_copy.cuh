// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/core/math.hpp"
#include "kvc/cuda/mma.cuh"

namespace kvc::inline v0_1::cuda::detail {

/// A warp's part of 16 rows of one stream's codes or constants, in pieces of 16 bytes: RowBytes per row, Pitch apart in
/// shared memory.
template <int RowBytes, int Pitch>
struct rows_copy {
  static constexpr int pieces = RowBytes;  ///< of 16 rows
  KVC_HD static constexpr int target(int i) { return RowBytes >= 16 ? i / RowBytes * Pitch + i % RowBytes : i; }

  static constexpr int lane_pieces = ceil_div(pieces, 32);
  /// Lanes take pieces lane, lane + 32, ...: the i-th of them.
  __device__ static void piece(bool wanted, int i, const byte* from, byte* to, int lane) {
    if ((i + 1) * 32 > pieces) wanted = wanted && i * 32 + lane < pieces;
    byte* target_at = 512 % RowBytes == 0 ? to + target(16 * lane) + target(512 * i) : to + target(512 * i + 16 * lane);
    copy_async_if(wanted, target_at, from + 512 * i + 16 * lane);
  }
  /// Rows [low, high) of them.
  __device__ static void some(int low, int high, const byte* from, byte* to, int lane) {
#pragma unroll 1
    for (int i = 16 * lane; i < 16 * pieces; i += 512) {
      const int last = (i + 15) / RowBytes;  // constants of several rows share a piece
      if (last >= low && i / RowBytes < high) copy_async<16>(to + target(i), from + i);
    }
  }
};

}  // namespace kvc::inline v0_1::cuda::detail
