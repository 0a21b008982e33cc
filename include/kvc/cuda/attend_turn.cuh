// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cuda_runtime.h>

#include "kvc/cuda/turning.hpp"

// Turning pairs of channels.

namespace kvc::inline v0_1::cuda::detail {

/// Two channels turned by an angle {cos, sin}: rotary::deferred's own formula.
__device__ inline void turn_pair(float& x, float& y, float cosine, float sine) {
  const float turned = x * cosine - y * sine;
  y = x * sine + y * cosine;
  x = turned;
}

/// The angles of a position, which table_view::at would find with a multiplication.
template <class Order>
__device__ const float* angles_of(const rotary::table_view& table, int64 position) {
  return table.cos_sin + position * (2 * Order::count);
}

/// {cos, sin} of an even pair and the next one.
template <class Order>
__device__ float4 load_angles(const float* angles, int pair) {
  if constexpr (Order::count % 2 == 0) {
    if (Order::is_all || pair < Order::count) return __ldg(reinterpret_cast<const float4*>(angles) + pair / 2);
    return make_float4(1, 0, 1, 0);
  } else {
    const float2* at = reinterpret_cast<const float2*>(angles) + pair;
    const float2 first = pair < Order::count ? __ldg(at) : make_float2(1, 0);
    const float2 second = pair + 1 < Order::count ? __ldg(at + 1) : make_float2(1, 0);
    return make_float4(first.x, first.y, second.x, second.y);
  }
}

}  // namespace kvc::inline v0_1::cuda::detail
