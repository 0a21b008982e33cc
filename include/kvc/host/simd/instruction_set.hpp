// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The instruction sets that the host's kernels exist for.

namespace kvc::inline v0_1::host {

enum class instruction_set {
  portable,
  avx2,    ///< AVX2, FMA, F16C
  avx512,  ///< AVX-512 F, BW, VL, DQ and VNNI
  neon,    ///< of 64-bit ARM
};

/// All of them, the best first.
inline constexpr instruction_set instruction_sets[] = {instruction_set::neon, instruction_set::avx512,
                                                       instruction_set::avx2, instruction_set::portable};

inline const char* name_of(instruction_set set) {
  switch (set) {
    case instruction_set::portable:
      return "portable";
    case instruction_set::avx2:
      return "AVX2";
    case instruction_set::avx512:
      return "AVX-512 VNNI";
    case instruction_set::neon:
      return "NEON";
  }
  return "unknown";
}

/// Whether this machine has it.
inline bool has(instruction_set set) {
#if defined(__x86_64__) && !defined(__CUDA_ARCH__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");  // F16C came with them
  if (set == instruction_set::avx2) return avx2;
  if (set == instruction_set::avx512) {
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
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
