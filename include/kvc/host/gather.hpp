// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cache/rows.hpp"

namespace kvc::inline v0_1::host {

namespace detail {

template <class Spec, bool First, class T>
void gather_stream(const cache_view<Spec>& view, const step_view& step, int index, int slot, int64 begin, int64 end,
                   const rows_view<T>& out, slice part) {
  using stream_type = stream_of<Spec, First>;
  float stored[stream_type::width];
  float row[stream_type::model_width];
  for (int head = 0; head < view.model.stored_heads(); ++head) {
    const stream_rows<Spec, First> at(view, step, index, slot, head);
    const float* constants = view.calibration.template of<First>(slot, head);
    for (int64 t = begin + part.index; t < end; t += part.count) {
      at.read(t, step.seq_lens[index], stored);
      transform<stream_type>::restore(stored, row, constants);
      T* to = out.at(t - begin, head);
      for (int i = 0; i < stream_type::model_width; ++i) from_float(row[i], to[i]);
    }
  }
}

}  // namespace detail

/// Decodes committed rows [begin, end) of sequence `index` of the step: what append took, as far as the composition
/// keeps it (keys before their rotary embedding with rotary::deferred; pruned channels read as zero).
/// k, v: [rows][stored_heads][head_dim]; for a latent cache k: [rows][1][rank], v: [rows][1][rotary]. T: float, bf16,
/// fp16. Answers evicted where a page was freed, bad_position beyond the committed rows, bad_layer, bad_sequence,
/// null_pointer.
template <class Spec, class T>
status gather(const cache_view<Spec>& view, const step_view& step, int index, int layer, int64 begin, int64 end,
              rows_view<T> k, rows_view<T> v, slice part = {}) {
  const status s = kvc::detail::check_view(view);
  if (s != status::ok) return s;
  if (layer < 0 || layer >= view.model.layers) return status::bad_layer;
  if (index < 0 || index >= step.sequences) return status::bad_sequence;
  if (step.seq_lens == nullptr || step.block_table == nullptr || step.row_indptr == nullptr)
    return status::null_pointer;
  if (begin < 0 || begin > end || end > step.seq_lens[index]) return status::bad_position;
  if (k.data == nullptr || v.data == nullptr) return status::null_pointer;
  const status present = kvc::detail::check_present(view, step, index, begin, end);
  if (present != status::ok) return present;
  const int slot = view.model.slot(layer);
  detail::gather_stream<Spec, true>(view, step, index, slot, begin, end, k, part);
  detail::gather_stream<Spec, false>(view, step, index, slot, begin, end, v, part);
  return status::ok;
}

}  // namespace kvc::inline v0_1::host
