// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cache/append.hpp"

namespace kvc::inline v0_1::host {

/// Ends a step: the first accepted[i] rows of the step's i-th sequence (null: all of them) are kept, and those that are
/// not sealed yet move from staging into the tail. Then advance seq_lens and held_rows. Where nothing is staged it has
/// nothing to do, but may be called all the same. Every slot must have been appended. Never allocates or throws.
template <class Spec>
status commit(const cache_view<Spec>& view, const step_view& step, const int64* accepted, slice part = {}) {
  status s = kvc::detail::check_view(view);
  if (s == status::ok) s = kvc::detail::check_step(view, step);
  if (s != status::ok) return s;
  if (part.count < 1 || part.index < 0 || part.index >= part.count) return status::invalid_argument;
  for (int i = 0; accepted != nullptr && i < step.sequences; ++i) {
    if (accepted[i] < 0 || accepted[i] > step.rows(i)) return status::invalid_argument;
  }
  if constexpr (Spec::has_ring) {
    int64 item = 0;
    for (int i = 0; i < step.sequences; ++i) {
      const int64 rows = accepted == nullptr ? step.rows(i) : accepted[i];
      for (int slot = 0; slot < view.model.slots(); ++slot) {
        if (item++ % part.count != part.index) continue;
        for (int head = 0; head < view.model.stored_heads(); ++head) {
          commit_ring(stream_rows<Spec, true>(view, step, i, slot, head), rows);
          commit_ring(stream_rows<Spec, false>(view, step, i, slot, head), rows);
        }
      }
    }
  }
  return status::ok;
}

/// Cuts sequence `index` of the step, which has no new rows, to `kept` rows: rows that belong to the open tail again
/// come back into it, exactly if `held` says that the tail still has them, as they decode otherwise. Then set its
/// length; pages past it are free. Refused with status::evicted where a row that was dropped would be visible again.
template <class Spec>
status truncate(const cache_view<Spec>& view, const step_view& step, int index, int64 kept, const held_rows& held) {
  const status s = kvc::detail::check_view(view);
  if (s != status::ok) return s;
  if (index < 0 || index >= step.sequences) return status::bad_sequence;
  if (step.seq_lens == nullptr || step.row_indptr == nullptr || step.block_table == nullptr)
    return status::null_pointer;
  const int64 length = step.seq_lens[index];
  if (kept < 0 || kept > length) return status::bad_position;
  const status present = kvc::detail::check_present(view, step, index, oldest_needed<Spec>(kept), kept);
  if (present != status::ok) return present;
  for (int slot = 0; slot < view.model.slots(); ++slot) {
    for (int head = 0; head < view.model.stored_heads(); ++head) {
      unseal(stream_rows<Spec, true>(view, step, index, slot, head), length, kept, held.first);
      unseal(stream_rows<Spec, false>(view, step, index, slot, head), length, kept, held.second);
    }
  }
  return status::ok;
}

}  // namespace kvc::inline v0_1::host
