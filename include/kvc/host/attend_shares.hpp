// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/attention/mask.hpp"
#include "kvc/host/attend_plan.hpp"

// Which slice does what of a step's attend.
//
// All units of work, which are a block of query rows of one sequence and one stored head, stand in a line, each as long
// as its cost: the rows that it sees, times its queries. Every slice has an equal part of the line. A unit that is
// short beside a part belongs to the slice that its middle falls to; a long one is cut between its splits where parts
// meet, at most one per meeting, and joined by a second call. So one long request among many short ones is shared by
// all slices, and equal requests are not cut at all. What is computed is the same, bit by bit.

namespace kvc::inline v0_1::host::detail {

/// The query rows [row, row + rows) of sequence `index`, for one stored head.
struct attend_unit {
  int index;
  int head;
  int64 row;
  int rows;
  int64 splits;
  int64 begin;  ///< on the line
  int64 cost;
  int owner;  ///< the slice that does all of it, or -1 where it is cut
  int cut;    ///< how many units were cut before
};

template <class Spec>
class attend_shares {
 public:
  attend_shares(const extents<Spec>& m, const step_view& s, int64 sliding_window, int slice_count)
      : model_(m), step_(s), window_(sliding_window), slices_(slice_count) {
    each_block([&](const attend_unit& u) { total_ += u.cost * model_.stored_heads(); });
  }

  /// Calls f for every unit, in the line's order.
  template <class Function>
  void for_units(const Function& f) const {
    int64 begin = 0;
    int cut = 0;
    each_block([&](attend_unit u) {
      for (u.head = 0; u.head < model_.stored_heads(); ++u.head) {
        u.begin = begin;
        u.cut = cut;
        u.owner = slice_at(begin + u.cost / 2);
        // Where parts meet inside of a unit that is no small share of one: short ones are not worth the joining.
        if (u.splits > 1 && u.cost * slices_ * 16 > total_ && slice_of(u, 0) != slice_of(u, u.splits - 1)) {
          u.owner = -1;
          ++cut;
        }
        f(u);
        begin += u.cost;
      }
    });
  }

  /// Where the rows of a unit from `row` on stand on the line.
  int64 place_of(const attend_unit& u, int64 row) const { return u.begin + seen_before(u, row) * queries_of(u); }
  /// The slice that a split of a cut unit belongs to: that of its middle.
  int slice_of(const attend_unit& u, int64 split) const {
    return slice_at((place_of(u, split * split_rows) + place_of(u, (split + 1) * split_rows)) / 2);
  }

 private:
  /// f of every block of query rows, for the first head.
  template <class Function>
  void each_block(const Function& f) const {
    const int64 most = attend_shape<Spec>::block_rows(model_.group());
    for (int i = 0; i < step_.sequences; ++i) {
      for (int64 row = 0; row < step_.rows(i); row += most) {
        attend_unit u{i, 0, row, static_cast<int>(min_of(most, step_.rows(i) - row)), 0, 0, 0, 0, 0};
        const int64 length = step_.seq_lens[i] + row + u.rows;
        u.splits = ceil_div(length, split_rows);
        u.cost = seen_before(u, length) * queries_of(u);
        f(u);
      }
    }
  }
  /// What a row costs is its queries' products, and loading it: as much as two of them.
  int64 queries_of(const attend_unit& u) const { return static_cast<int64>(u.rows) * model_.group() + 2; }
  /// How many of the rows below `end` the unit's queries see, the newest row the first time counted as 32: what a unit
  /// costs beside its rows.
  int64 seen_before(const attend_unit& u, int64 end) const {
    using tokens = typename Spec::tokens_policy;
    const int64 earliest = step_.seq_lens[u.index] + u.row;
    const visible_rows v = visible_at(earliest, tokens::sinks, tokens::window, window_);
    const auto below = [end](int64 first, int64 last) { return max_of<int64>(0, min_of(end, last) - first); };
    const int64 length = earliest + u.rows;
    return below(v.sinks.begin, v.sinks.end) + below(v.recent.begin, length) + (end >= length ? 32 : 0);
  }
  int slice_at(int64 place) const {
    return total_ == 0 ? 0 : static_cast<int>(min_of<int64>(place * slices_ / total_, slices_ - 1));
  }

  const extents<Spec>& model_;
  const step_view& step_;
  int64 window_;
  int slices_;
  int64 total_ = 0;
};

}  // namespace kvc::inline v0_1::host::detail
