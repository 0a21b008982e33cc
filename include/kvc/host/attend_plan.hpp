// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/attention/tile.hpp"

// How a step's attend is cut into work items and how much memory that takes: pure functions of the shapes.

namespace kvc::inline v0_1::host {

/// Rows of a split: the unit by which long contexts are shared between threads and merged in order.
inline constexpr int64 split_rows = 1024;

namespace detail {

/// Compile-time sizes of an attend over a composition.
template <class Spec>
struct attend_shape {
  static constexpr bool is_latent = Spec::is_latent;
  using first_tile = tile_of<Spec, true, true>;         // keys; latent: scored and summed
  using second_tile = tile_of<Spec, false, is_latent>;  // values; rotary key: scored
  static constexpr int tile_rows = first_tile::pitch > 256 ? 16
                                                           : (Spec::tokens_per_page < 64 ? Spec::tokens_per_page : 64);
  static constexpr int query_pitch = first_tile::pitch + (is_latent ? second_tile::pitch : 0);
  static constexpr int value_width = is_latent ? Spec::first_stream::width : Spec::second_stream::width;
  static constexpr int value_pitch = is_latent ? first_tile::pitch : second_tile::pitch;

  /// Query rows of a block: enough queries to use a loaded tile well.
  static int block_rows(int group) { return max_of(1, 96 / group); }
  /// Floats of one slice's scratch.
  static int64 scratch_floats(int group) {
    const int64 queries = static_cast<int64>(block_rows(group)) * group;
    return queries * (query_pitch + 1 + 2 * (value_pitch + 2) + tile_rows) +
           2 * tile_rows * (first_tile::pitch + second_tile::pitch);
  }
  /// Floats of one partial result: o, m, l.
  static constexpr int partial_floats = value_pitch + 2;
};

/// How a step's attend is cut into items.
struct attend_plan {
  int64 items = 0;
  int64 partials = 0;  ///< > 0 where splits are items of their own
};

template <class Spec>
attend_plan plan_attend(const extents<Spec>& model, const step_view& step, int slices) {
  const int rows = attend_shape<Spec>::block_rows(model.group());
  attend_plan plan;
  int64 split_items = 0;
  int64 partials = 0;
  for (int i = 0; i < step.sequences; ++i) {
    const int64 blocks = ceil_div<int64>(step.rows(i), rows) * model.stored_heads();
    const int64 splits = ceil_div(step.seq_lens[i] + step.rows(i), split_rows);
    plan.items += blocks;
    split_items += blocks * splits;
    partials += step.rows(i) * model.query_heads * splits;
  }
  if (plan.items < 2 * slices && slices > 1 && split_items > plan.items) {
    plan.items = split_items;
    plan.partials = partials;
  }
  return plan;
}

}  // namespace detail

/// Bytes of workspace that attend needs for this step when `slices` callers share it. A pure function.
template <class Spec>
int64 attend_workspace_bytes(const extents<Spec>& model, const step_view& step, int slices) {
  using shape = detail::attend_shape<Spec>;
  const detail::attend_plan plan = detail::plan_attend<Spec>(model, step, slices);
  return static_cast<int64>(sizeof(float)) *
         (slices * shape::scratch_floats(model.group()) + plan.partials * shape::partial_floats);
}

}  // namespace kvc::inline v0_1::host
