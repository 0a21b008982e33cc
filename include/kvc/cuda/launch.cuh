// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cache/view.hpp"
#include "kvc/cuda/bounds.hpp"
#include "kvc/cuda/error.cuh"

// What all launchers share: how kernels are declared, checked and started.

/// A kernel is hidden: two libraries in one process, built against other versions or for other GPUs, keep their own.
#define KVC_KERNEL __attribute__((visibility("hidden"))) __global__

namespace kvc::inline v0_1::cuda {

namespace detail {

/// What kernels report through step_bounds::report.
enum report_code : uint32 { nothing_wrong = 0, wrong_sequence = 1, wrong_table = 2, wrong_length = 3, wrong_rows = 4 };

/// Where a report is asked for: remembers `code` and answers true if something is out of range.
__device__ inline bool reports(uint32* report, bool wrong, report_code code) {
  if (report == nullptr || !wrong) return false;
  atomicMax(report, static_cast<uint32>(code));
  return true;
}

/// Asks for a kernel's shared memory beyond 48 KB; more than the device has is status::unsupported.
template <class... Parameters>
status allow_shared(void (*kernel)(Parameters...), std::size_t bytes, const char* call) {
  if (bytes <= 48 * 1024) return status::ok;
  int device = 0;
  int most = 0;
  status s = status_of(cudaGetDevice(&device), call);
  if (s == status::ok) {
    s = status_of(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), call);
  }
  if (s != status::ok) return s;
  if (bytes > static_cast<std::size_t>(most)) return status::unsupported;
  const cudaError_t allowed =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  if (allowed == cudaSuccess) return status::ok;
  static_cast<void>(cudaGetLastError());  // sticky ones stay
  return allowed == cudaErrorInvalidValue ? status::unsupported : status_of(allowed, call);
}

/// Starts a kernel with the shared memory that it is allowed. All else that the runtime says, such as what an earlier
/// kernel did, is an error of the device.
template <class... Parameters, class... Arguments>
status launch(void (*kernel)(Parameters...), dim3 grid, int threads, std::size_t shared, cudaStream_t stream,
              const char* call, const Arguments&... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return status::ok;
  const status allowed = allow_shared(kernel, shared, call);
  if (allowed != status::ok) return allowed;
  kernel<<<grid, static_cast<unsigned>(threads), shared, stream>>>(arguments...);
  return status_of(cudaGetLastError(), call);
}

/// What of the bounds a step has.
inline step_bounds within(step_bounds bounds, const step_view& step) {
  bounds.sequences = min_of(bounds.sequences, step.sequences);
  return bounds;
}

/// The parts of a step that the host sees.
template <class Spec>
status check_step(const cache_view<Spec>& view, const step_view& step, const step_bounds& bounds) {
  status s = kvc::detail::check_view(view);
  if (s != status::ok) return s;
  if (reinterpret_cast<size_type>(view.staging) % 16 != 0 || view.tail_stride % 16 != 0) return status::misaligned;
  if (step.sequences < 0 || bounds.sequences < 0 || bounds.total_rows < 0 || bounds.max_rows < 0 ||
      bounds.max_length < 0) {
    return status::invalid_argument;
  }
  if (bounds.max_rows > bounds.total_rows) return status::invalid_argument;
  if (bounds.sequences == 0 || step.sequences == 0) return status::ok;
  if (step.seq_lens == nullptr || step.row_indptr == nullptr || step.block_table == nullptr)
    return status::null_pointer;
  if (ceil_div<int64>(bounds.max_length, Spec::tokens_per_page) > step.block_table_stride) {
    return status::out_of_capacity;
  }
  if (Spec::has_ring && bounds.total_rows > view.staging_rows) return status::out_of_capacity;
  return status::ok;
}

/// The same, and that `layer` appends.
template <class Spec>
status check_append(const cache_view<Spec>& view, const step_view& step, const step_bounds& bounds, int layer) {
  const status s = check_step(view, step, bounds);
  if (s != status::ok) return s;
  if (layer < 0 || layer >= view.model.layers) return status::bad_layer;
  return view.model.writes(layer) ? status::ok : status::follower_layer;
}

/// Rows x heads of a launch: indices of 32 bits, with room for what the last block has too many.
inline constexpr int64 most_items = 0x7fff0000;

constexpr unsigned blocks_for(int64 items, int64 per_block) {
  return static_cast<unsigned>(kvc::ceil_div(items, per_block));
}

}  // namespace detail

}  // namespace kvc::inline v0_1::cuda
