// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/host/attend_block.hpp"
#include "kvc/host/attend_shares.hpp"

// One slice's work of an attend on the host:
//
//   for each (sequence, block of query rows, stored head)          one unit of work
//     fold the block's queries into the stored space               rows x group queries share every tile
//     for each split of 1024 rows, for each tile of it
//       scores: 8-bit products with packed codes, or fp32 products with decoded (expanded) rows
//       soft-max over what each query sees, weights
//       weighted sums of value rows, in the same two ways
//     merge the splits in order, unfold the output
//
// Splits are also what a long context is shared by: a unit that is cut between slices is merged by a second call
// (attend_shares.hpp). Either way the arithmetic is the same, and so it is however many queries share a block.

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
  using block_type::live;
  using block_type::lse;
  using block_type::most_partials;
  using block_type::out;
  using block_type::params;
  using block_type::partials;
  using block_type::q;
  using block_type::queries;
  using block_type::ranges_in;
  using block_type::second_codes;
  using block_type::second_constants;
  using block_type::slot;
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
      live_sums(0, n).clear();
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

  /// Partial result of query n of a cut unit: m, l, where sums begin, and they. The slice of the first splits leaves
  /// theirs merged, as split 0.
  float* partial(const attend_unit& u, int n, int64 split) const {
    return partials + (u.cut * most_partials + n * u.splits + split) * shape::partial_floats;
  }
  void leave(const attend_unit& u, int64 split, int which) {
    for (int n = 0; n < u.rows * view.model.group(); ++n) {
      float* at = partial(u, n, split);
      at[0] = states[which][n].m;
      at[1] = states[which][n].l;
      at[2] = static_cast<float>(live);
      __builtin_memcpy(at + 3, live_sums(which, n).o, sizeof(float) * live_sums(which, n).width);
    }
  }

  /// The splits [begin, end) of a unit.
  void run_splits(const attend_unit& u, int64 begin, int64 end) {
    const int group = view.model.group();
    const int64 first_row = step.row_indptr[u.index] + u.row;
    bool is_finite = false;
    compiled([&] { is_finite = fold(u.head, first_row, u.rows); });
    const bool uses_codes = shape::has_codes && is_finite && !params.fp32_products;
    if constexpr (shape::has_codes) {
      if (uses_codes) quantize_queries(u.rows * group);
    }
    live = uses_codes ? shape::code_sums_begin : 0;
    const bool merges = begin == 0;
    if (merges) {
      for (int n = 0; n < u.rows * group; ++n) total(n).clear();
    }
    for (int64 split = begin; split < end; ++split) {
      if constexpr (shape::has_codes) {
        if (uses_codes) attend_split<true>(u.index, u.head, u.row, u.rows, split);
      }
      if (!uses_codes) attend_split<false>(u.index, u.head, u.row, u.rows, split);
      if (!merges) {
        leave(u, split, 0);
        continue;
      }
      compiled([&] {
        for (int n = 0; n < u.rows * group; ++n) live_sums(1, n).merge(states[0][n], live_sums(0, n).o);
      });
    }
    if (u.owner < 0) {
      if (merges) leave(u, 0, 1);
      return;
    }
    compiled([&] {
      for (int n = 0; n < u.rows * group; ++n) finish(n, u.head, first_row, states[1][n], total(n).o);
    });
  }
  void quantize_queries(int count) {
    if constexpr (shape::first_is_packed) first_codes.quantize(kernels, queries, count, shape::query_pitch);
    if constexpr (shape::second_is_packed && Spec::is_latent) {
      second_codes.quantize(kernels, queries + first_tile::pitch, count, shape::query_pitch);
    }
  }
  /// A query's sums as far as they are not zero: of its split (0) or of its unit (1).
  attention_state live_sums(int which, int n) const {
    return {states[which] + n, sums_of(which, n) + live, shape::sum_pitch - live};
  }
  attention_state total(int n) const { return {states[1] + n, sums_of(1, n), shape::sum_pitch}; }

  /// What is this slice's.
  void run(slice part) {
    const attend_shares<Spec> shares(view.model, step, params.window, part.count);
    const kernel_scope scope(kernels);
    shares.for_units([&](const attend_unit& u) {
      if (u.owner >= 0) {
        if (u.owner == part.index) run_splits(u, 0, u.splits);
        return;
      }
      int64 begin = 0;
      while (begin < u.splits && shares.slice_of(u, begin) < part.index) ++begin;
      int64 end = begin;
      while (end < u.splits && shares.slice_of(u, end) == part.index) ++end;
      if (begin < end) run_splits(u, begin, end);
    });
  }

  /// Joins the parts of units that were cut.
  void merge(slice part) {
    const attend_shares<Spec> shares(view.model, step, params.window, part.count);
    const int group = view.model.group();
    int64 query = 0;
    shares.for_units([&](const attend_unit& u) {
      if (u.owner >= 0) return;
      int64 rest = 1;
      while (shares.slice_of(u, rest) == shares.slice_of(u, 0)) ++rest;
      for (int n = 0; n < u.rows * group; ++n) {
        if (query++ % part.count != part.index) continue;
        const float* merged = partial(u, n, 0);
        total(0).clear();
        states[1][0] = {merged[0], merged[1]};
        live = static_cast<int>(merged[2]);
        __builtin_memcpy(live_sums(1, 0).o, merged + 3, sizeof(float) * live_sums(1, 0).width);
        for (int64 split = rest; split < u.splits; ++split) {
          const float* at = partial(u, n, split);
          live_sums(1, 0).merge({at[0], at[1]}, at + 3);
        }
        finish(n, u.head, step.row_indptr[u.index] + u.row, states[1][0], total(0).o);
      }
    });
  }
};

}  // namespace kvc::inline v0_1::host::detail
