// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/core/math.hpp"
#include "kvc/cuda/mma.cuh"

// The instructions of sm_90a: products of a group of four warps, whose right factor lies in shared memory.
//
//   d[64][N] (+)= a[64][32] b[32][N]     bytes into 32-bit integers
//
// Warp w of the group has rows 16 w and on. Of those a thread has of a, in four words: row lane / 4 and depth
// 4 (lane % 4) and on, row + 8, and both at depth + 16; of d: {rows lane / 4, + 8} x columns 8 j + 2 (lane % 4) and the
// next, as d[4 j + 2 * (row / 8) + column % 2]. b lies as [depth / 16][N][16 bytes of depth].

namespace kvc::inline v0_1::cuda::detail {

/// What names b for the products: its address, and the distance of the two halves of its depth.
__device__ inline uint64 warpgroup_operand(const void* b, int columns) {
  constexpr uint64 eight_columns = 128;
  return static_cast<uint64>(shared_address(b) >> 4 & 0x3fffu) | static_cast<uint64>(columns) << 16 |
         (eight_columns >> 4) << 32;
}

/// Before products read registers that were written, and before the first.
__device__ inline void warpgroup_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ inline void warpgroup_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/// Waits until all but the newest Pending groups of products are done.
template <int Pending>
__device__ inline void warpgroup_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}
/// What this thread wrote to shared memory can be read by products, after a barrier.
__device__ inline void publish_operands() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/// a are unsigned bytes; b are signed or unsigned. The first product of a sum does not add to d.
template <bool Signed, bool Add>
__device__ inline void multiply_warpgroup(int32 (&d)[8], const uint32 (&a)[4], uint64 b) {
  if constexpr (Signed) {
    asm volatile(
        "{.reg .pred p; setp.ne.b32 p, %13, 0; wgmma.mma_async.sync.aligned.m64n16k32.s32.u8.s8 {%0, %1, %2, %3, %4, "
        "%5, %6, %7}, {%8, %9, %10, %11}, %12, p;}"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]), "+r"(d[4]), "+r"(d[5]), "+r"(d[6]), "+r"(d[7])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(Add));
  } else {
    asm volatile(
        "{.reg .pred p; setp.ne.b32 p, %13, 0; wgmma.mma_async.sync.aligned.m64n16k32.s32.u8.u8 {%0, %1, %2, %3, %4, "
        "%5, %6, %7}, {%8, %9, %10, %11}, %12, p;}"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]), "+r"(d[4]), "+r"(d[5]), "+r"(d[6]), "+r"(d[7])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(Add));
  }
}
template <bool Signed, bool Add>
__device__ inline void multiply_warpgroup(int32 (&d)[16], const uint32 (&a)[4], uint64 b) {
  if constexpr (Signed) {
    asm volatile(
        "{.reg .pred p; setp.ne.b32 p, %21, 0; wgmma.mma_async.sync.aligned.m64n32k32.s32.u8.s8 {%0, %1, %2, %3, %4, "
        "%5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, {%16, %17, %18, %19}, %20, p;}"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]), "+r"(d[4]), "+r"(d[5]), "+r"(d[6]), "+r"(d[7]), "+r"(d[8]),
          "+r"(d[9]), "+r"(d[10]), "+r"(d[11]), "+r"(d[12]), "+r"(d[13]), "+r"(d[14]), "+r"(d[15])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(Add));
  } else {
    asm volatile(
        "{.reg .pred p; setp.ne.b32 p, %21, 0; wgmma.mma_async.sync.aligned.m64n32k32.s32.u8.u8 {%0, %1, %2, %3, %4, "
        "%5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, {%16, %17, %18, %19}, %20, p;}"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]), "+r"(d[4]), "+r"(d[5]), "+r"(d[6]), "+r"(d[7]), "+r"(d[8]),
          "+r"(d[9]), "+r"(d[10]), "+r"(d[11]), "+r"(d[12]), "+r"(d[13]), "+r"(d[14]), "+r"(d[15])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(Add));
  }
}

/// a b + c, where a is an integer below 2^24 whose bits are taken for those of a denormal float: 2^-149 a b + c. Not
/// flushed to zero, whatever the compiler is told.
__device__ inline float multiply_add_integer(int32 a, float b, float c) {
  float d;
  asm("fma.rn.f32 %0, %1, %2, %3;" : "=f"(d) : "f"(__int_as_float(a)), "f"(b), "f"(c));
  return d;
}

}  // namespace kvc::inline v0_1::cuda::detail
