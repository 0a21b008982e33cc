// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/attention/params.hpp"
#include "kvc/attention/state.hpp"
#include "kvc/attention/tile.hpp"
#include "kvc/host/attend_plan.hpp"
#include "kvc/host/kernels.hpp"

// Attention of a step's queries over a composed cache, on the host:
//
//   for each (sequence, stored head, block of query rows)          one work item
//     fold the block's queries into the stored space               rows x group queries share every tile
//     for each split of 1024 rows, for each tile of it
//       load the tile: decode codes, read exact rows, expand       fp32, in the first-level caches
//       scores -> soft-max state -> weighted sum of value rows
//     merge the splits in order, unfold the output
//
// Splits are also the unit that a long context is shared by: with few items they become items of their own and are
// merged by a second call. Either way the arithmetic is the same.

namespace kvc::inline v0_1::host {

namespace detail {

template <class Spec, class T>
struct attend_call {
  using shape = attend_shape<Spec>;
  using first_tile = typename shape::first_tile;
  using second_tile = typename shape::second_tile;
  using value_stream = stream_of<Spec, Spec::values_are_first>;

  const cache_view<Spec>& view;
  const step_view& step;
  int slot;
  rows_view<const T> q;
  rows_view<float> out;
  float* lse;
  const attend_params& params;
  float* scratch;
  float* partials;
  bool splits_are_items;

  // Scratch of this slice.
  float* queries;            ///< [queries][query_pitch], folded
  float* constants;          ///< [queries], what folding adds to every score
  float* sums[2];            ///< [queries][value_pitch]: the split's, the item's
  softmax_state* states[2];  ///< [queries]
  float* scores;             ///< [queries][tile_rows]
  first_tile first;
  second_tile second;

  void carve() {
    const int group = view.model.group();
    const int64 count = static_cast<int64>(shape::block_rows(group)) * group;
    float* at = scratch;
    const auto take = [&at](int64 floats) {
      float* p = at;
      at += floats;
      return p;
    };
    queries = take(count * shape::query_pitch);
    sums[0] = take(count * shape::value_pitch);
    sums[1] = take(count * shape::value_pitch);
    first.sealed = take(shape::tile_rows * first_tile::pitch);
    first.exact = take(shape::tile_rows * first_tile::pitch);
    second.sealed = take(shape::tile_rows * second_tile::pitch);
    second.exact = take(shape::tile_rows * second_tile::pitch);
    scores = take(count * shape::tile_rows);
    states[0] = reinterpret_cast<softmax_state*>(take(2 * count));
    states[1] = reinterpret_cast<softmax_state*>(take(2 * count));
    constants = take(count);
  }

  const float* first_constants(int head) const { return view.calibration.first(slot, head); }
  const float* second_constants(int head) const { return view.calibration.second(slot, head); }

  /// Queries of rows [row, row + rows) of the step and of the group of `head` into the stored space.
  void fold(int head, int64 row, int rows) {
    const int group = view.model.group();
    float model_query[Spec::query_width];
    for (int i = 0; i < rows * group; ++i) {
      const T* source = q.at(row + i / group, head * group + i % group);
      for (int c = 0; c < Spec::query_width; ++c) model_query[c] = to_float(source[c]);
      float* folded = queries + i * shape::query_pitch;
      for (int c = 0; c < shape::query_pitch; ++c) folded[c] = 0;
      constants[i] = transform<typename Spec::first_stream>::fold_query(model_query, folded, first_constants(head));
      if constexpr (Spec::is_latent) {
        constants[i] += transform<typename Spec::second_stream>::fold_query(
            model_query + Spec::first_stream::model_width, folded + first_tile::pitch, second_constants(head));
      }
    }
  }

  /// The rows of a tile that the query at `position` sees, as up to two ranges relative to the tile.
  int ranges_in(int64 position, int64 tile, int64 tile_end, row_range* ranges) const {
    using tokens = typename Spec::tokens_policy;
    const visible_rows v = visible_at(position, tokens::sinks, tokens::window, params.window);
    int count = 0;
    const row_range both[] = {v.sinks, v.recent};
    for (const row_range& r : both) {
      const row_range in = r.within(tile, tile_end);
      if (!in.empty()) ranges[count++] = {in.begin - tile, in.end - tile};
    }
    return count;
  }

