// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/core/math.hpp"
#include "kvc/cuda/mma.cuh"

// The instructions of sm_90a: products of a group of four warps, whose right factor lies in shared memory.
//
//   d[64][N] += a[64][32 bytes] b[32 bytes][N]     bytes into 32-bit integers, fp16 into fp32
//
// Warp w of the group has rows 16 w and on. Of those a thread has of a, in four words: row lane / 4 and, of depth,
// bytes 4 (lane % 4) and on; row + 8; and both 16 bytes on. Of d: {rows lane / 4, + 8} x columns 8 j + 2 (lane % 4) and
// the next, as d[4 j + 2 * (row / 8) + column % 2]. b lies as [depth / 16 bytes][N][16 bytes of depth].

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
/// A warpgroup goes on with fewer registers per thread than the kernel began with, or with more, once others have let
/// them go.
template <int Count>
__device__ inline void keep_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Count));
}
template <int Count>
__device__ inline void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Count));
}

// What counts, in shared memory, the threads whose copies are there.
__device__ inline void begin_counting(uint32 counter, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(counter), "r"(count) : "memory");
}
__device__ inline void end_counting(uint32 counter) {
  asm volatile("mbarrier.inval.shared::cta.b64 [%0];" ::"r"(counter) : "memory");
}
/// Once the thread's copies so far (copy_async) are there; does not wait.
__device__ inline void count_copies(uint32 counter) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(counter) : "memory");
}
/// Once all of the warp are here: counts_of_warp times.
#if defined(KVC_LITERAL_BARRIERS)  // racecheck takes order from a thread's own count only
inline constexpr int counts_of_warp = 32;
#else
inline constexpr int counts_of_warp = 1;
#endif
__device__ inline void count_warp(uint32 counter) {
  __syncwarp();
  if (counts_of_warp > 1 || threadIdx.x % 32 == 0) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(counter) : "memory");
  }
}
/// Waits until all have been counted for the time-th time, from 0 on.
__device__ inline void wait_for_count(uint32 counter, int time) {
  asm volatile(
      "{.reg .pred p; WAIT: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1; @!p bra WAIT;}" ::"r"(counter),
      "r"(time & 1)
      : "memory");
}

/// Barriers of some warps of a block, by number from 1 to 4.
#if defined(KVC_LITERAL_BARRIERS)  // racecheck follows only numbers that are in the instructions
template <int Number>
struct barrier_number {
  static constexpr int value = Number;
};
template <class Function>
__device__ inline void with_barrier(int id, const Function& f) {
  switch (id) {
    case 1:
      return f(barrier_number<1>{});
    case 2:
      return f(barrier_number<2>{});
    case 3:
      return f(barrier_number<3>{});
    default:
      return f(barrier_number<4>{});
  }
}
template <int Threads>
__device__ inline void barrier_sync(int id) {
  with_barrier(id, [](auto n) { asm volatile("bar.sync %0, %1;" ::"n"(decltype(n)::value), "n"(Threads) : "memory"); });
}
template <int Threads>
__device__ inline bool barrier_any(int id, bool said) {
  int any = 0;
  with_barrier(id, [&](auto n) {
    asm volatile("{.reg .pred p; setp.ne.b32 p, %1, 0; bar.red.or.pred p, %2, %3, p; selp.b32 %0, 1, 0, p;}"
                 : "=r"(any)
                 : "r"(static_cast<int>(said)), "n"(decltype(n)::value), "n"(Threads)
                 : "memory");
  });
  return any != 0;
}
#else
template <int Threads>
__device__ inline void barrier_sync(int id) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "n"(Threads) : "memory");
}
/// Whether any thread says so.
template <int Threads>
__device__ inline bool barrier_any(int id, bool said) {
  int any;
  asm volatile("{.reg .pred p; setp.ne.b32 p, %1, 0; bar.red.or.pred p, %2, %3, p; selp.b32 %0, 1, 0, p;}"
               : "=r"(any)
               : "r"(static_cast<int>(said)), "r"(id), "n"(Threads)
               : "memory");
  return any != 0;
}
#endif

