// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/host/attend_block.hpp"

// One slice's work of an attend on the host:
//
//   for each (sequence, stored head, block of query rows)          one work item
//     fold the block's queries into the stored space               rows x group queries share every tile
//     for each split of 1024 rows, for each tile of it
//       scores: 8-bit products with packed codes, or fp32 products with decoded (expanded) rows
//       soft-max over what each query sees, weights
//       weighted sums of value rows, in the same two ways
//     merge the splits in order, unfold the output
//
// Splits are also the unit that a long context is shared by: with few items they become items of their own and are
// merged by a second call. Either way the arithmetic is the same, and so it is however many queries share a block.

namespace kvc::inline v0_1::host::detail {

template <class Spec, class T>
struct attend_call : attend_block<Spec, T> {
  using block_type = attend_block<Spec, T>;
  using shape = typename block_type::shape;
  using first_tile = typename block_type::first_tile;
  using value_stream = typename block_type::value_stream;
  using block_type::block_type;
  using block_type::code_sums;
  using block_type::constants;
  using block_type::first_codes;
  using block_type::first_constants;
  using block_type::fold;
  using block_type::is_uniform;
  using block_type::kernels;
  using block_type::lse;
  using block_type::out;
  using block_type::params;
  using block_type::partials;
  using block_type::q;
  using block_type::queries;
  using block_type::ranges_in;
  using block_type::second_codes;
  using block_type::second_constants;
  using block_type::slot;
  using block_type::splits_are_items;
  using block_type::states;
  using block_type::step;
  using block_type::sums;
  using block_type::sums_of;
  using block_type::view;

  // ---- one split

  /// One split of rows for the block of query rows [row, row + rows) of sequence i: into states[0], sums[0].
  template <bool Codes>
  void attend_split(int i, int head, int64 row, int rows, int64 split) {
    constexpr int step_rows = Codes ? shape::most_rows : shape::plain_rows;
    const int group = view.model.group();
    for (int n = 0; n < rows * group; ++n) {
      attention_state{states[0] + n, sums_of(0, n), shape::sum_pitch}.clear();
    }
    const stream_rows<Spec, true> first_rows(view, step, i, slot, head);
    const stream_rows<Spec, false> second_rows(view, step, i, slot, head);
    const int64 earliest = step.seq_lens[i] + row;  // position of the block's first query
    const int64 latest = earliest + rows - 1;
    const int64 end = min_of((split + 1) * split_rows, latest + 1);
    for (int64 tile = split * split_rows; tile < end; tile += step_rows) {
      const int64 tile_end = min_of<int64>(tile + step_rows, end);
      row_range ranges[2];
      // What a later query sees of the rows up to `earliest`, the first query of the block sees too.
      if (tile_end <= earliest + 1 && ranges_in(earliest, tile, tile_end, ranges) == 0) continue;
      this->template attend_tile<Codes>({tile, tile_end, earliest, rows, is_uniform(tile, tile_end, earliest, latest)},
                                        first_rows, second_rows, head);
    }
  }

  /// Output and lse of query n of a block from its state.
  void finish(int n, int head, int64 row, const softmax_state& part, float* o) {
    const int group = view.model.group();
    const int query_head = head * group + n % group;
    const int64 query_row = row + n / group;
    if constexpr (shape::values_are_packed) decltype(code_sums)::finish(o + shape::value_pitch, o);
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
    const bool is_finite = fold(head, first_row, rows);
    const bool uses_codes = shape::has_codes && is_finite && !params.fp32_products;
    if constexpr (shape::has_codes) {
      if (uses_codes) quantize_queries(rows * group);
    }
    const auto attend = [&](int64 s) {
      if constexpr (shape::has_codes) {
        if (uses_codes) return attend_split<true>(i, head, row, rows, s);
      }
      attend_split<false>(i, head, row, rows, s);
    };
    if (splits_are_items) {
      if (split * split_rows < length) attend(split);
      for (int n = 0; n < rows * group; ++n) {
        float* at = partial(base, row + n / group, head * group + n % group, splits, split);
        const bool ran = split * split_rows < length;
        const softmax_state state = ran ? states[0][n] : softmax_state{};
        at[0] = state.m;
        at[1] = state.l;
        const float* o = sums_of(0, n);
        for (int c = 0; c < shape::sum_pitch; ++c) at[2 + c] = ran ? o[c] : 0.0f;
      }
      return;
    }
    for (int n = 0; n < rows * group; ++n) total(n).clear();
    for (int64 s = 0; s * split_rows < length; ++s) {
      attend(s);
      for (int n = 0; n < rows * group; ++n) {
        total(n).merge(states[0][n], sums_of(0, n));
      }
    }
    for (int n = 0; n < rows * group; ++n) finish(n, head, first_row, states[1][n], total(n).o);
  }
  void quantize_queries(int count) {
    if constexpr (shape::first_is_packed) first_codes.quantize(kernels, queries, count, shape::query_pitch);
    if constexpr (shape::second_is_packed && Spec::is_latent) {
      second_codes.quantize(kernels, queries + first_tile::pitch, count, shape::query_pitch);
    }
  }
  attention_state total(int n) const { return {states[1] + n, sums_of(1, n), shape::sum_pitch}; }

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

}  // namespace kvc::inline v0_1::host::detail
