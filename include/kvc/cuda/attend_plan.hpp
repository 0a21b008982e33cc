// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cache/rows.hpp"
#include "kvc/cuda/bounds.hpp"
#include "kvc/cuda/turning.hpp"

// How an attend is cut into thread blocks, and how much memory that takes: pure functions of the shapes.

namespace kvc::inline v0_1::cuda {

/// The numbers of a device that plans depend on. Fill it once (cuda::current_device).
struct device_limits {
  int multiprocessors = 132;
  int shared_bytes = 232448;   ///< of one block, at most
  bool has_warpgroups = true;  ///< products of four warps: compute capability 9.0, code for sm_90a
};

namespace detail {

/// Whether codes of a stream of keys or values are operands as they lie (attend_codes.cuh): pairs of matrices of 16
/// bytes to a row, and no group that shares one with another.
template <class Codec, int Width>
inline constexpr bool has_code_operands = false;
template <int Bits, int Group, quant::grid Grid, quant::scale_type Type, int Width>
inline constexpr bool has_code_operands<quant::integer<Bits, Group, Grid, quant::per_token, Type>, Width> =
    (Bits == 2 || Bits == 4 || Bits == 8) && Width % max_of(64, 256 / Bits) == 0 && Width <= 256 &&
    (Group >= Width || Group % max_of(32, 128 / Bits) == 0);

/// Compile-time sizes of an attend over a composition.
template <class Spec>
struct attend_shape {
  using first = typename Spec::first_stream;
  using second = typename Spec::second_stream;
  static constexpr bool is_latent = Spec::is_latent;
  static constexpr int first_pitch = round_up(first::score_width, 16);
  static constexpr int second_pitch = round_up(second::width, 16);
  static constexpr int score_pitch = first_pitch + (is_latent ? second_pitch : 0);
  static constexpr int value_pitch = is_latent ? first_pitch : second_pitch;
  static constexpr int tile_pitch = is_latent ? score_pitch : max_of(first_pitch, second_pitch);

  /// Products of fp32 rows are made of two bf16 each; all others lose less to bf16 than to their codec.
  static constexpr bool is_fp32 =
      __is_same(typename first::codec, quant::none<float>) || __is_same(typename second::codec, quant::none<float>);
  static constexpr int limbs = is_fp32 ? 2 : 1;
  /// As many rows as fit into shared memory with their stages, at most 64.
  static constexpr int tile_rows = [] {
    int rows = 64;
    const int64 row = 2 * limbs * (tile_pitch + 8) +
                      2 * (first::row_bytes + first::group_bytes + second::row_bytes + second::group_bytes);
    while (rows > 16 && rows * row + limbs * 64 * (score_pitch + 8) > 190000) rows /= 2;
    return rows;
  }();
  /// A wide row's sums need the registers of more threads.
  static constexpr int warps = value_pitch * limbs > 256 ? 8 : 4;
  static constexpr int threads = 32 * warps;

  /// Queries (query rows x heads that share a stored row) of a thread block; the sizes that are compiled.
  static constexpr int few = is_latent ? 16 : 8;
  static constexpr int many = value_pitch * limbs > 256 ? 32 : 64;
  /// Up to three blocks of few queries, which meet in the second-level cache, are faster than one of many.
  static constexpr int block_queries(int64 queries) { return queries <= (is_latent ? few : 3 * few) ? few : many; }

  /// The same where latents in 4-bit codes meet queries in bytes (byte_block.cuh). With 64 of them, two warpgroups
  /// share the channels.
  static constexpr int most_byte_queries = is_latent && first::width % 256 == 0 ? 64 : 32;
  static constexpr int byte_queries(int64 queries) {
    return queries <= 16 ? 16 : queries <= 32 ? 32 : most_byte_queries;
  }

