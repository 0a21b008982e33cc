// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cuda/attend_plan.hpp"
#include "kvc/cuda/error.cuh"

namespace kvc::inline v0_1::cuda {

/// The numbers of the current device that plans depend on. Ask once, outside of graph capture.
inline status current_device(device_limits& limits) {
  int device = 0;
  status s = status_of(cudaGetDevice(&device), "current_device");
  const auto ask = [&](cudaDeviceAttr attribute, int& value) {
    if (s == status::ok) s = status_of(cudaDeviceGetAttribute(&value, attribute, device), "current_device");
  };
  ask(cudaDevAttrMultiProcessorCount, limits.multiprocessors);
  ask(cudaDevAttrMaxSharedMemoryPerBlockOptin, limits.shared_bytes);
  int major = 0;
  ask(cudaDevAttrComputeCapabilityMajor, major);
  limits.has_warpgroups = major == 9;
  return s;
}

}  // namespace kvc::inline v0_1::cuda
