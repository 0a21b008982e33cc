// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/host/simd/dispatch.hpp"

// Portable functions, compiled for the instruction set in use: codecs and row transforms are written once, as plain
// loops, and what they call is inlined into one function per set, where the compiler may use all of it. Without
// optimisation they stay what they are.

namespace kvc::inline v0_1::host::detail {

#if !defined(__OPTIMIZE__)
#define KVC_COMPILED __attribute__((noinline))
#elif defined(__clang__)
#define KVC_COMPILED __attribute__((flatten, noinline))
#define KVC_WIDE ""
#else  // products stay apart from sums: codes must not depend on the instruction set
#define KVC_COMPILED __attribute__((flatten, noinline, optimize("O3,fp-contract=off")))
#define KVC_WIDE ",prefer-vector-width=512"
#endif

template <class Function>
KVC_COMPILED void compiled_for_any(const Function& f) {
  f();
  asm volatile("" : : : "memory");  // g++ 12 takes some of these calls for free of effects, and drops them
}
#if defined(__x86_64__) && !defined(__CUDA_ARCH__) && defined(__OPTIMIZE__)
template <class Function>
KVC_COMPILED __attribute__((target("avx2,fma,f16c"))) void compiled_for_avx2(const Function& f) {
  f();
  asm volatile("" : : : "memory");  // g++ 12 takes some of these calls for free of effects, and drops them
}
template <class Function>
KVC_COMPILED __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c" KVC_WIDE))) void
compiled_for_avx512(const Function& f) {
  f();
  asm volatile("" : : : "memory");  // g++ 12 takes some of these calls for free of effects, and drops them
}
#endif
#undef KVC_WIDE
#undef KVC_COMPILED

/// Calls f(), compiled for the instruction set in use.
template <class Function>
inline void compiled(const Function& f) {
#if defined(__x86_64__) && !defined(__CUDA_ARCH__) && defined(__OPTIMIZE__)
  switch (active_instruction_set()) {
    case instruction_set::amx:
    case instruction_set::avx512:
      return compiled_for_avx512(f);
    case instruction_set::avx2:
      return compiled_for_avx2(f);
    case instruction_set::portable:
    case instruction_set::neon:
      break;
  }
#endif
  compiled_for_any(f);
}

}  // namespace kvc::inline v0_1::host::detail
