// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The only macros of the library, and the few integer names that every header needs.
// All code lives in the inline namespace of its version: objects built against two versions link side by side.

#ifndef __CUDACC_RTC__
#include <cstddef>
#include <cstdint>
#endif

#if defined(__FAST_MATH__)
#error "kvc: -ffast-math is refused: codes and NaN handling would depend on the compiler. Build without it."
#endif

#if defined(__CUDACC__)
#define KVC_HD __host__ __device__ inline
#else
#define KVC_HD inline
#endif

namespace kvc::inline v0_1 {

/// Raw storage of codes, scales and exact rows.
using byte = unsigned char;

#if defined(__CUDACC_RTC__)
using int8 = signed char;
using int32 = int;
using int64 = long long;
using uint8 = unsigned char;
using uint16 = unsigned short;
using uint32 = unsigned int;
using uint64 = unsigned long long;
using size_type = unsigned long;
#else
using int8 = std::int8_t;
using int32 = std::int32_t;
using int64 = std::int64_t;
using uint8 = std::uint8_t;
using uint16 = std::uint16_t;
using uint32 = std::uint32_t;
using uint64 = std::uint64_t;
using size_type = std::size_t;
#endif

}  // namespace kvc::inline v0_1
