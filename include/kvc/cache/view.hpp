// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cache/calibration_view.hpp"
#include "kvc/cache/spec.hpp"
#include "kvc/core/view.hpp"

// The caller's memory as a cache, and one step of a ragged batch over it. PODs, passed by value.

namespace kvc::inline v0_1 {

/// A page holds tokens_per_page rows of one slot:
///   first stream's segments [stored_heads] | second stream's segments [stored_heads]
/// and a segment holds the codes of its rows, then the constants of its groups of tokens:
///   codes [tokens_per_page][row_bytes] | constants [tokens_per_page / tokens_per_group][group_bytes]
/// The tail of a sequence holds, per slot, the exact rows of the first stream, then of the second:
///   [stored_heads]{ first rows [first_rows][width] | ring [ring_rows][width] } in bf16
/// Staging holds, per slot, the rows of the running step of the streams that have a ring:
///   [stored_heads][staging_rows][width] in bf16
template <class Spec>
struct cache_view {
  extents<Spec> model;
  byte* pages = nullptr;  ///< [slot][block] pages, by the two strides
  int64 blocks = 0;
  int64 block_stride = 0;  ///< bytes from a block to the next of the same slot
  int64 slot_stride = 0;   ///< bytes from a slot to the next
  byte* tails = nullptr;   ///< [sequence][slot]; null where nothing is exact
  int64 tail_stride = 0;   ///< bytes from a sequence's tail to the next
  int sequences = 0;
  byte* staging = nullptr;  ///< [slot]; null where no stream has a ring
  int64 staging_rows = 0;
  calibration_view<Spec> calibration;

  KVC_HD byte* page(int slot, int64 block) const { return pages + slot * slot_stride + block * block_stride; }

  /// Codes of a stream's segment in a page; constants follow at Stream::codes_bytes.
  template <bool First>
  KVC_HD static int64 segment_offset(int head, int stored_heads) {
    using first = typename Spec::first_stream;
    using second = typename Spec::second_stream;
    return First ? head * first::segment_bytes : stored_heads * first::segment_bytes + head * second::segment_bytes;
  }

  /// Exact rows of a stream: first_rows rows, then the ring.
  template <bool First>
  KVC_HD byte* exact(int sequence, int slot, int head) const {
    using first = typename Spec::first_stream;
    using second = typename Spec::second_stream;
    constexpr int64 first_head = first::exact_rows * first::exact_row_bytes;
    constexpr int64 second_head = second::exact_rows * second::exact_row_bytes;
    const int heads = model.stored_heads();
    return tails + sequence * tail_stride + slot * Spec::tail_slot_bytes(heads) +
           (First ? head * first_head : heads * first_head + head * second_head);
  }

  /// Staged rows [staging_rows][width] of a stream that has a ring.
  template <bool First>
  KVC_HD byte* staged(int slot, int head) const {
    using first = typename Spec::first_stream;
    using second = typename Spec::second_stream;
    const int heads = model.stored_heads();
    const int64 first_head = first::has_ring ? staging_rows * first::exact_row_bytes : 0;
    const int64 second_head = second::has_ring ? staging_rows * second::exact_row_bytes : 0;
    return staging + slot * Spec::staging_slot_bytes(heads, staging_rows) +
           (First ? head * first_head : heads * first_head + head * second_head);
  }
};

/// One step of a ragged batch: sequence i appends rows [row_indptr[i], row_indptr[i + 1]) of the step at positions
/// seq_lens[i] and up.
struct step_view {
  int sequences = 0;
  const int32* sequence_ids = nullptr;  ///< [sequences], which tail; null: i
  const int64* seq_lens = nullptr;      ///< [sequences], committed rows before the step
  const int64* row_indptr = nullptr;    ///< [sequences + 1]
  const int32* block_table = nullptr;   ///< [sequences][block_table_stride], -1 where a page was freed
  int64 block_table_stride = 0;

