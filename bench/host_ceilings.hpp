// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cstddef>
#include <cstdint>

// What this machine can do at most, measured beside what is benchmarked. Each operation is compiled for its own
// instruction set whatever the flags, and is absent (0, false) where the CPU or the compiler lacks it.

namespace kvc_bench {

/// Each runs `rounds` rounds of independent instructions on registers alone and returns the operations done: a
/// multiplication and an addition each count as one.
double integer_dots(long rounds);  ///< vpdpbusd, 512 bits
double tile_dots(long rounds);     ///< tdpbusd; the caller has found that the process may use tiles
double bf16_dots(long rounds);     ///< vdpbf16ps, 512 bits
double fp32_fmas(long rounds);     ///< 512 bits, else 256 bits

bool has_integer_dots();
bool has_bf16_dots();
bool has_fp32_fmas();

/// Reads `bytes` from `data`, multiples of 64, in the widest loads that there are. Returns a sum of it.
std::uint64_t read_all(const void* data, std::size_t bytes);

/// The plainest compression there is: fp32 to bf16, rounded to even, in order. count: a multiple of 32.
void copy_to_bf16(const float* from, std::size_t count, std::uint16_t* to);

}  // namespace kvc_bench
