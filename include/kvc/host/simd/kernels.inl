// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The kernels of all instruction sets: included by dispatch.hpp, or, where KVC_SEPARATE_KERNELS is defined, by one
// source file of the program.

#include "kvc/host/simd/amx.hpp"
#include "kvc/host/simd/avx2.hpp"
#include "kvc/host/simd/avx512.hpp"
#include "kvc/host/simd/instruction_set.hpp"
#include "kvc/host/simd/neon.hpp"
#include "kvc/host/simd/portable.hpp"

#if defined(KVC_SEPARATE_KERNELS)
#define KVC_ONCE
#else
#define KVC_ONCE inline
#endif

namespace kvc::inline v0_1::host::detail {

KVC_ONCE const kernel_table* table_of(instruction_set set) {
#if defined(__x86_64__) && !defined(__CUDA_ARCH__)
  if (set == instruction_set::amx) return &amx::table;
  if (set == instruction_set::avx512) return &avx512::table;
  if (set == instruction_set::avx2) return &avx2::table;
#elif defined(__aarch64__) && !defined(__CUDA_ARCH__)
  if (set == instruction_set::neon) return &neon::table;
#endif
  return &portable::table;
}

}  // namespace kvc::inline v0_1::host::detail

#undef KVC_ONCE