  /// Scores, soft-max and weighted sum of `count` queries from `begin` on, all at `length` rows, over ranges of a tile.
  void attend_ranges(int begin, int count, int64 tile, int64 length, const row_range* ranges, int range_count) {
    float* s = scores + static_cast<int64>(begin) * shape::tile_rows;
    const float* folded = queries + static_cast<int64>(begin) * shape::query_pitch;
    tile_segment segments[3];
    for (int r = 0; r < range_count; ++r) {
      const int low = static_cast<int>(ranges[r].begin);
      const int high = static_cast<int>(ranges[r].end);
      int n = first_tile::split(tile, low, high, length, segments);
      for (int i = 0; i < n; ++i) {
        score<false>(folded, count, shape::query_pitch, first.rows(segments[i]), segments[i].end - segments[i].begin,
                     first_tile::pitch, first_tile::pitch, s + segments[i].begin, shape::tile_rows);
      }
      if constexpr (Spec::is_latent) {
        n = second_tile::split(tile, low, high, length, segments);
        for (int i = 0; i < n; ++i) {
          score<true>(folded + first_tile::pitch, count, shape::query_pitch, second.rows(segments[i]),
                      segments[i].end - segments[i].begin, second_tile::pitch, second_tile::pitch,
                      s + segments[i].begin, shape::tile_rows);
        }
      }
    }

    const float minus_infinity = -infinity();
    for (int i = 0; i < count; ++i) {
      float* row = s + static_cast<int64>(i) * shape::tile_rows;
      softmax_state& state = states[0][begin + i];
      float top = minus_infinity;
      for (int r = 0; r < range_count; ++r) {
        for (int64 t = ranges[r].begin; t < ranges[r].end; ++t) row[t] = params.scale * (row[t] + constants[begin + i]);
        if (params.soft_cap > 0) {
          for (int64 t = ranges[r].begin; t < ranges[r].end; ++t) {
            row[t] = params.soft_cap * tanh_of(row[t] / params.soft_cap);
          }
        }
        top = max_of_row(row + ranges[r].begin, ranges[r].end - ranges[r].begin, top);
      }
      const float factor = state.raise(top);
      if (factor != 1.0f) {
        float* o = sums[0] + static_cast<int64>(begin + i) * shape::value_pitch;
        for (int c = 0; c < shape::value_pitch; ++c) o[c] *= factor;
      }
      const float m = state.m == minus_infinity ? 0.0f : state.m;  // all scores -inf: all weights 0
      for (int r = 0; r < range_count; ++r) {
        for (int64 t = ranges[r].begin; t < ranges[r].end; ++t) row[t] = exp_of(row[t] - m);
        state.l += sum_of(row + ranges[r].begin, ranges[r].end - ranges[r].begin);
      }
    }

    for (int r = 0; r < range_count; ++r) {
      const int low = static_cast<int>(ranges[r].begin);
      const int high = static_cast<int>(ranges[r].end);
      const int n = value_tile().split(tile, low, high, length, segments);
      for (int i = 0; i < n; ++i) {
        accumulate(s + segments[i].begin, count, shape::tile_rows, value_tile().rows(segments[i]),
                   segments[i].end - segments[i].begin, shape::value_pitch, shape::value_pitch,
                   sums[0] + static_cast<int64>(begin) * shape::value_pitch, shape::value_pitch);
      }
    }
  }

  const auto& value_tile() const {
    if constexpr (Spec::is_latent) {
      return first;
    } else {
      return second;
    }
  }

