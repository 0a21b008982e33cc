// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/attention/mask.hpp"
#include "kvc/cuda/launch.cuh"

namespace kvc::inline v0_1::cuda::detail {

/// Whether the step's sequence i has rows, a length, a tail or a page of a row that its queries see out of range; asked
/// only where a report is wanted, by all threads of a block. Such a sequence is left out.
template <class Spec>
__device__ bool is_attend_out_of_range(const cache_view<Spec>& view, const step_view& step, const step_bounds& bounds,
                                       int i, int64 window) {
  if (bounds.report == nullptr) return false;
  const int64 rows = step.rows(i);
  if (reports(bounds.report, rows < 0 || rows > bounds.max_rows || step.row_indptr[i] < 0, wrong_rows)) return true;
  if (reports(bounds.report, step.row_indptr[i + 1] > bounds.total_rows, wrong_rows)) return true;
  if (rows == 0) return false;
  const int64 committed = step.seq_lens[i];
  const int64 length = committed + rows;
  if (reports(bounds.report, committed < 0 || length > bounds.max_length, wrong_length)) return true;
  const int id = step.sequence_id(i);
  if (Spec::has_tail && reports(bounds.report, id < 0 || id >= view.sequences, wrong_sequence)) return true;

  using tokens = typename Spec::tokens_policy;
  const visible_rows oldest = visible_at(committed, tokens::sinks, tokens::window, window);
  const visible_rows newest = visible_at(length - 1, tokens::sinks, tokens::window, window);
  constexpr int64 per_page = Spec::tokens_per_page;
  bool wrong = false;
  for (int64 page = threadIdx.x; page * per_page < length; page += blockDim.x) {
    const bool is_sink = (page + 1) * per_page > oldest.sinks.begin && page * per_page < newest.sinks.end;
    const bool is_seen = is_sink || (page + 1) * per_page > oldest.recent.begin;
    const int32 block = is_seen ? step.block(i, page) : 0;
    wrong |= reports(bounds.report, block < 0 || block >= view.blocks, wrong_table);
  }
  return __syncthreads_or(wrong) != 0;
}

}  // namespace kvc::inline v0_1::cuda::detail
