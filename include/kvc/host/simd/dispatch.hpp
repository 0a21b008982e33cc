// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <atomic>

#include "kvc/core/status.hpp"
#include "kvc/host/simd/calls.hpp"
#include "kvc/host/simd/instruction_set.hpp"
#if !defined(KVC_SEPARATE_KERNELS)
#include "kvc/host/simd/kernels.inl"
#endif

// Which instruction set the host's kernels use. One binary holds all of them; the best one that the machine has is
// taken, without compiler flags. They are compiled wherever attention is used; a program of many sources may define
// KVC_SEPARATE_KERNELS for all of them and include kvc/host/simd/kernels.inl in one.

namespace kvc::inline v0_1::host {

namespace detail {

#if defined(KVC_SEPARATE_KERNELS)
const kernel_table* table_of(instruction_set set);
#endif

inline std::atomic<instruction_set>& chosen_set() {
  static std::atomic<instruction_set> set{best_instruction_set()};
  return set;
}

inline const kernel_table& kernels() {
  return *table_of(chosen_set().load(std::memory_order_relaxed));
}

}  // namespace detail

/// The one in use.
inline instruction_set active_instruction_set() {
  return detail::chosen_set().load(std::memory_order_relaxed);
}

/// For tests and comparisons: all calls that begin later use it. Answers unsupported where the machine lacks it.
inline status use_instruction_set(instruction_set set) {
  if (!has(set)) return status::unsupported;
  detail::chosen_set().store(set, std::memory_order_relaxed);
  return status::ok;
}

}  // namespace kvc::inline v0_1::host