  /// One split of rows for the block of query rows [row, row + rows) of sequence i: into states[0], sums[0].
  void attend_split(int i, int head, int64 row, int rows, int64 split) {
    const int group = view.model.group();
    for (int n = 0; n < rows * group; ++n) {
      attention_state{states[0] + n, sums[0] + static_cast<int64>(n) * shape::value_pitch, shape::value_pitch}.clear();
    }
    const stream_rows<Spec, true> first_rows(view, step, i, slot, head);
    const stream_rows<Spec, false> second_rows(view, step, i, slot, head);
    const int64 earliest = step.seq_lens[i] + row;  // position of the block's first query
    const int64 latest = earliest + rows - 1;
    const int64 end = min_of((split + 1) * split_rows, latest + 1);
    for (int64 tile = split * split_rows; tile < end; tile += shape::tile_rows) {
      const int64 tile_end = min_of<int64>(tile + shape::tile_rows, end);
      row_range ranges[2];
      // What a later query sees of the rows up to `earliest`, the first query of the block sees too.
      if (tile_end <= earliest + 1 && ranges_in(earliest, tile, tile_end, ranges) == 0) continue;
      first.load(first_rows, tile, tile_end, earliest + 1, latest + 1, first_constants(head), params.rotary);
      second.load(second_rows, tile, tile_end, earliest + 1, latest + 1, second_constants(head), params.rotary);
      if (is_uniform(tile, tile_end, earliest, latest)) {
        ranges[0] = {0, tile_end - tile};
        attend_ranges(0, rows * group, tile, latest + 1, ranges, 1);
        continue;
      }
      for (int n = 0; n < rows; ++n) {
        const int count = ranges_in(earliest + n, tile, tile_end, ranges);
        if (count > 0) attend_ranges(n * group, group, tile, earliest + n + 1, ranges, count);
      }
    }
  }

  /// Whether all queries of a block see the whole tile, and from the same sources.
  bool is_uniform(int64 tile, int64 tile_end, int64 earliest, int64 latest) const {
    using tokens = typename Spec::tokens_policy;
    if (tile_end > earliest + 1) return false;
    if (visible_at(latest, tokens::sinks, tokens::window, params.window).recent.begin > tile) return false;
    return same_sources<typename Spec::first_stream>(tile_end, earliest, latest) &&
           same_sources<typename Spec::second_stream>(tile_end, earliest, latest);
  }
  template <class Stream>
  static bool same_sources(int64 tile_end, int64 earliest, int64 latest) {
    const int64 boundary = Stream::seal_boundary(earliest + 1);
    return boundary == Stream::seal_boundary(latest + 1) || tile_end <= boundary;
  }

  /// Output and lse of query n of a block from its state.
  void finish(int n, int head, int64 row, const softmax_state& part, float* o) {
    const int group = view.model.group();
    const int query_head = head * group + n % group;
    const int64 query_row = row + n / group;
    softmax_state total = part;
    if (params.sink_logits != nullptr) {
      const attention_state with_sink{&total, o, shape::value_pitch};
      with_sink.push_sink(params.sink_logits[query_head]);
    }
    attention_state{&total, o, shape::value_pitch}.normalize();
    const float mass = total.l == 0 ? 0.0f : mass_of(part, total) / total.l;
    transform<value_stream>::unfold_output(o, mass, out.at(query_row, query_head),
                                           Spec::values_are_first ? first_constants(head) : second_constants(head));
    if (lse != nullptr) lse[query_row * view.model.query_heads + query_head] = total.lse();
  }
  /// The rows' share of a total that may hold a sink: their l, on the total's maximum.
  static float mass_of(const softmax_state& part, const softmax_state& total) {
    return part.l == 0 ? 0.0f : part.l * exp_of(part.m - total.m);
  }

  float* partial(int64 base, int64 row, int head, int64 splits, int64 split) const {
    return partials + (base + (row * view.model.query_heads + head) * splits + split) * shape::partial_floats;
  }