  /// Whether few queries of keys and values in codes are attended by warps of their own (attend_codes.cuh), in so many
  /// blocks at a time.
  static constexpr bool has_codes = !is_latent && !Spec::has_tail && !first::is_deferred &&
                                    Spec::tokens_per_page % 16 == 0 &&
                                    has_code_operands<typename first::codec, first::width> &&
                                    has_code_operands<typename second::codec, second::width>;
  static constexpr int code_blocks = max_of(first::width, second::width) <= 128 ? 2 : 1;

  /// Blocks of few queries that a multiprocessor holds at a time, about: what splits aim to fill.
  static constexpr int blocks = tile_pitch * limbs > 256 ? 1 : !first::is_deferred ? 5 : turning<first>::exists ? 4 : 3;

  /// Floats of one partial result: o, then m and l.
  static constexpr int partial_floats = value_pitch + 2;
};

inline constexpr int most_splits = 256;

struct attend_plan {
  int queries = 0;       ///< of a thread block
  int query_blocks = 0;  ///< per sequence and stored head
  int splits = 0;        ///< of a sequence's rows
};

/// From `least` on, up to `most` and 8 times as many: the number of splits whose blocks fill the device best to the
/// end, where each more costs as much as 3 % of the work. For blocks of which few run at once.
constexpr int64 full_waves(int64 blocks, int64 at_once, int64 least, int64 most) {
  int64 best = least;
  double best_share = 0;
  for (int64 s = least; s == least || s <= min_of<int64>(most, 8 * least); ++s) {
    const double waves = static_cast<double>(blocks * s) / static_cast<double>(at_once);
    const double whole = static_cast<double>(ceil_div(blocks * s, at_once));
    const double share = waves / whole / (1 + 0.03 * static_cast<double>(s) / static_cast<double>(least));
    if (share > best_share) best = s, best_share = share;
  }
  return best;
}

/// Splits fill the device when sequences, heads and query blocks do not.
template <class Spec>
constexpr attend_plan plan_attend(const extents<Spec>& model, const step_bounds& bounds, const device_limits& device) {
  using shape = attend_shape<Spec>;
  attend_plan plan;
  const int64 queries = bounds.max_rows * model.group();
  plan.queries = shape::block_queries(queries);
  plan.query_blocks = static_cast<int>(ceil_div<int64>(max_of<int64>(queries, 1), plan.queries));
  const int64 query_blocks =
      device.has_warpgroups ? ceil_div<int64>(queries, shape::byte_queries(queries)) : plan.query_blocks;
  const int64 blocks = bounds.sequences * model.stored_heads() * (shape::is_latent ? query_blocks : plan.query_blocks);
  const int64 tiles = ceil_div<int64>(bounds.max_length, shape::tile_rows);
  const bool by_codes = shape::has_codes && plan.queries == shape::few;
  const int64 at_once = (by_codes ? shape::code_blocks : shape::blocks) * device.multiprocessors;
  int64 wanted = max_of<int64>(1, at_once / max_of<int64>(blocks, 1));
  if (shape::first::is_deferred || by_codes) wanted = full_waves(max_of<int64>(blocks, 1), at_once, wanted, tiles / 16);
  const int64 most = min_of<int64>(wanted, most_splits);
  if (shape::is_latent) {  // whole rounds of two teams (byte_block.cuh)
    const int64 of_split = max_of<int64>(2, round_up<int64>(ceil_div(tiles, most), 2));
    plan.splits = static_cast<int>(max_of<int64>(1, ceil_div(tiles, of_split)));
  } else {
    plan.splits = static_cast<int>(max_of<int64>(1, min_of(most, ceil_div<int64>(tiles, 4))));
  }
  return plan;
}

}  // namespace detail

/// Bytes of workspace that attend needs within these bounds. A pure function.
template <class Spec>
constexpr int64 attend_workspace_bytes(const extents<Spec>& model, const step_bounds& bounds,
                                       const device_limits& device = {}) {
  const detail::attend_plan plan = detail::plan_attend<Spec>(model, bounds, device);
  return bounds.total_rows * model.query_heads * plan.splits * detail::attend_shape<Spec>::partial_floats *
         static_cast<int64>(sizeof(float));
}

}  // namespace kvc::inline v0_1::cuda
