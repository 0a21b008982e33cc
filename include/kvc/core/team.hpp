// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/core/math.hpp"

// A team is the threads that execute a tile function together. Row functions take one as their last argument and are
// written once: thread `rank` of `size` takes every size-th element (or packing unit), and sync() stands between what
// one thread writes and another reads.
//
//   rank(), size()          of this thread, and how many there are; size() is known at compile time
//   sync()                  what the team wrote before it, all of the team reads after it
//   sum, largest, least     of one number per thread, any: of one truth per thread; every thread gets the result
//   broadcast(x)            the first thread's x
//   exchange(x, bits)       the x of the thread whose rank differs in these bits
//   part<N>()               the aligned team of N threads that this thread is in; N a power of two that divides size()
//   rotate<Width, Block>(x) if it has that: a faster rotation (quant/rotated.hpp), of the same bits
//
// A team function is entered by all threads, after its inputs are visible to all of them, and left with its outputs
// visible to all of them. Rows of teams of more than one thread lie in memory that they share. cuda/team.cuh has the
// teams of a warp and of a block.
//
// Functions of *shares* are the exception: a row lies in the registers of its team, Width / size() neighbouring
// channels per thread, x: [Width / size()], and nobody waits.

namespace kvc::inline v0_1 {

/// One thread on its own: what every team function is called with on the host. All of it compiles to nothing.
struct serial_team {
  KVC_HD static constexpr int rank() { return 0; }
  KVC_HD static constexpr int size() { return 1; }
  KVC_HD static constexpr void sync() {}
  KVC_HD static constexpr float sum(float x) { return x; }
  KVC_HD static constexpr float largest(float x) { return x; }
  KVC_HD static constexpr float least(float x) { return x; }
  KVC_HD static constexpr bool any(bool x) { return x; }
  KVC_HD static constexpr float broadcast(float x) { return x; }
  KVC_HD static constexpr float exchange(float x, int /*bits*/) { return x; }
  template <int Threads>
  KVC_HD static constexpr serial_team part() {
    static_assert(Threads == 1);
    return {};
  }
};

}  // namespace kvc::inline v0_1
