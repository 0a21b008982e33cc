// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/core/math.hpp"

// The instructions of sm_80 that the kernels are made of: asynchronous copies, 8x8 matrix loads, products of bf16 and
// of bytes.

namespace kvc::inline v0_1::cuda::detail {

__device__ inline uint32 shared_address(const void* p) {
  return static_cast<uint32>(__cvta_generic_to_shared(p));
}

/// Bytes (4, 8 or 16) from global to shared memory; wait_copies orders them.
template <int Bytes>
__device__ inline void copy_async(void* shared, const void* global) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(shared_address(shared)), "l"(global), "n"(Bytes));
}
template <>
__device__ inline void copy_async<16>(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(shared)), "l"(global));
}
/// 16 bytes if `wanted`, without a branch.
__device__ inline void copy_async_if(bool wanted, void* shared, const void* global) {
  asm volatile("{.reg .pred p; setp.ne.u32 p, %2, 0; @p cp.async.cg.shared.global [%0], [%1], 16;}" ::"r"(
                   shared_address(shared)),
               "l"(global), "r"(static_cast<uint32>(wanted)));
}
__device__ inline void commit_copies() {
  asm volatile("cp.async.commit_group;");
}
/// Waits until all but the newest Pending groups of this thread are there.
template <int Pending>
__device__ inline void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

/// Four 8x8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8.
/// Of each, the thread gets elements (lane / 4, 2 * (lane % 4)) and the next; transposed, their mirror images.
__device__ inline void load_matrices(uint32 (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ inline void load_matrices_transposed(uint32 (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

/// The same, of memory that only barriers separate from its writers: other accesses may pass.
template <bool Transposed = false>
__device__ inline void load_settled_matrices(uint32 (&r)[4], const void* row) {
  if constexpr (Transposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row)));
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row)));
  }
}

/// The mirror image of an 8x8 matrix of 16-bit elements, of which a thread has (lane / 4, 2 * (lane % 4)) and the next.
__device__ inline uint32 transpose(uint32 elements) {
  uint32 r;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(r) : "r"(elements));
  return r;
}

/// c[16][8] += a[16][16] b[16][8]. Volatile: else the compiler may move it to where only some lanes go.
__device__ inline void multiply_add(float (&c)[4], const uint32 (&a)[4], uint32 b0, uint32 b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// c[16][8] += a[16][8] b[8][8].
__device__ inline void multiply_add_half(float (&c)[4], uint32 a0, uint32 a1, uint32 b) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a0), "r"(a1), "r"(b));
}

/// c[16][8] += a[16][32] b[32][8] in integers; b are unsigned bytes, a signed or unsigned ones.
__device__ inline void multiply_add_signed(int32 (&c)[4], const uint32 (&a)[4], uint32 b0, uint32 b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.u8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ inline void multiply_add_unsigned(int32 (&c)[4], const uint32 (&a)[4], uint32 b0, uint32 b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.u8.u8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// c[16][8] += a[16][32] b[32][8] in integers: a are unsigned bytes, b signed ones.
__device__ inline void multiply_add_bytes(int32 (&c)[4], const uint32 (&a)[4], uint32 b0, uint32 b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// c[16][8] += a[16][16] b[16][8]: fp16, summed in fp32.
__device__ inline void multiply_add_fp16(float (&c)[4], const uint32 (&a)[4], uint32 b0, uint32 b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Two fp32 as fp16, rounded to nearest even, the first in the low half.
__device__ inline uint32 pack_half(float low, float high) {
  uint32 packed;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

/// Two fp32 as bf16, rounded to nearest even, the first in the low half.
__device__ inline uint32 pack_bf16(float low, float high) {
  uint32 packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}
__device__ inline float low_bf16(uint32 packed) {
  return bits_float(packed << 16);
}
__device__ inline float high_bf16(uint32 packed) {
  return bits_float(packed & 0xffff0000u);
}
/// a b + c of two bf16 each.
__device__ inline uint32 multiply_add_pair(uint32 a, uint32 b, uint32 c) {
  uint32 out;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(out) : "r"(a), "r"(b), "r"(c));
  return out;
}
/// What rounding to bf16 left of two values, as bf16; zero where the value is not finite.
__device__ inline uint32 pack_rest(float low, float high, uint32 packed) {
  const float a = is_finite(low) ? low - low_bf16(packed) : 0.0f;
  const float b = is_finite(high) ? high - high_bf16(packed) : 0.0f;
  return pack_bf16(a, b);
}

/// 2^x; the hardware's approximation, relative error below 2^-22.
__device__ inline float exp2_of(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// 1 / x, relative error below 2^-22.
__device__ inline float reciprocal_of(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace kvc::inline v0_1::cuda::detail
