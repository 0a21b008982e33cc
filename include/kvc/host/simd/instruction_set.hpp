// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#if defined(__x86_64__) && !defined(__CUDA_ARCH__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

// The instruction sets that the host's kernels exist for.

namespace kvc::inline v0_1::host {

enum class instruction_set {
  portable,
  avx2,    ///< AVX2, FMA, F16C
  avx512,  ///< AVX-512 F, BW, VL, DQ and VNNI
  amx,     ///< the same and AMX-INT8, under Linux
  neon,    ///< of 64-bit ARM
};

/// All of them, the best first.
inline constexpr instruction_set instruction_sets[] = {instruction_set::neon, instruction_set::amx,
                                                       instruction_set::avx512, instruction_set::avx2,
                                                       instruction_set::portable};

inline const char* name_of(instruction_set set) {
  switch (set) {
    case instruction_set::portable:
      return "portable";
    case instruction_set::avx2:
      return "AVX2";
    case instruction_set::avx512:
      return "AVX-512 VNNI";
    case instruction_set::amx:
      return "AMX";
    case instruction_set::neon:
      return "NEON";
  }
  return "unknown";
}

namespace detail {

/// Whether this process may use tiles. Linux wants to be asked before their registers are used, once for all threads;
/// it refuses where a thread's stack for signals is too short for them, and from then on refuses stacks that are. Where
/// KVC_NO_AMX is defined, in all sources, it is not asked.
inline bool may_use_tiles() {
#if defined(__x86_64__) && !defined(__CUDA_ARCH__) && defined(__linux__) && !defined(KVC_NO_AMX)
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  constexpr unsigned tile_and_int8 = 3u << 24;
  constexpr unsigned gfni = 1u << 8;
  constexpr long request_permission = 0x1023;
  constexpr long tile_data = 18;
  return (d & tile_and_int8) == tile_and_int8 && (c & gfni) != 0 &&
         syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
  return false;
#endif
}

}  // namespace detail

/// Whether this machine has it.
inline bool has(instruction_set set) {
#if defined(__x86_64__) && !defined(__CUDA_ARCH__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");  // F16C came with them
  if (set == instruction_set::avx2) return avx2;
  if (set == instruction_set::avx512 || set == instruction_set::amx) {
    return (set == instruction_set::avx512 || detail::may_use_tiles()) && avx2 && __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
  }
#elif defined(__aarch64__) && !defined(__CUDA_ARCH__)
  if (set == instruction_set::neon) return true;
#endif
  return set == instruction_set::portable;
}

inline instruction_set best_instruction_set() {
  for (const instruction_set set : instruction_sets) {
    if (has(set)) return set;
  }
  return instruction_set::portable;
}

}  // namespace kvc::inline v0_1::host