  void run_item(int i, int head, int64 block, int64 base, int64 split) {
    const int group = view.model.group();
    const int per_block = shape::block_rows(group);
    const int64 row = block * per_block;
    const int rows = static_cast<int>(min_of<int64>(per_block, step.rows(i) - row));
    const int64 first_row = step.row_indptr[i] + row;
    const int64 length = step.seq_lens[i] + row + rows;
    const int64 splits = ceil_div(step.seq_lens[i] + step.rows(i), split_rows);
    fold(head, first_row, rows);
    if (splits_are_items) {
      if (split * split_rows < length) attend_split(i, head, row, rows, split);
      for (int n = 0; n < rows * group; ++n) {
        float* at = partial(base, row + n / group, head * group + n % group, splits, split);
        const bool ran = split * split_rows < length;
        const softmax_state state = ran ? states[0][n] : softmax_state{};
        at[0] = state.m;
        at[1] = state.l;
        const float* o = sums[0] + static_cast<int64>(n) * shape::value_pitch;
        for (int c = 0; c < shape::value_pitch; ++c) at[2 + c] = ran ? o[c] : 0.0f;
      }
      return;
    }
    for (int n = 0; n < rows * group; ++n) total(n).clear();
    for (int64 s = 0; s * split_rows < length; ++s) {
      attend_split(i, head, row, rows, s);
      for (int n = 0; n < rows * group; ++n) {
        total(n).merge(states[0][n], sums[0] + static_cast<int64>(n) * shape::value_pitch);
      }
    }
    for (int n = 0; n < rows * group; ++n) finish(n, head, first_row, states[1][n], total(n).o);
  }
  attention_state total(int n) const {
    return {states[1] + n, sums[1] + static_cast<int64>(n) * shape::value_pitch, shape::value_pitch};
  }

  /// The items of this slice.
  void run(slice part) {
    const int per_block = shape::block_rows(view.model.group());
    int64 item = 0;
    int64 base = 0;
    for (int i = 0; i < step.sequences; ++i) {
      const int64 blocks = ceil_div<int64>(step.rows(i), per_block);
      const int64 splits = ceil_div(step.seq_lens[i] + step.rows(i), split_rows);
      for (int64 block = 0; block < blocks; ++block) {
        for (int head = 0; head < view.model.stored_heads(); ++head) {
          for (int64 s = 0; s < (splits_are_items ? splits : 1); ++s) {
            if (item++ % part.count == part.index) run_item(i, head, block, base, s);
          }
        }
      }
      base += step.rows(i) * view.model.query_heads * splits;
    }
  }