/// What this thread wrote to shared memory can be read by products, after a barrier.
__device__ inline void publish_operands() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/// d[64][N] += a[64][32] b[32][N]: a are unsigned bytes, b signed ones.
__device__ inline void multiply_warpgroup(int32 (&d)[8], const uint32 (&a)[4], uint64 b) {
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, 1, 0; wgmma.mma_async.sync.aligned.m64n16k32.s32.u8.s8 {%0, %1, %2, %3, %4, %5, "
      "%6, %7}, {%8, %9, %10, %11}, %12, p;}"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]), "+r"(d[4]), "+r"(d[5]), "+r"(d[6]), "+r"(d[7])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ inline void multiply_warpgroup(int32 (&d)[16], const uint32 (&a)[4], uint64 b) {
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, 1, 0; wgmma.mma_async.sync.aligned.m64n32k32.s32.u8.s8 {%0, %1, %2, %3, %4, %5, "
      "%6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, {%16, %17, %18, %19}, %20, p;}"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]), "+r"(d[4]), "+r"(d[5]), "+r"(d[6]), "+r"(d[7]), "+r"(d[8]),
        "+r"(d[9]), "+r"(d[10]), "+r"(d[11]), "+r"(d[12]), "+r"(d[13]), "+r"(d[14]), "+r"(d[15])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ inline void multiply_warpgroup(int32 (&d)[32], const uint32 (&a)[4], uint64 b) {
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, 1, 0; wgmma.mma_async.sync.aligned.m64n64k32.s32.u8.s8 {%0, %1, %2, %3, %4, %5, "
      "%6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, "
      "%29, %30, %31}, {%32, %33, %34, %35}, %36, p;}"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]), "+r"(d[4]), "+r"(d[5]), "+r"(d[6]), "+r"(d[7]), "+r"(d[8]),
        "+r"(d[9]), "+r"(d[10]), "+r"(d[11]), "+r"(d[12]), "+r"(d[13]), "+r"(d[14]), "+r"(d[15]), "+r"(d[16]),
        "+r"(d[17]), "+r"(d[18]), "+r"(d[19]), "+r"(d[20]), "+r"(d[21]), "+r"(d[22]), "+r"(d[23]), "+r"(d[24]),
        "+r"(d[25]), "+r"(d[26]), "+r"(d[27]), "+r"(d[28]), "+r"(d[29]), "+r"(d[30]), "+r"(d[31])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
/// d[64][N] += a[64][16] b[16][N]: fp16, summed in fp32.
__device__ inline void multiply_warpgroup(float (&d)[8], const uint32 (&a)[4], uint64 b) {
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, 1, 0; wgmma.mma_async.sync.aligned.m64n16k16.f32.f16.f16 {%0, %1, %2, %3, %4, %5, "
      "%6, %7}, {%8, %9, %10, %11}, %12, p, 1, 1, 0;}"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ inline void multiply_warpgroup(float (&d)[16], const uint32 (&a)[4], uint64 b) {
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, 1, 0; wgmma.mma_async.sync.aligned.m64n32k16.f32.f16.f16 {%0, %1, %2, %3, %4, %5, "
      "%6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, {%16, %17, %18, %19}, %20, p, 1, 1, 0;}"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]),
        "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ inline void multiply_warpgroup(float (&d)[32], const uint32 (&a)[4], uint64 b) {
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, 1, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {%0, %1, %2, %3, %4, %5, "
      "%6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, "
      "%29, %30, %31}, {%32, %33, %34, %35}, %36, p, 1, 1, 0;}"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]),
        "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]),
        "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]),
        "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

/// The same in bf16.
__device__ inline void multiply_warpgroup_bf16(float (&d)[8], const uint32 (&a)[4], uint64 b) {
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, 1, 0; wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, "
      "%5, "
      "%6, %7}, {%8, %9, %10, %11}, %12, p, 1, 1, 0;}"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ inline void multiply_warpgroup_bf16(float (&d)[16], const uint32 (&a)[4], uint64 b) {
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, 1, 0; wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, "
      "%5, "
      "%6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, {%16, %17, %18, %19}, %20, p, 1, 1, 0;}"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]),
        "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ inline void multiply_warpgroup_bf16(float (&d)[32], const uint32 (&a)[4], uint64 b) {
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, 1, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, "
      "%5, "
      "%6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, "
      "%29, %30, %31}, {%32, %33, %34, %35}, %36, p, 1, 1, 0;}"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]),
        "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]),
        "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]),
        "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

/// Four 8x8 matrices of 16-bit elements into shared memory, mirrored: of each, the thread has elements (lane / 4,
/// 2 * (lane % 4)) and the next; lane l gives the address of column l % 8 of matrix l / 8, which lies in one piece.
__device__ inline void store_matrices_transposed(void* column, const uint32 (&r)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(column)),
               "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
}

/// Two fp16 as bf16.
__device__ inline uint32 half_to_bf16(uint32 packed) {
  float low;
  float high;
  asm("{.reg .b16 l, h; mov.b32 {l, h}, %2; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h;}"
      : "=f"(low), "=f"(high)
      : "r"(packed));
  return pack_bf16(low, high);
}
/// The larger ones of two fp16 each.
__device__ inline uint32 largest_half(uint32 a, uint32 b) {
  uint32 out;
  asm("max.f16x2 %0, %1, %2;" : "=r"(out) : "r"(a), "r"(b));
  return out;
}
/// Products of two fp16 each.
__device__ inline uint32 multiply_half(uint32 a, uint32 b) {
  uint32 out;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(out) : "r"(a), "r"(b));
  return out;
}

/// a b + c, where a is an integer below 2^24 whose bits are taken for those of a denormal float: 2^-149 a b + c. Not
/// flushed to zero, whatever the compiler is told.
__device__ inline float multiply_add_integer(int32 a, float b, float c) {
  float d;
  asm("fma.rn.f32 %0, %1, %2, %3;" : "=f"(d) : "f"(__int_as_float(a)), "f"(b), "f"(c));
  return d;
}

}  // namespace kvc::inline v0_1::cuda::detail
