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

#if defined(__CUDACC_RTC__)
// NVRTC has the functions, but not all of the compilers' names for them. (Compile with -default-device: functions that
// run at compile time alone carry no execution space.)
#define __builtin_rintf rintf
#define __builtin_floorf floorf
#define __builtin_logf logf
#define __builtin_sqrtf sqrtf
#define __builtin_memcpy memcpy
#define __is_same(...) ::kvc::detail::is_same_type<__VA_ARGS__>
namespace kvc::inline v0_1::detail {
template <class, class>
inline constexpr bool is_same_type = false;
template <class T>
inline constexpr bool is_same_type<T, T> = true;
}  // namespace kvc::inline v0_1::detail
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
