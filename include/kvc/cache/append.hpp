// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cache/append_params.hpp"
#include "kvc/core/view.hpp"

namespace kvc::inline v0_1 {

namespace detail {

/// One model row of a stored head as fp32: the KV head itself, or the weighted sum of those that are merged into it.
template <int Width, class T, class Team = serial_team>
KVC_HD void load_model_row(const rows_view<const T>& rows, int64 row, int head, int merged, const float* weights,
                           float* x, Team team = {}) {
  const T* source = rows.at(row, head * merged);
  if (merged == 1) {
    for (int i = team.rank(); i < Width; i += team.size()) x[i] = to_float(source[i]);
    return;
  }
  for (int i = team.rank(); i < Width; i += team.size()) x[i] = 0;
  for (int m = 0; m < merged; ++m) {
    source = rows.at(row, head * merged + m);
    for (int i = team.rank(); i < Width; i += team.size()) x[i] += weights[m] * to_float(source[i]);
  }
}

/// What a stored head's rows are transformed with; null without a calibration.
struct head_constants {
  const float* transform = nullptr;
  const float* merge_weights = nullptr;
};
template <bool First, class Spec>
KVC_HD head_constants constants_of(const cache_view<Spec>& view, int slot, int head) {
  return {view.calibration.template of<First>(slot, head),
          First ? view.calibration.key_weights(slot, head)
                : view.calibration.value_weights(slot, head, view.model.merged())};
}

/// One model row of a stored head, prepared as params say; t: its position.
template <class Spec, bool First, class T, row_preparation Params>
KVC_HD void load_row(const rows_view<const T>& rows, int64 row, int head, int merged, const float* weights,
                     const Params& params, int64 t, float* x) {
  if constexpr (Params::prepares) {
    load_prepared_row<Spec, First>(rows, row, head, merged, weights, params, t, x);
  } else {
    load_model_row<stream_of<Spec, First>::model_width>(rows, row, head, merged, weights, x);
  }
}

}  // namespace detail

/// Rounds a stored row to the tail's type where the stream has exact rows, so that the path does not matter: x [width].
template <class Stream, class Team = serial_team>
KVC_HD void round_stored(float* x, Team team = {}) {
  if constexpr (Stream::exact_rows > 0) {
    for (int i = team.rank(); i < Stream::width; i += team.size()) x[i] = bf16::from(x[i]).value();
    team.sync();
  }
}

/// Puts the new row t of a step, stored: [width] and rounded, where it belongs at once: exact first rows, staging, or
/// its page. Sealing follows when the step's rows are all there.
template <class Spec, bool First, class Team = serial_team>
KVC_HD void place_row(const stream_rows<Spec, First>& at, const float* stored, int64 t, Team team = {}) {
  using stream_type = stream_of<Spec, First>;
  using rows_type = stream_rows<Spec, First>;
  if (t < stream_type::first_rows) {
    rows_type::write_exact(stored, at.first + t * stream_type::exact_row_bytes, team);
  }
  if constexpr (stream_type::has_ring) {
    rows_type::write_exact(stored, at.staged + (t - at.committed) * stream_type::exact_row_bytes, team);
  } else {
    if (t >= stream_type::first_rows) at.encode(stored, t, 1, team);
  }
}

/// Seals the group of tokens that begins at row g; its rows are all there. group: [tokens_per_group][width] of scratch.
template <class Spec, bool First, class Team = serial_team>
KVC_HD void seal_group(const stream_rows<Spec, First>& at, int64 g, float* group, Team team = {}) {
  using stream_type = stream_of<Spec, First>;
  const int64 begin = max_of<int64>(g, stream_type::first_rows);
  const int count = static_cast<int>(g + stream_type::tokens_per_group - begin);
  if (count <= 0) return;
  if constexpr (Team::size() == 1) {
    for (int i = 0; i < count; ++i) {
      stream_rows<Spec, First>::read_exact(at.exact_row(begin + i), group + i * stream_type::width);
    }
  } else {
    constexpr int fours = stream_type::width / 4;
    for (int e = team.rank(); e < count * fours; e += Team::size()) {
      stream_rows<Spec, First>::read_four(at.exact_row(begin + e / fours), e % fours * 4,
                                          group + e / fours * stream_type::width);
    }
    team.sync();
  }
  at.encode(group, begin, count, team);
}

/// Appends the step's rows of one stream, sequence, slot and stored head that lie in page `page`: transforms them,
/// keeps the exact ones, and seals every group of the page that the step completes. `rows` starts at the sequence's
/// first new row. Different pages, heads and streams are independent.
template <class Spec, bool First, class T, row_preparation Params = rows_as_given>
KVC_HD void append_page(const stream_rows<Spec, First>& at, const rows_view<const T>& rows, int64 page,
                        const Params& params = {}) {
  using stream_type = stream_of<Spec, First>;
  const int merged = at.view->model.merged();
  const detail::head_constants constants = detail::constants_of<First>(*at.view, at.slot, at.head);
  const int64 length = at.committed + at.step->rows(at.index);
  const int64 page_begin = page * Spec::tokens_per_page;
  const int64 page_end = page_begin + Spec::tokens_per_page;

  // 1. New rows: transform, and either keep exactly or encode at once.
  float model_row[stream_type::model_width];
  float stored[stream_type::width];
  const int64 end = min_of(page_end, length);
  for (int64 t = max_of(page_begin, at.committed); t < end; ++t) {
#if !defined(__CUDACC__)  // nvcc has it for host functions alone
    // A head's rows lie a whole token apart, which machines do not foresee.
    if (merged == 1 && t + 6 < end) {
      prefetch_bytes<3>(rows.at(t + 6 - at.committed, at.head), stream_type::model_width * sizeof(T));
    }
#endif
    detail::load_row<Spec, First>(rows, t - at.committed, at.head, merged, constants.merge_weights, params, t,
                                  model_row);
    transform<stream_type>::store(model_row, stored, constants.transform);
    round_stored<stream_type>(stored);
    place_row(at, stored, t);
  }

  // 2. Groups that are complete and old enough now: seal.
  if constexpr (stream_type::has_ring) {
    const int64 seal_begin = max_of(page_begin, stream_type::seal_boundary(at.committed));
    const int64 seal_end = min_of(page_end, stream_type::seal_boundary(length));
    float group[stream_type::tokens_per_group * stream_type::width];
    for (int64 g = seal_begin; g < seal_end; g += stream_type::tokens_per_group) seal_group(at, g, group);
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
