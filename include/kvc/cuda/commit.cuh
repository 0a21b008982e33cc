// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cuda/seal.cuh"

// The end of a step, and cutting sequences back, on the device.

namespace kvc::inline v0_1::cuda {

namespace detail {

/// Moves the newest rows of one stream from staging into the ring, 16 bytes per thread; all heads of a slot.
template <class Spec, bool First>
__device__ void commit_stream(const cache_view<Spec>& view, const step_view& step, int i, int slot, int64 accepted) {
  using stream_type = stream_of<Spec, First>;
  if constexpr (stream_type::has_ring) {
    constexpr int pieces = static_cast<int>(stream_type::exact_row_bytes / 16);
    const int64 length = step.seq_lens[i] + accepted;
    const int64 begin = max_of(step.seq_lens[i], length - stream_type::ring_rows);
    const int per_head = static_cast<int>(length - begin) * pieces;
    for (int e = static_cast<int>(threadIdx.x); e < view.model.stored_heads() * per_head;
         e += static_cast<int>(blockDim.x)) {
      const stream_rows<Spec, First> at(view, step, i, slot, e / per_head);
      const int64 t = begin + e % per_head / pieces;
      const int piece = e % pieces;
      const byte* from = at.staged + (t - at.committed) * stream_type::exact_row_bytes;
      byte* to = at.ring + t % stream_type::ring_rows * stream_type::exact_row_bytes;
      reinterpret_cast<uint4*>(to)[piece] = reinterpret_cast<const uint4*>(from)[piece];
    }
  }
}

template <class Spec>
KVC_KERNEL void __launch_bounds__(256)
    commit_kernel(const __grid_constant__ cache_view<Spec> view, const __grid_constant__ step_view step,
                  const __grid_constant__ step_bounds bounds, const int64* accepted) {
  const int i = static_cast<int>(blockIdx.x);
  const int slot = static_cast<int>(blockIdx.y);
  const int64 rows = accepted == nullptr ? step.rows(i) : accepted[i];
  if (rows == 0) return;
  if (reports(bounds.report, rows < 0 || rows > step.rows(i) || rows > bounds.max_rows, wrong_rows)) return;
  if (reports(bounds.report, step.sequence_id(i) < 0 || step.sequence_id(i) >= view.sequences, wrong_sequence)) return;
  commit_stream<Spec, true>(view, step, i, slot, rows);
  commit_stream<Spec, false>(view, step, i, slot, rows);
}

template <class Spec, bool First>
__device__ void unseal_stream(const cache_view<Spec>& view, const step_view& step, const step_bounds& bounds, int i,
                              int slot, int64 kept, int64 held, float* shared) {
  using stream_type = stream_of<Spec, First>;
  if constexpr (stream_type::has_ring) {
    const int64 begin = max_of<int64>(stream_type::seal_boundary(kept), stream_type::first_rows);
    const int64 end = min_of(min_of(stream_type::seal_boundary(step.seq_lens[i]), kept), held);
    const warp_team<> team;
    float* x = shared + threadIdx.x / 32 * round_up(stream_type::width, 4);
    const int64 items = end > begin ? (end - begin) * view.model.stored_heads() : 0;
    for (int64 e = threadIdx.x / 32; e < items; e += blockDim.x / 32) {
      const stream_rows<Spec, First> at(view, step, i, slot, static_cast<int>(e / (end - begin)));
      const int64 t = begin + e % (end - begin);
      if (is_out_of_range(view, step, bounds, i, t)) continue;
      at.decode_row(t, x, team);
      at.write_exact(x, at.ring + t % stream_type::ring_rows * stream_type::exact_row_bytes, team);
    }
  }
}

template <class Spec>
KVC_KERNEL void __launch_bounds__(128)
    truncate_kernel(const __grid_constant__ cache_view<Spec> view, const __grid_constant__ step_view step,
                    const __grid_constant__ step_bounds bounds, const int64* kept, const held_rows* held) {
  extern __shared__ __align__(16) byte shared[];
  float* const floats = reinterpret_cast<float*>(shared);
  const int i = static_cast<int>(blockIdx.x);
  const int slot = static_cast<int>(blockIdx.y);
  if (reports(bounds.report, kept[i] < 0 || kept[i] > step.seq_lens[i], wrong_length)) return;
  const int64 all = step.seq_lens[i];
  unseal_stream<Spec, true>(view, step, bounds, i, slot, kept[i], held == nullptr ? all : held[i].first, floats);
  unseal_stream<Spec, false>(view, step, bounds, i, slot, kept[i], held == nullptr ? all : held[i].second, floats);
}

}  // namespace detail

/// Ends a step: the first accepted[i] rows of the step's i-th sequence (null: all of them; [sequences] in device
/// memory) are kept, and those that are not sealed yet move from staging into the tail. Then advance seq_lens and
/// held_rows. Where nothing is staged it launches nothing. Every slot must have been appended. Safe under graph
/// capture.
template <class Spec>
status commit(const cache_view<Spec>& view, const step_view& step, const step_bounds& bounds, const int64* accepted,
              cudaStream_t stream) {
  const status s = detail::check_step(view, step, bounds);
  const step_bounds present = detail::within(bounds, step);
  if (s != status::ok || present.sequences == 0 || bounds.max_rows == 0) return s;
  if constexpr (Spec::has_ring) {
    const dim3 grid(static_cast<unsigned>(present.sequences), static_cast<unsigned>(view.model.slots()));
    return detail::launch(detail::commit_kernel<Spec>, grid, 256, 0, stream, "commit", view, step, present, accepted);
  }
  return status::ok;
}

/// Cuts the step's i-th sequence, which has no new rows, to kept[i] rows: rows that belong to the open tail again come
/// back into it, exactly if held[i] says that the tail still has them, as they decode otherwise (held null: all of
/// them). kept, held: [sequences] in device memory. Then set the lengths; pages past them are free. The caller has
/// made sure that no row that was dropped would be visible again. Safe under graph capture.
template <class Spec>
status truncate(const cache_view<Spec>& view, const step_view& step, const step_bounds& bounds, const int64* kept,
                const held_rows* held, cudaStream_t stream) {
  const status s = detail::check_step(view, step, bounds);
  if (s != status::ok) return s;
  if (kept == nullptr) return status::null_pointer;
  const step_bounds present = detail::within(bounds, step);
  if (present.sequences == 0) return status::ok;
  if constexpr (Spec::has_ring) {
    const dim3 grid(static_cast<unsigned>(present.sequences), static_cast<unsigned>(view.model.slots()));
    constexpr int width = round_up(max_of(Spec::first_stream::width, Spec::second_stream::width), 4);
    return detail::launch(detail::truncate_kernel<Spec>, grid, 128, 4 * width * sizeof(float), stream, "truncate", view,
                          step, present, kept, held);
  }
  return status::ok;
}

}  // namespace kvc::inline v0_1::cuda
