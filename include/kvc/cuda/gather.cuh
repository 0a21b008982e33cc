// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cuda/seal.cuh"

// Rows back from a composed cache, on the device.

namespace kvc::inline v0_1::cuda {

namespace detail {

template <class Spec, class T>
struct gather_call {
  cache_view<Spec> view;
  step_view step;
  int index;
  int slot;
  int64 begin;
  int64 end;
  rows_view<T> first;   ///< [end - begin][stored_heads][model_width]
  rows_view<T> second;  ///< the same of the second stream
  uint32* report;
};

/// A team per row and stored head.
template <class Spec, bool First, class T>
__device__ void gather_rows(const gather_call<Spec, T>& c, float* shared) {
  using stream_type = stream_of<Spec, First>;
  using teams = row_teams<stream_type>;
  const typename teams::team team;
  const int heads = c.view.model.stored_heads();
  const unsigned item = blockIdx.x * teams::per_block + threadIdx.x / teams::lanes;
  const int64 t = c.begin + item / static_cast<unsigned>(heads);
  const int head = static_cast<int>(item % static_cast<unsigned>(heads));
  if (t >= c.end) return;
  const int64 length = c.step.seq_lens[c.index];
  if (reports(c.report, t >= length, wrong_length)) return;
  const int32 block = c.step.block(c.index, t / Spec::tokens_per_page);
  if (reports(c.report, block < 0 || block >= c.view.blocks, wrong_table)) return;

  const stream_rows<Spec, First> at(c.view, c.step, c.index, c.slot, head);
  const float* constants = c.view.calibration.template of<First>(c.slot, head);
  float* stored = teams::stored_row(shared);
  float* row = teams::model_row(shared);
  if (t >= stream_type::first_rows && t < stream_type::seal_boundary(length)) {
    at.decode_row(t, stored, team);
  } else {
    at.read_exact(at.exact_row(t), stored, team);
  }
  if constexpr (teams::in_place) {
    transform<stream_type>::restore_in_place(stored, constants, team);
  } else {
    transform<stream_type>::restore(stored, row, constants, team);
  }
  T* to = (First ? c.first : c.second).at(t - c.begin, head);
  for (int i = team.rank(); i < stream_type::model_width; i += team.size()) from_float(row[i], to[i]);
}

template <class Spec, class T>
KVC_KERNEL void __launch_bounds__(row_grid<Spec>::threads)
    gather_kernel(const __grid_constant__ gather_call<Spec, T> c) {
  extern __shared__ __align__(16) byte shared[];
  float* const floats = reinterpret_cast<float*>(shared);
  if (blockIdx.y == 0) {
    gather_rows<Spec, true>(c, floats);
  } else {
    gather_rows<Spec, false>(c, floats);
  }
}

}  // namespace detail

/// Decodes committed rows [begin, end) of sequence `index` of the step: what append took, as far as the composition
/// keeps it. As host::gather, but that the caller has made sure that the rows exist and none was evicted (`report` as
/// step_bounds::report). k, v: [rows][stored_heads][head_dim] in device memory; for a latent cache k: [rows][1][rank],
/// v: [rows][1][rotary].
template <class Spec, class T>
status gather(const cache_view<Spec>& view, const step_view& step, int index, int layer, int64 begin, int64 end,
              rows_view<T> k, rows_view<T> v, cudaStream_t stream, uint32* report = nullptr) {
  const status s = kvc::detail::check_view(view);
  if (s != status::ok) return s;
  if (layer < 0 || layer >= view.model.layers) return status::bad_layer;
  if (index < 0 || index >= step.sequences) return status::bad_sequence;
  if (step.seq_lens == nullptr || step.block_table == nullptr || step.row_indptr == nullptr)
    return status::null_pointer;
  if (begin < 0 || begin > end || ceil_div<int64>(end, Spec::tokens_per_page) > step.block_table_stride)
    return status::bad_position;
  if (begin == end) return status::ok;
  if (k.data == nullptr || v.data == nullptr) return status::null_pointer;
  if ((end - begin) * view.model.stored_heads() > detail::most_items) return status::invalid_argument;
  using grid = detail::row_grid<Spec>;
  const detail::gather_call<Spec, T> call{view, step, index, view.model.slot(layer), begin, end, k, v, report};
  return detail::launch(detail::gather_kernel<Spec, T>,
                        dim3(detail::blocks_for((end - begin) * view.model.stored_heads(), grid::per_block), 2),
                        grid::threads, grid::shared_bytes, stream, "gather", call);
}

}  // namespace kvc::inline v0_1::cuda
