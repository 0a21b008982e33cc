// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/attention/mask.hpp"
#include "kvc/attention/params.hpp"
#include "kvc/cache/rows.hpp"

// Which rows a block of queries visits, and which of them a query sees.
//
// A tile of rows has one source per stream: sealed rows come from pages, exact ones from the tail. Queries of one step
// see different lengths, so a row can be sealed for the later of them and exact for the earlier: it is visited once per
// combination of sources, and every query sees it through the one that its own length names.

namespace kvc::inline v0_1::cuda::detail {

/// Where the rows of a tile are read from.
struct tile_source {
  bool first_exact;
  bool second_exact;
};

/// Consecutive rows that a block visits.
struct tile_span {
  int begin;
  int end;
  tile_source source;
};
inline constexpr int most_spans = 8;

template <class Spec, int Rows>
struct span_finder {
  using first = typename Spec::first_stream;
  using second = typename Spec::second_stream;
  using tokens = typename Spec::tokens_policy;

  int64 earliest;  ///< position of the block's first query
  int64 latest;
  int64 window;

  /// Rows that a stream can hold exactly without a ring; those of the stream that has more.
  static constexpr int ends = max_of(first::first_rows, second::first_rows);
  static constexpr bool same_boundaries =
      first::newest_rows == second::newest_rows && first::tokens_per_group == second::tokens_per_group;

  /// Fills spans [most_spans + 1]; an empty one is the last. Sealed rows are dealt to the splits by whole tiles.
  __device__ void find(int split, int splits, tile_span* spans) const {
    const int64 shortest = earliest + 1;
    const int64 longest = latest + 1;
    const visible_rows v = visible_at(earliest, tokens::sinks, tokens::window, window);
    const int64 sealed = min_of(first::seal_boundary(longest), second::seal_boundary(longest));
    int n = 0;
    const auto add = [&](int64 begin, int64 end, tile_source source) {
      if (begin < end) spans[n++] = {static_cast<int>(begin), static_cast<int>(end), source};
    };

    // Sealed rows: the sinks, where a gap parts them from the newest rows, and the rest.
    int64 begin = v.recent.begin;
    int64 sinks_begin = 0;
    int64 sinks_end = 0;
    if (!v.sinks.empty()) {
      if (begin <= tokens::sinks) {
        begin = v.sinks.begin;
      } else {
        sinks_begin = max_of<int64>(v.sinks.begin, ends);
        sinks_end = min_of<int64>(tokens::sinks, sealed);
      }
    }
    begin = max_of<int64>(begin, ends);
    const int64 sink_tiles = tiles_of(sinks_begin, sinks_end);
    const int64 tiles = sink_tiles + tiles_of(begin, sealed);
    const int64 from = tiles * split / splits;
    const int64 to = tiles * (split + 1) / splits;
    add(clip(sinks_begin, sinks_end, from), clip(sinks_begin, sinks_end, to), {false, false});
    add(clip(begin, sealed, from - sink_tiles), clip(begin, sealed, to - sink_tiles), {false, false});

    // The others are few, the last split takes them: first rows [0, ends), and what is open for any of the queries.
    if (Spec::has_tail && split == splits - 1) {
      const int64 open = max_of<int64>(ends, min_of(first::has_ring ? first::seal_boundary(shortest) : longest,
                                                    second::has_ring ? second::seal_boundary(shortest) : longest));
      add_exact<true, true>(add, longest, open);
      add_exact<true, false>(add, longest, open);
      add_exact<false, true>(add, longest, open);
    }
    spans[n] = {0, 0, {}};
  }

  /// Whether the query at `position` sees row t through a tile.
  __device__ bool sees(int64 position, int64 t, tile_source source) const {
    const visible_rows v = visible_at(position, tokens::sinks, tokens::window, window);
    const bool visible = (t >= v.sinks.begin && t < v.sinks.end) || (t >= v.recent.begin && t < v.recent.end);
    const bool first_exact = t < first::first_rows || t >= first::seal_boundary(position + 1);
    const bool second_exact = t < second::first_rows || t >= second::seal_boundary(position + 1);
    return visible && first_exact == source.first_exact && second_exact == source.second_exact;
  }

  /// Sealed rows that all queries see.
  __device__ row_range seen_by_all() const {
    const int64 sealed = min_of(first::seal_boundary(earliest + 1), second::seal_boundary(earliest + 1));
    const int64 oldest = visible_at(latest, tokens::sinks, tokens::window, window).recent.begin;
    return {max_of<int64>(oldest, ends), sealed};
  }

 private:
  __device__ static int64 tiles_of(int64 begin, int64 end) {
    return begin >= end ? 0 : ceil_div<int64>(end, Rows) - begin / Rows;
  }
  /// The row at which tile n of a span begins.
  __device__ static int64 clip(int64 begin, int64 end, int64 n) {
    return n <= 0 ? begin : max_of(begin, min_of(end, (begin / Rows + n) * Rows));
  }

  template <bool FirstExact, bool SecondExact, class Add>
  __device__ static void add_exact(const Add& add, int64 longest, int64 open) {
    constexpr auto at_start = [](bool exact, int rows, bool ring) { return exact ? rows > 0 || ring : rows < ends; };
    if constexpr (at_start(FirstExact, first::first_rows, first::has_ring) &&
                  at_start(SecondExact, second::first_rows, second::has_ring)) {
      add(0, min_of<int64>(ends, longest), {FirstExact, SecondExact});
    }
    if constexpr ((first::has_ring || !FirstExact) && (second::has_ring || !SecondExact) &&
                  (FirstExact == SecondExact || !same_boundaries)) {
      add(open, longest, {FirstExact, SecondExact});
    }
  }
};

}  // namespace kvc::inline v0_1::cuda::detail