  KVC_HD int sequence_id(int i) const { return sequence_ids == nullptr ? i : sequence_ids[i]; }
  KVC_HD int64 rows(int i) const { return row_indptr[i + 1] - row_indptr[i]; }
  KVC_HD int64 total_rows() const { return sequences == 0 ? 0 : row_indptr[sequences]; }
  KVC_HD int32 block(int i, int64 page) const { return block_table[i * block_table_stride + page]; }
};

/// Bytes of page memory for `blocks` blocks; pages need 16-byte alignment.
template <class Spec>
KVC_HD constexpr int64 page_pool_bytes(const extents<Spec>& e, int64 blocks) {
  return blocks * e.slots() * Spec::page_bytes(e.stored_heads());
}

/// Bytes of tails for `sequences` sequences; 0 where nothing is exact.
template <class Spec>
KVC_HD constexpr int64 tail_pool_bytes(const extents<Spec>& e, int sequences) {
  return sequences * Spec::tail_bytes(e);
}

/// Bytes of staging for steps of up to `rows` rows; 0 where no stream has a ring.
template <class Spec>
KVC_HD constexpr int64 staging_bytes(const extents<Spec>& e, int64 rows) {
  return e.slots() * Spec::staging_slot_bytes(e.stored_heads(), rows);
}

namespace detail {

template <class Spec>
KVC_HD status check_view(const cache_view<Spec>& view) {
  const status s = view.model.validate();
  if (s != status::ok) return s;
  if (view.pages == nullptr && view.blocks > 0) return status::null_pointer;
  if (reinterpret_cast<size_type>(view.pages) % 16 != 0 || view.block_stride % 16 != 0 || view.slot_stride % 16 != 0) {
    return status::misaligned;
  }
  if (Spec::has_tail) {
    if (view.tails == nullptr) return status::null_pointer;
    if (reinterpret_cast<size_type>(view.tails) % 16 != 0) return status::misaligned;
  }
  if (Spec::has_ring && view.staging == nullptr) return status::null_pointer;
  if ((Spec::calibration_floats > 0 || view.model.merged() > 1) && view.calibration.data == nullptr) {
    return status::null_pointer;
  }
  return status::ok;
}

/// The step against the view: ids, lengths and the blocks that it can write to.
template <class Spec>
status check_step(const cache_view<Spec>& view, const step_view& step) {
  if (step.sequences < 0) return status::invalid_argument;
  if (step.sequences == 0) return status::ok;
  if (step.seq_lens == nullptr || step.row_indptr == nullptr || step.block_table == nullptr)
    return status::null_pointer;
  if (step.row_indptr[0] != 0) return status::invalid_argument;
  for (int i = 0; i < step.sequences; ++i) {
    const int id = step.sequence_id(i);
    if (Spec::has_tail && (id < 0 || id >= view.sequences)) return status::bad_sequence;
    const int64 rows = step.rows(i);
    if (rows < 0 || step.seq_lens[i] < 0) return status::invalid_argument;
    const int64 end = step.seq_lens[i] + rows;
    if (ceil_div<int64>(end, Spec::tokens_per_page) > step.block_table_stride) return status::out_of_capacity;
    // From the oldest open row on: this step may seal it into its page.
    const int64 begin = min_of(Spec::first_stream::seal_boundary(step.seq_lens[i]),
                               Spec::second_stream::seal_boundary(step.seq_lens[i]));
    for (int64 p = begin / Spec::tokens_per_page; rows > 0 && p * Spec::tokens_per_page < end; ++p) {
      const int32 block = step.block(i, p);
      if (block < 0 || block >= view.blocks) return status::out_of_capacity;
    }
  }
  if (Spec::has_ring && step.total_rows() > view.staging_rows) return status::out_of_capacity;
  return status::ok;
}

/// Whether all pages of rows [begin, end) of a sequence are there; step is in host memory.
template <class Spec>
status check_present(const cache_view<Spec>& view, const step_view& step, int index, int64 begin, int64 end) {
  for (int64 page = begin / Spec::tokens_per_page; page * Spec::tokens_per_page < end; ++page) {
    if (page >= step.block_table_stride || step.block(index, page) >= view.blocks) return status::bad_position;
    if (step.block(index, page) < 0) return status::evicted;
  }
  return status::ok;
}

}  // namespace detail

}  // namespace kvc::inline v0_1
