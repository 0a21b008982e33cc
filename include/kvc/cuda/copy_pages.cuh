// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cuda/launch.cuh"

// Copies of whole blocks and tails: fork and copy on write.

namespace kvc::inline v0_1::cuda {

namespace detail {

inline constexpr int copy_threads = 256;
inline constexpr int copies_at_once = 4;
inline constexpr int64 copied_by_block = 16 * copies_at_once * copy_threads;
inline unsigned copy_blocks(int64 bytes) {
  return static_cast<unsigned>(max_of<int64>(1, ceil_div(bytes, copied_by_block)));
}

/// The share of block blockIdx.z: 16 bytes at a time, all asked for before the first is written; the last bytes of what
/// is not a multiple of 16 one by one.
__device__ inline void copy_bytes(byte* to, const byte* from, int64 bytes) {
  const int64 begin = blockIdx.z * copied_by_block;
  const int64 whole = bytes / 16 * 16;
  uint4 x[copies_at_once];
#pragma unroll
  for (int i = 0; i < copies_at_once; ++i) {
    const int64 at = begin + 16 * (i * copy_threads + static_cast<int>(threadIdx.x));
    if (at < whole) x[i] = *reinterpret_cast<const uint4*>(from + at);
  }
#pragma unroll
  for (int i = 0; i < copies_at_once; ++i) {
    const int64 at = begin + 16 * (i * copy_threads + static_cast<int>(threadIdx.x));
    if (at < whole) *reinterpret_cast<uint4*>(to + at) = x[i];
  }
  if (blockIdx.z == 0 && whole + static_cast<int>(threadIdx.x) < bytes) {
    to[whole + threadIdx.x] = from[whole + threadIdx.x];
  }
}

template <class Spec>
KVC_KERNEL void __launch_bounds__(copy_threads) copy_pages_kernel(const __grid_constant__ cache_view<Spec> view,
                                                                  const int32* from, const int32* to, uint32* report) {
  const int32 source = from[blockIdx.x];
  const int32 target = to[blockIdx.x];
  if (source < 0) return;
  if (reports(report, source >= view.blocks || target < 0 || target >= view.blocks, wrong_table)) return;
  const int slot = static_cast<int>(blockIdx.y);
  copy_bytes(view.page(slot, target), view.page(slot, source), Spec::page_bytes(view.model.stored_heads()));
}

template <class Spec>
KVC_KERNEL void __launch_bounds__(copy_threads) copy_tails_kernel(const __grid_constant__ cache_view<Spec> view,
                                                                  const int32* from, const int32* to, uint32* report) {
  const int32 source = from[blockIdx.x];
  const int32 target = to[blockIdx.x];
  if (source < 0) return;
  if (reports(report, source >= view.sequences || target < 0 || target >= view.sequences, wrong_sequence)) return;
  const int64 bytes = Spec::tail_slot_bytes(view.model.stored_heads());
  const int64 offset = static_cast<int64>(blockIdx.y) * bytes;
  copy_bytes(view.tails + target * view.tail_stride + offset, view.tails + source * view.tail_stride + offset, bytes);
}

template <class Spec>
status check_copies(const cache_view<Spec>& view, const int32* from, const int32* to, int count) {
  const status s = kvc::detail::check_view(view);
  if (s != status::ok) return s;
  if (count < 0) return status::invalid_argument;
  return count > 0 && (from == nullptr || to == nullptr) ? status::null_pointer : status::ok;
}

}  // namespace detail

/// Copies block from[i] to block to[i] in all slots: copy on write. A negative from[i] is skipped, so that a captured
/// graph can replay with fewer copies. from, to: [count] in device memory; a block is not both.
template <class Spec>
status copy_pages(const cache_view<Spec>& view, const int32* from, const int32* to, int count, cudaStream_t stream,
                  uint32* report = nullptr) {
  const status s = detail::check_copies(view, from, to, count);
  if (s != status::ok || count == 0) return s;
  const dim3 grid(static_cast<unsigned>(count), static_cast<unsigned>(view.model.slots()),
                  detail::copy_blocks(Spec::page_bytes(view.model.stored_heads())));
  return detail::launch(detail::copy_pages_kernel<Spec>, grid, detail::copy_threads, 0, stream, "copy_pages", view,
                        from, to, report);
}

/// Copies the exact rows of sequence from[i] to sequence to[i]: what a fork needs beside a table that names the same
/// blocks. A negative from[i] is skipped. from, to: [count] in device memory.
template <class Spec>
status copy_tails(const cache_view<Spec>& view, const int32* from, const int32* to, int count, cudaStream_t stream,
                  uint32* report = nullptr) {
  const status s = detail::check_copies(view, from, to, count);
  if (s != status::ok || count == 0 || !Spec::has_tail) return s;
  const dim3 grid(static_cast<unsigned>(count), static_cast<unsigned>(view.model.slots()),
                  detail::copy_blocks(Spec::tail_slot_bytes(view.model.stored_heads())));
  return detail::launch(detail::copy_tails_kernel<Spec>, grid, detail::copy_threads, 0, stream, "copy_tails", view,
                        from, to, report);
}

}  // namespace kvc::inline v0_1::cuda
