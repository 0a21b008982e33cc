// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/core/team.hpp"

// Teams of GPU threads (core/team.hpp says what a team is). Blocks are one-dimensional and a multiple of 32 threads.
// The functions are host and device functions, because the tile functions that call them are; on the host they answer
// as a team of one would, and nobody calls them there.

namespace kvc::inline v0_1::cuda {

/// Lanes neighbouring threads of a warp, a power of two; the warp is divided among 32 / Lanes teams. Joined: all teams
/// of the warp call a function together, which saves the instructions that find out who does.
template <int Lanes = 32, bool Joined = false>
struct warp_team {
  static_assert(Lanes >= 1 && Lanes <= 32 && (Lanes & (Lanes - 1)) == 0, "kvc: a warp team has 1, 2, 4 ... 32 threads");

  KVC_HD static int rank() {
#if defined(__CUDA_ARCH__)
    return static_cast<int>(threadIdx.x) % Lanes;
#else
    return 0;
#endif
  }
  KVC_HD static constexpr int size() {
    return Lanes;
  }
  KVC_HD static void sync() {
#if defined(__CUDA_ARCH__)
    if constexpr (Lanes > 1) __syncwarp(mask());
#endif
  }
  KVC_HD static float sum(float x) {
    return reduce(x, [](float a, float b) { return a + b; });
  }
  KVC_HD static float largest(float x) {
    return reduce(x, [](float a, float b) { return b > a ? b : a; });
  }
  KVC_HD static float least(float x) {
    return reduce(x, [](float a, float b) { return b < a ? b : a; });
  }
  KVC_HD static bool any(bool x) {
#if defined(__CUDA_ARCH__)
    if constexpr (Lanes == 1) return x;
    if constexpr (Joined) return (__ballot_sync(0xffffffffu, x) & own_mask()) != 0;
    return __any_sync(mask(), x) != 0;
#else
    return x;
#endif
  }
  KVC_HD static float broadcast(float x) {
#if defined(__CUDA_ARCH__)
    return Lanes == 1 ? x : __shfl_sync(mask(), x, 0, Lanes);
#else
    return x;
#endif
  }
  KVC_HD static float exchange(float x, int bits) {
#if defined(__CUDA_ARCH__)
    return __shfl_xor_sync(mask(), x, bits, Lanes);
#else
    static_cast<void>(bits);
    return x;
#endif
  }
  template <int Threads>
  KVC_HD static auto part() {
    static_assert(Lanes % Threads == 0);
    if constexpr (Threads == 1) {
      return serial_team{};
    } else {
      return warp_team<Threads, Joined>{};
    }
  }

  /// The lanes that call together.
  KVC_HD static unsigned mask() {
    return Joined ? 0xffffffffu : own_mask();
  }

 private:
  /// This team's lanes of the warp.
  KVC_HD static unsigned own_mask() {
#if defined(__CUDA_ARCH__)
    if constexpr (Lanes == 32) return 0xffffffffu;
    return ((1u << (Lanes % 32)) - 1u) << (threadIdx.x % 32 / Lanes * Lanes);
#else
    return 1u;
#endif
  }
  template <class Operation>
  KVC_HD static float reduce(float x, const Operation& f) {
#if defined(__CUDA_ARCH__)
    for (int offset = Lanes / 2; offset > 0; offset /= 2) x = f(x, __shfl_xor_sync(mask(), x, offset, Lanes));
#else
    static_cast<void>(f);
#endif
    return x;
  }
};

/// All Threads threads of a block.
template <int Threads>
struct block_team {
  static_assert(Threads % 32 == 0 && Threads <= 1024, "kvc: a block team has a multiple of 32 threads, at most 1024");

  KVC_HD static int rank() {
#if defined(__CUDA_ARCH__)
    return static_cast<int>(threadIdx.x);
#else
    return 0;
#endif
  }
  KVC_HD static constexpr int size() {
    return Threads;
  }
  KVC_HD static void sync() {
#if defined(__CUDA_ARCH__)
    __syncthreads();
#endif
  }
  KVC_HD static float sum(float x) {
    return reduce(warp_team<>::sum(x), [](float a, float b) { return a + b; });
  }
  KVC_HD static float largest(float x) {
    return reduce(warp_team<>::largest(x), [](float a, float b) { return b > a ? b : a; });
  }
  KVC_HD static float least(float x) {
    return reduce(warp_team<>::least(x), [](float a, float b) { return b < a ? b : a; });
  }
  KVC_HD static bool any(bool x) {
#if defined(__CUDA_ARCH__)
    return __syncthreads_or(x) != 0;
#else
    return x;
#endif
  }
  KVC_HD static float broadcast(float x) {
#if defined(__CUDA_ARCH__)
    __shared__ float first;
    __syncthreads();  // the last one was read
    if (threadIdx.x == 0) first = x;
    __syncthreads();
    return first;
#else
    return x;
#endif
  }
  template <int Count>
  KVC_HD static auto part() {
    if constexpr (Count == Threads) {
      return block_team{};
    } else {
      return warp_team<32>::part<Count>();
    }
  }

 private:
  /// x: one number per warp.
  template <class Operation>
  KVC_HD static float reduce(float x, const Operation& f) {
#if defined(__CUDA_ARCH__)
    __shared__ float of_warp[Threads / 32];
    __syncthreads();  // the last ones were read
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;
    __syncthreads();
    x = of_warp[0];
    for (int w = 1; w < Threads / 32; ++w) x = f(x, of_warp[w]);
#else
    static_cast<void>(f);
#endif
    return x;
  }
};

}  // namespace kvc::inline v0_1::cuda
