// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cache/append.hpp"

// Appending a step's rows to a composed cache, on the host. A work item is one page of one stream of one stored head.

namespace kvc::inline v0_1::host {

namespace detail {

template <class Spec, bool First, class T, row_preparation Params>
void append_stream(const cache_view<Spec>& view, const step_view& step, int slot, const rows_view<const T>& rows,
                   const Params& params, slice part, int64& item) {
  for (int i = 0; i < step.sequences; ++i) {
    int64 begin = 0;
    int64 end = 0;
    touched_pages<Spec>(step, i, begin, end);
    for (int head = 0; head < view.model.stored_heads(); ++head) {
      for (int64 page = begin; page < end; ++page) {
        if (item++ % part.count != part.index) continue;
        const stream_rows<Spec, First> at(view, step, i, slot, head);
        append_page<Spec, First>(at, rows.from(step.row_indptr[i]), page, params);
      }
    }
  }
}

template <class Spec>
status check_append(const cache_view<Spec>& view, const step_view& step, int layer, slice part) {
  status s = kvc::detail::check_view(view);
  if (s == status::ok) s = kvc::detail::check_step(view, step);
  if (s != status::ok) return s;
  if (layer < 0 || layer >= view.model.layers) return status::bad_layer;
  if (!view.model.writes(layer)) return status::follower_layer;
  if (part.count < 1 || part.index < 0 || part.index >= part.count) return status::invalid_argument;
  return status::ok;
}
/// The same, and what prepares the rows.
template <class Spec, row_preparation Params>
status check_append(const cache_view<Spec>& view, const step_view& step, int layer, slice part, const Params& params) {
  status s = check_append(view, step, layer, part);
  if (s == status::ok) s = kvc::detail::check_prepare<Spec>(params);
  for (int i = 0; s == status::ok && i < step.sequences; ++i) {
    if (step.rows(i) > 0 && !kvc::detail::reaches(params, step.seq_lens[i] + step.rows(i))) s = status::bad_position;
  }
  return s;
}

}  // namespace detail

/// Appends the step's rows to the slot that `layer` writes. k, v: [rows][kv_heads][head_dim], keys after their rotary
/// embedding (before it with rotary::deferred, and with append_params that turn them). Rows become visible to attend of
/// the same step at once, and to later steps when the caller advances seq_lens; a step that is given up leaves no
/// trace. Never allocates or throws. Call it once per slice, with the same arguments; `part` says which share this call
/// does. Answers ok; follower_layer where another layer writes the slot that `layer` reads; bad_layer; out_of_capacity
/// where the block table lacks a block that the step writes to, or the step has more rows than staging; bad_sequence,
/// bad_extents, bad_layer_map, null_pointer, misaligned, invalid_argument; with params, deferred_rotary where keys are
/// not to be turned, and bad_position where the rotary table is too short. All slices give the same answer, and write
/// nothing unless it is ok.
template <class Spec, class T, row_preparation Params = rows_as_given>
status append(const cache_view<Spec>& view, const step_view& step, int layer, rows_view<const T> k,
              rows_view<const T> v, slice part = {}, const Params& params = {}) {
  static_assert(!Spec::is_latent, "kvc: a latent cache appends one array of (latent | rotary key) rows, and no values");
  const status s = detail::check_append(view, step, layer, part, params);
  if (s != status::ok || step.total_rows() == 0) return s;
  if (k.data == nullptr || v.data == nullptr) return status::null_pointer;
  int64 item = 0;
  detail::append_stream<Spec, true>(view, step, view.model.slot(layer), k, params, part, item);
  detail::append_stream<Spec, false>(view, step, view.model.slot(layer), v, params, part, item);
  return status::ok;
}

/// The same for a latent cache. rows: [rows][1][rank + rotary].
template <class Spec, class T, row_preparation Params = rows_as_given>
status append(const cache_view<Spec>& view, const step_view& step, int layer, rows_view<const T> rows, slice part = {},
              const Params& params = {}) {
  static_assert(Spec::is_latent, "kvc: append takes keys and values; only a latent cache takes joint rows");
  const status s = detail::check_append(view, step, layer, part, params);
  if (s != status::ok || step.total_rows() == 0) return s;
  if (rows.data == nullptr) return status::null_pointer;
  int64 item = 0;
  rows_view<const T> rotary = rows;
  rotary.data += Spec::first_stream::model_width;
  detail::append_stream<Spec, true>(view, step, view.model.slot(layer), rows, params, part, item);
  detail::append_stream<Spec, false>(view, step, view.model.slot(layer), rotary, params, part, item);
  return status::ok;
}

/// Appends by slot mapping: row r goes to slot_mapping[r] = block * tokens_per_page + offset; -1 skips it. For engines
/// that place every token themselves. Only compositions without exact rows support it: sealing a group of tokens needs
/// the sequence. k, v: [rows][kv_heads][head_dim]; a latent cache takes k: [rows][1][rank + rotary] and ignores v.
/// Answers unsupported where Spec::has_tail, bad_position for a slot beyond view.blocks, else as append does.
template <class Spec, class T>
status append_slots(const cache_view<Spec>& view, int layer, rows_view<const T> k, rows_view<const T> v,
                    const int64* slot_mapping, int64 rows, slice part = {}) {
  if constexpr (Spec::has_tail) {
    return status::unsupported;
  } else {
    status s = detail::check_append(view, step_view{}, layer, part);
    if (s != status::ok || rows == 0) return s;
    if (k.data == nullptr || slot_mapping == nullptr || (!Spec::is_latent && v.data == nullptr))
      return status::null_pointer;
    for (int64 r = 0; r < rows; ++r) {
      if (slot_mapping[r] < -1 || slot_mapping[r] >= view.blocks * Spec::tokens_per_page) return status::bad_position;
    }
    rows_view<const T> second = v;
    if constexpr (Spec::is_latent) {
      second = k;
      second.data += Spec::first_stream::model_width;
    }
    // Each row is a step of its own: a sequence of one row at the offset of its page, whose table names its block.
    for (int64 r = part.index; r < rows; r += part.count) {
      if (slot_mapping[r] < 0) continue;
      const int32 block = static_cast<int32>(slot_mapping[r] / Spec::tokens_per_page);
      const int64 offset = slot_mapping[r] % Spec::tokens_per_page;
      const int64 indptr[2] = {0, 1};
      const step_view one{1, nullptr, &offset, indptr, &block, 1};
      for (int head = 0; head < view.model.stored_heads(); ++head) {
        const int slot = view.model.slot(layer);
        append_page<Spec, true>(stream_rows<Spec, true>(view, one, 0, slot, head), k.from(r), 0);
        append_page<Spec, false>(stream_rows<Spec, false>(view, one, 0, slot, head), second.from(r), 0);
      }
    }
    return status::ok;
  }
}

}  // namespace kvc::inline v0_1::host
