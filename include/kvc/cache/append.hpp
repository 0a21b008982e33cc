// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cache/rows.hpp"

namespace kvc::inline v0_1 {

namespace detail {

/// One model row of a stored head as fp32: the KV head itself, or the weighted sum of those that are merged into it.
template <int Width, class T>
KVC_HD void load_model_row(const rows_view<const T>& rows, int64 row, int head, int merged, const float* weights,
                           float* x) {
  const T* source = rows.at(row, head * merged);
  if (merged == 1) {
    for (int i = 0; i < Width; ++i) x[i] = to_float(source[i]);
    return;
  }
  for (int i = 0; i < Width; ++i) x[i] = 0;
  for (int m = 0; m < merged; ++m) {
    source = rows.at(row, head * merged + m);
    for (int i = 0; i < Width; ++i) x[i] += weights[m] * to_float(source[i]);
  }
}

}  // namespace detail

/// Appends the step's rows of one stream, sequence, slot and stored head that lie in page `page`: transforms them,
/// keeps the exact ones, and seals every group of the page that the step completes. `rows` starts at the sequence's
/// first new row. Different pages, heads and streams are independent.
template <class Spec, bool First, class T>
KVC_HD void append_page(const stream_rows<Spec, First>& at, const rows_view<const T>& rows, int64 page) {
  using stream_type = stream_of<Spec, First>;
  using rows_type = stream_rows<Spec, First>;
  constexpr int width = stream_type::width;
  constexpr int per_group = stream_type::tokens_per_group;
  constexpr bool rounds = stream_type::exact_rows > 0;  // to the tail's type, so that the path does not matter

  const cache_view<Spec>& view = *at.view;
  const int merged = view.model.merged();
  const float* constants = nullptr;
  const float* weights = nullptr;
  if (view.calibration.data != nullptr) {
    constants = First ? view.calibration.first(at.slot, at.head) : view.calibration.second(at.slot, at.head);
    weights = First ? view.calibration.key_weights(at.slot, at.head)
                    : view.calibration.value_weights(at.slot, at.head, merged);
  }

  const int64 length = at.committed + at.step->rows(at.index);
  const int64 page_begin = page * Spec::tokens_per_page;
  const int64 page_end = page_begin + Spec::tokens_per_page;
  const int64 new_begin = max_of(page_begin, at.committed);
  const int64 new_end = min_of(page_end, length);

  // 1. New rows: transform, and either keep exactly or encode at once.
  float model_row[stream_type::model_width];
  float stored[width];
  for (int64 t = new_begin; t < new_end; ++t) {
    detail::load_model_row<stream_type::model_width>(rows, t - at.committed, at.head, merged, weights, model_row);
    transform<stream_type>::store(model_row, stored, constants);
    if constexpr (rounds) {
      for (int i = 0; i < width; ++i) stored[i] = bf16::from(stored[i]).value();
    }
    if (t < stream_type::first_rows) {
      rows_type::write_exact(stored, at.first + t * stream_type::exact_row_bytes);
    }
    if constexpr (stream_type::has_ring) {
      rows_type::write_exact(stored, at.staged + (t - at.committed) * stream_type::exact_row_bytes);
    } else {
      if (t >= stream_type::first_rows) at.encode(stored, t, 1);
    }
  }

  // 2. Groups that are complete and old enough now: seal.
  if constexpr (stream_type::has_ring) {
    const int64 seal_begin = max_of(page_begin, stream_type::seal_boundary(at.committed));
    const int64 seal_end = min_of(page_end, stream_type::seal_boundary(length));
    float group[per_group * width];
    for (int64 g = seal_begin; g < seal_end; g += per_group) {
      const int64 begin = max_of<int64>(g, stream_type::first_rows);
      const int count = static_cast<int>(g + per_group - begin);
      if (count <= 0) continue;
      for (int i = 0; i < count; ++i) rows_type::read_exact(at.exact_row(begin + i), group + i * width);
      at.encode(group, begin, count);
    }
  }
}

/// Pages that the step's rows of one sequence touch, those whose groups are only sealed included.
template <class Spec>
KVC_HD void touched_pages(const step_view& step, int index, int64& begin, int64& end) {
  const int64 committed = step.seq_lens[index];
  const int64 length = committed + step.rows(index);
  int64 oldest = committed;
  if constexpr (Spec::first_stream::has_ring) oldest = min_of(oldest, Spec::first_stream::seal_boundary(committed));
  if constexpr (Spec::second_stream::has_ring) oldest = min_of(oldest, Spec::second_stream::seal_boundary(committed));
  begin = oldest / Spec::tokens_per_page;
  end = length == committed ? begin : ceil_div<int64>(length, Spec::tokens_per_page);
}

/// After the step: the first `accepted` rows of one sequence become committed, and the newest of them move from staging
/// into the ring, which then holds rows from length - ring_rows on.
template <class Spec, bool First>
KVC_HD void commit_ring(const stream_rows<Spec, First>& at, int64 accepted) {
  using stream_type = stream_of<Spec, First>;
  if constexpr (stream_type::has_ring) {
    const int64 length = at.committed + accepted;
    const int64 begin = max_of(at.committed, length - stream_type::ring_rows);
    for (int64 t = begin; t < length; ++t) {
      const byte* from = at.staged + (t - at.committed) * stream_type::exact_row_bytes;
      byte* to = at.ring + t % stream_type::ring_rows * stream_type::exact_row_bytes;
      __builtin_memcpy(to, from, static_cast<size_type>(stream_type::exact_row_bytes));
    }
  }
}

/// The oldest rows that the rings of a sequence still hold: what a truncate can bring back exactly.
struct held_rows {
  int64 first = 0;
  int64 second = 0;

  /// After a commit that left the sequence at `length` rows.
  template <class Spec>
  KVC_HD void committed(int64 length) {
    first = max_of(first, length - Spec::first_stream::ring_rows);
    second = max_of(second, length - Spec::second_stream::ring_rows);
  }
  /// After the sequence was loaded: only the open rows are there.
  template <class Spec>
  KVC_HD void loaded(int64 length) {
    first = Spec::first_stream::seal_boundary(length);
    second = Spec::second_stream::seal_boundary(length);
  }
};

/// Cuts a sequence from `length` rows to `kept`: rows that were sealed but belong to the tail again come back into the
/// ring as they decode, but for those that it still holds: the rows from `held` on.
template <class Spec, bool First>
KVC_HD void unseal(const stream_rows<Spec, First>& at, int64 length, int64 kept, int64 held) {
  using stream_type = stream_of<Spec, First>;
  if constexpr (stream_type::has_ring) {
    const int64 begin = max_of<int64>(stream_type::seal_boundary(kept), stream_type::first_rows);
    const int64 end = min_of(min_of(stream_type::seal_boundary(length), kept), held);
    float x[stream_type::width];
    for (int64 t = begin; t < end; ++t) {
      at.decode(t, 1, x);
      stream_rows<Spec, First>::write_exact(x, at.ring + t % stream_type::ring_rows * stream_type::exact_row_bytes);
    }
  }
}

}  // namespace kvc::inline v0_1
