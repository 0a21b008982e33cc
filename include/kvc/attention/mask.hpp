// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/core/math.hpp"

namespace kvc::inline v0_1 {

/// A half-open range of rows.
struct row_range {
  int64 begin = 0;
  int64 end = 0;

  KVC_HD bool empty() const { return begin >= end; }
  KVC_HD row_range within(int64 low, int64 high) const { return {max_of(begin, low), min_of(end, high)}; }
};

/// The rows that the query at one position sees: its sinks, and the newest ones up to itself.
struct visible_rows {
  row_range sinks;
  row_range recent;
};

/// Causal rows of the query at `position`, under a retention (sinks, keep; keep = 0: all) and the sliding window of the
/// model (window = 0: none), which hides sinks as well.
KVC_HD visible_rows visible_at(int64 position, int64 sinks, int64 keep, int64 window) {
  visible_rows v;
  const int64 oldest = window > 0 ? max_of<int64>(0, position - window + 1) : 0;
  v.recent = {keep > 0 ? max_of(oldest, position - keep + 1) : oldest, position + 1};
  v.sinks = {oldest, min_of(sinks, v.recent.begin)};
  return v;
}

}  // namespace kvc::inline v0_1
