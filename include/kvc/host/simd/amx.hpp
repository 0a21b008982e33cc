// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The kernels of AVX-512, with products of packed codes in tiles (AMX-INT8): code_tiles.inl.

#if defined(__x86_64__) && !defined(__CUDA_ARCH__)

#include "kvc/host/simd/avx512.hpp"

#if defined(__CUDACC__)  // nvcc warns of the host compiler's pragmas
#pragma nv_diagnostic push
#pragma nv_diag_suppress 1675
#endif

#define KVC_SIMD inline __attribute__((always_inline))
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")
#endif

namespace kvc::inline v0_1::host::detail::amx {

using namespace avx512;

inline constexpr int tile_bytes = 1024;  ///< 16 rows of 64 bytes

// By hand: compilers know tile registers only as numbers, and g++ wants them switched on.
template <int Tile>
KVC_SIMD void load_tile(const void* rows, int64 pitch) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(rows), "r"(pitch), "i"(Tile) : "memory");
}
template <int Tile>
KVC_SIMD void store_tile(void* rows) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(rows), "r"(int64{64}), "i"(Tile) : "memory");
}
template <int D, int A, int B>
KVC_SIMD void multiply_tiles() {
  asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(D), "i"(A), "i"(B));
}

/// All eight tiles of 16 rows of 64 bytes. They are the thread's until `end`: no other code may use tiles meanwhile.
inline void begin() {
  struct alignas(64) shape {
    uint8 palette = 1;
    uint8 start_row = 0;
    uint8 reserved[14] = {};
    uint16 row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8 rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  };
  static constexpr shape all{};
  static_assert(sizeof(shape) == 64);
  asm volatile("ldtilecfg %0" ::"m"(all));
}
inline void end() {
  asm volatile("tilerelease");
}

/// A field of the bytes x: bits are moved by a product with a matrix of bits, whose row for bit i is its byte 7 - i.
template <int Fields, int Field>
KVC_SIMD words field_of(words x) {
  constexpr int bits = 8 / Fields;
  if constexpr (Field == 0) return and_words(x, field_mask(bits));
  constexpr int64 matrix = [] {
    int64 m = 0;
    for (int i = 0; i < bits; ++i) m |= int64{1} << (8 * (7 - i) + Field * bits + i);
    return m;
  }();
  words y;
  asm("vgf2p8affineqb $0, %2, %1, %0" : "=v"(y) : "v"(x), "v"(_mm512_set1_epi64(matrix)));
  return y;
}

#include "kvc/host/simd/code_tiles.inl"

constexpr kernel_table make_amx_table() {
  kernel_table t = avx512::table;
  t.begin = begin;
  t.end = end;
  t.score_codes = score_codes;
  t.sum_codes = sum_codes;
  return t;
}
inline constexpr kernel_table table = make_amx_table();

}  // namespace kvc::inline v0_1::host::detail::amx

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef KVC_SIMD
#if defined(__CUDACC__)
#pragma nv_diagnostic pop
#endif

#endif