  /// Joins the partial results of splits that were items.
  void merge(slice part) {
    const int group = view.model.group();
    int64 item = 0;
    int64 base = 0;
    for (int i = 0; i < step.sequences; ++i) {
      const int64 splits = ceil_div(step.seq_lens[i] + step.rows(i), split_rows);
      for (int64 row = 0; row < step.rows(i); ++row) {
        for (int h = 0; h < view.model.query_heads; ++h) {
          if (item++ % part.count != part.index) continue;
          total(0).clear();
          for (int64 s = 0; s < splits; ++s) {
            const float* at = partial(base, row, h, splits, s);
            total(0).merge({at[0], at[1]}, at + 2);
          }
          finish(h % group, h / group, step.row_indptr[i] + row, states[1][0], total(0).o);
        }
      }
      base += step.rows(i) * view.model.query_heads * splits;
    }
  }
};

/// Every page that a query of the step sees must be there: the first query of a sequence sees the oldest.
template <class Spec>
status check_visible_pages(const cache_view<Spec>& view, const step_view& step, const attend_params& params) {
  using tokens = typename Spec::tokens_policy;
  constexpr int64 per_page = Spec::tokens_per_page;
  for (int i = 0; i < step.sequences; ++i) {
    if (step.rows(i) == 0) continue;
    const visible_rows v = visible_at(step.seq_lens[i], tokens::sinks, tokens::window, params.window);
    for (int64 p = 0; p * per_page < step.seq_lens[i]; ++p) {
      if (step.block(i, p) >= view.blocks) return status::invalid_argument;
      if (step.block(i, p) >= 0) continue;
      const bool seen = !v.sinks.within(p * per_page, (p + 1) * per_page).empty() ||
                        !v.recent.within(p * per_page, (p + 1) * per_page).empty();
      if (seen) return status::evicted;
    }
  }
  return status::ok;
}

template <class Spec, class T>
status attend_phase(bool merges, const cache_view<Spec>& view, const step_view& step, int layer, rows_view<const T> q,
                    rows_view<float> out, float* lse, const attend_params& params, void* workspace,
                    int64 workspace_bytes, slice part) {
  status s = check_view(view);
  if (s == status::ok) s = check_step(view, step);
  if (s != status::ok) return s;
  if (layer < 0 || layer >= view.model.layers) return status::bad_layer;
  if (part.count < 1 || part.index < 0 || part.index >= part.count) return status::invalid_argument;
  if (!(params.scale > 0) || params.soft_cap < 0 || params.window < 0) return status::invalid_argument;
  if (step.total_rows() == 0) return status::ok;
  if (q.data == nullptr || out.data == nullptr || workspace == nullptr) return status::null_pointer;
  if (reinterpret_cast<size_type>(workspace) % sizeof(float) != 0) return status::misaligned;
  if (workspace_bytes < attend_workspace_bytes<Spec>(view.model, step, part.count)) return status::workspace_too_small;
  if constexpr (Spec::first_stream::is_deferred) {
    if (params.rotary.cos_sin == nullptr) return status::null_pointer;
    if (params.rotary.pairs != Spec::rotary_policy::template pair_count<Spec::shape_type::head_dim>) {
      return status::invalid_argument;
    }
    for (int i = 0; i < step.sequences; ++i) {
      if (step.seq_lens[i] + step.rows(i) > params.rotary.positions) return status::bad_position;
    }
  }
  s = check_visible_pages(view, step, params);
  if (s != status::ok) return s;
  const attend_plan plan = plan_attend<Spec>(view.model, step, part.count);
  if (merges && plan.partials == 0) return status::ok;
  float* base = static_cast<float*>(workspace);
  const int64 scratch = attend_shape<Spec>::scratch_floats(view.model.group());
  attend_call<Spec, T> call{view,
                            step,
                            view.model.slot(layer),
                            q,
                            out,
                            lse,
                            params,
                            base + part.index * scratch,
                            base + part.count * scratch,
                            plan.partials > 0,
                            {},
                            {},
                            {},
                            {},
                            {},
                            {},
                            {}};
  call.carve();
  if (merges) {
    call.merge(part);
  } else {
    call.run(part);
  }
  return status::ok;
}

}  // namespace detail

/// Attends the step's queries over the layer's slot: row i of a sequence sees the rows up to its own position.
/// q: [rows][query_heads][query_width], out: [rows][query_heads][output_width], lse: [rows][query_heads] or null,
/// natural logarithm, -inf where a query sees nothing (its output is zero). workspace: attend_workspace_bytes of this
/// step and part.count, aligned to 4 bytes, one for all slices.
/// Never allocates or throws. Call it once per slice; when all slices have returned, call attend_merge the same way.
/// Answers ok; workspace_too_small; invalid_argument for a scale that is not positive, a negative cap or window, or a
/// rotary table of another number of pairs; bad_position where that table is too short; else as append does.
template <class Spec, class T>
status attend(const cache_view<Spec>& view, const step_view& step, int layer, rows_view<const T> q,
              rows_view<float> out, float* lse, const attend_params& params, void* workspace, int64 workspace_bytes,
              slice part = {}) {
  return detail::attend_phase<Spec, T>(false, view, step, layer, q, out, lse, params, workspace, workspace_bytes, part);
}

/// The second half of attend: joins the splits of long contexts. Returns at once where there is nothing to join.
template <class Spec, class T>
status attend_merge(const cache_view<Spec>& view, const step_view& step, int layer, rows_view<const T> q,
                    rows_view<float> out, float* lse, const attend_params& params, void* workspace,
                    int64 workspace_bytes, slice part = {}) {
  return detail::attend_phase<Spec, T>(true, view, step, layer, q, out, lse, params, workspace, workspace_bytes, part);
}

}  // namespace kvc::inline v0_1::host
