// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/attention/tile.hpp"
#include "kvc/host/packed_stream.hpp"

// How a step's attend is cut into work items and how much memory that takes: pure functions of the shapes.

namespace kvc::inline v0_1::host {

/// Rows of a split: by these long contexts are shared between slices and merged in order.
inline constexpr int64 split_rows = 1024;

namespace detail {

/// Compile-time sizes of an attend over a composition.
template <class Spec>
struct attend_shape {
  static constexpr bool is_latent = Spec::is_latent;
  using first_tile = tile_of<Spec, true, true>;         // keys; latent: scored and summed
  using second_tile = tile_of<Spec, false, is_latent>;  // values; rotary key: scored
  static constexpr int query_pitch = first_tile::pitch + (is_latent ? second_tile::pitch : 0);
  static constexpr int value_width = is_latent ? Spec::first_stream::width : Spec::second_stream::width;
  static constexpr int value_pitch = is_latent ? first_tile::pitch : second_tile::pitch;

  // Streams that are attended as codes. Keys that are expanded are not: they are turned row by row.
  static constexpr bool first_is_packed = packed_stream<Spec, true>::fits() && !first_tile::expands &&
                                          !(is_latent && packed_form_of<Spec, true>::is_per_channel);
  static constexpr bool second_is_packed =
      packed_stream<Spec, false>::fits() && (is_latent || !packed_form_of<Spec, false>::is_per_channel);
  static constexpr bool has_codes = first_is_packed || second_is_packed;
  static constexpr bool values_are_packed = is_latent ? first_is_packed : second_is_packed;

  /// Floats of a query's sums: of fp32 rows, and of codes in their own order.
  static constexpr int sum_pitch = [] {
    if constexpr (values_are_packed) return value_pitch + packed_sums<Spec, is_latent>::pitch;
    return value_pitch;
  }();

  /// Rows of a tile of fp32 alone, and of one with codes.
  static constexpr int plain_rows = first_tile::pitch > 256 ? 16
                                                            : (Spec::tokens_per_page < 64 ? Spec::tokens_per_page : 64);
  static constexpr int most_rows = has_codes ? code_tile_rows : round_up(plain_rows, 16);
  /// Rows of the fp32 tile of a stream: packed ones need it for queries that are not finite.
  template <bool IsPacked>
  static constexpr int fp32_rows = IsPacked ? plain_rows : most_rows;
  template <class Stream>
  static constexpr int exact_rows = Stream::exact_rows > 0 ? most_rows : 0;
  /// Whether the second stream's scores need a place of their own, as its exact rows replace what codes gave.
  static constexpr bool has_extra_scores = is_latent && second_is_packed && Spec::second_stream::exact_rows > 0;

  /// Query rows of a block: enough queries to use a loaded tile well.
  static int block_rows(int group) { return max_of(1, 96 / group); }
  static int64 block_queries(int group) { return static_cast<int64>(block_rows(group)) * group; }
  /// Bytes of one slice's scratch.
  static int64 scratch_bytes(int group) {
    const int64 queries = block_queries(group);
    const int64 floats = queries * (query_pitch + 2 + 2 * (sum_pitch + 2) + (has_extra_scores ? 2 : 1) * most_rows) +
                         fp32_rows<first_is_packed> * first_tile::pitch +
                         fp32_rows<second_is_packed> * second_tile::pitch +
                         exact_rows<typename Spec::first_stream> * first_tile::pitch +
                         exact_rows<typename Spec::second_stream> * second_tile::pitch;
    int64 bytes = round_up<int64>(4 * floats, 64) + 2 * round_up<int64>(block_rows(group) * most_rows, 64) + 64;
    if constexpr (first_is_packed) bytes += packed_rows<Spec, true>::scratch_bytes(queries);
    if constexpr (second_is_packed) bytes += packed_rows<Spec, false>::scratch_bytes(queries);
    if constexpr (values_are_packed) bytes += packed_sums<Spec, is_latent>::scratch_bytes(queries);
    if constexpr (values_are_packed) bytes += code_buffer_bytes();
    return bytes;
  }
  /// Bytes that sum_codes interleaves codes in.
  static constexpr int64 code_buffer_bytes() { return tile_blocks * 1024; }
  /// Where sums begin that were made of codes alone: those of fp32 rows stay zero.
  static constexpr int code_sums_begin =
      values_are_packed && stream_of<Spec, is_latent>::exact_rows == 0 ? value_pitch : 0;
  /// Floats of one partial result: m, l, where sums begin, and they.
  static constexpr int partial_floats = 3 + sum_pitch;
};

/// The most partial results that one unit of the step leaves (attend_shares.hpp); 0 where no unit has two splits.
template <class Spec>
int64 most_partials(const extents<Spec>& model, const step_view& step) {
  int64 most = 0;
  for (int i = 0; i < step.sequences; ++i) {
    const int64 splits = ceil_div(step.seq_lens[i] + step.rows(i), split_rows);
    const int64 rows = min_of<int64>(step.rows(i), attend_shape<Spec>::block_rows(model.group()));
    if (splits > 1) most = max_of(most, rows * model.group() * splits);
  }
  return most;
}

/// Whether slices leave parts of units to be joined.
template <class Spec>
bool may_cut(const extents<Spec>& model, const step_view& step, int slices) {
  return slices > 1 && most_partials(model, step) > 0;
}

}  // namespace detail

/// Bytes of workspace that attend needs for this step when `slices` callers share it. A pure function.
template <class Spec>
int64 attend_workspace_bytes(const extents<Spec>& model, const step_view& step, int slices) {
  using shape = detail::attend_shape<Spec>;
  return 64 + slices * shape::scratch_bytes(model.group()) +
         static_cast<int64>(sizeof(float)) * (slices - 1) * detail::most_partials(model, step) * shape::partial_floats;
}

}  // namespace kvc::inline v0_1::host
