// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/attention/state.hpp"
#include "kvc/cuda/attend_check.cuh"
#include "kvc/cuda/attend_expand.cuh"
#include "kvc/cuda/attend_plan.hpp"
#include "kvc/cuda/attend_spans.cuh"
#include "kvc/cuda/attend_tile.cuh"
#include "kvc/cuda/launch.cuh"
#include "kvc/cuda/team.cuh"

// Attention of a block of queries over a share of one sequence's rows, from the compressed form, on tensor cores.
//
//   scores  S [rows][queries]      = K [rows][channels] Q^T            rows on the 16-side of the product, queries on
//   weights P                      = exp(scale S - max)                the 8-side: few queries waste little
//   sums    O [channels][queries] += V^T [channels][rows] P
//
// A thread block owns Queries queries that share a stored head (query rows x group) and walks over its tiles:
//
//   codes of the next tiles on their way to shared memory (staged)
//   keys -> bf16 tile | scores, maxima | values -> the same tile | sums
//
// A latent cache loads one tile: the latent serves as keys and values. Where rows are scale * u + offset (codes.cuh),
// tiles hold u, and with constants per row t and group g of channels
//
//   S[t] = sum_g scale[t][g] <q_g, u_tg> + offset[t][g] sum(q_g)
//   O_g  = sum_t (p_t scale[t][g]) u_tg + sum_t p_t offset[t][g]
//
// and what elements are above u is taken off the same sums: <q_g, 1> above, and sum_t (p_t scale[t][g]) above, which a
// product with a block of ones gives, as it was rounded. Values are taken from the middle of their levels: weights that
// are nearly equal are rounded alike, and the error would grow with the mean of u.

namespace kvc::inline v0_1::cuda::detail {

/// Tiles of the first stream: those of keys before their rotary embedding are expanded, where they cannot be turned as
/// they are decoded.
template <class Spec, int Rows, int Limbs, bool Folds, int Threads>
struct scored_tile {
  using stream_type = stream_of<Spec, true>;
  using tile = device_tile<Spec, true, true, Rows, Limbs, Folds, Threads>;
  static constexpr bool expands = stream_type::is_deferred && Limbs == 1 && !tile::turns;
  using type = std::conditional_t<expands, expanded_tile<Spec, Rows, Threads>, tile>;
};

template <class Spec, int Queries>
struct attend_layout {
  using shape = attend_shape<Spec>;
  static constexpr int rows = shape::tile_rows;
  static constexpr int limbs = shape::limbs;
  static constexpr bool folds = Queries <= 16;  // for more queries decoding costs little, and registers would run out
  static constexpr int warps = shape::warps;
  static constexpr int threads = shape::threads;
  using first_tile = typename scored_tile<Spec, rows, limbs, folds, threads>::type;
  static constexpr bool expands = scored_tile<Spec, rows, limbs, folds, threads>::expands;
  using second_tile = device_tile<Spec, false, Spec::is_latent, rows, limbs, folds, threads>;
  using value_tile = device_tile<Spec, Spec::is_latent, Spec::is_latent, rows, limbs, folds, threads>;

  static constexpr int row_blocks = rows / 16;
  static constexpr int query_blocks = Queries / 8;
  static constexpr int warp_stride = warps / row_blocks;  ///< warps that share a block of rows
  static constexpr int warp_queries = ceil_div(query_blocks, warp_stride);
  static constexpr int value_blocks = shape::value_pitch / 16;
  static constexpr int warp_values = ceil_div(value_blocks, warps);
  static constexpr int groups = first_tile::constant_groups + second_tile::groups;
  static constexpr int weight_groups = max_of(1, value_tile::groups);

  // Strides in elements; an odd number of 16-byte slots each.
  static constexpr int query_stride = shape::score_pitch + 8;
  static constexpr int tile_stride = shape::tile_pitch + 8;
  static constexpr int weight_stride = Queries + (query_blocks % 2 == 0 ? 8 : 16);
  static constexpr int limb_stride = rows * tile_stride;

  static constexpr int stage_bytes = first_tile::stage_bytes + second_tile::stage_bytes;
  static constexpr int stages = stage_bytes > 6144 ? 2 : 3;

  // Shared memory, in bytes.
  static constexpr int query_at = 0;
  static constexpr int tile_at = query_at + limbs * Queries * query_stride * 2;
  static constexpr int weight_at = tile_at + limbs * limb_stride * 2;
  static constexpr int expanding_bytes = [] {
    if constexpr (expands) return first_tile::work_bytes;
    return 0;
  }();
  static constexpr int weight_bytes =
      max_of(expanding_bytes, max_of(limbs* weight_groups* rows* weight_stride * 2, threads * 16));
  static constexpr int stage_at = weight_at + weight_bytes;
  static constexpr int constant_at = stage_at + stages * stage_bytes;
  static constexpr int maxima_at = constant_at + groups * rows * 8;
  static constexpr int shift_at = maxima_at + row_blocks * Queries * 4;
  static constexpr int query_sum_at = shift_at + Queries * 4;
  static constexpr int position_at = query_sum_at + groups * Queries * 4;
  static constexpr int span_at = position_at + Queries * 4;
  static constexpr int bytes = span_at + (most_spans + 1) * static_cast<int>(sizeof(tile_span));

  /// Blocks that a multiprocessor should hold: registers are limited for them.
  static constexpr int blocks = Queries > 16
                                    ? 1
                                    : max_of(1, min_of(shape::blocks, device_limits{}.shared_bytes / (bytes + 1024)));

  // Queries are folded in fp32 where the tiles will lie, and bases made.
  static constexpr int fold_floats = Spec::query_width + shape::score_pitch;
  static_assert(warps * fold_floats * 4 <= constant_at - tile_at);
  static constexpr int making_bytes = [] {
    if constexpr (expands) return warps * first_tile::making_floats * 4;
    return 0;
  }();
  static_assert(making_bytes <= constant_at - tile_at);
  static_assert(row_blocks * weight_groups * Queries * 4 <= weight_bytes);
};

/// Where a block's part of the result goes.
struct attend_results {
  float* o;              ///< [rows][query_heads][splits][value_pitch]: sums in the stored space
  float* states;         ///< [rows][query_heads][splits]{m, l}
  rows_view<float> out;  ///< [rows][query_heads][output_width] and lse, for a block that has no others to join
  float* lse;
};

/// Whether blocks finish their results themselves: a single split, and outputs that need no unfolding.
template <class Spec>
KVC_HD constexpr bool is_direct(int splits) {
  using values = transform<stream_of<Spec, Spec::values_are_first>>;
  return splits == 1 && values::stack::is_identity && values::dims_are_identity;
}

template <class Spec, class T, int Queries>
struct attend_block {
  using shape = attend_shape<Spec>;
  using layout = attend_layout<Spec, Queries>;
  using first = typename Spec::first_stream;
  using second = typename Spec::second_stream;
  using first_tile = typename layout::first_tile;
  using second_tile = typename layout::second_tile;
  using value_tile = typename layout::value_tile;
  static constexpr int warps = layout::warps;
  static constexpr int threads = layout::threads;
  using scores = float[layout::warp_queries][4];
  using sums = float[layout::warp_values][layout::query_blocks][4];
  /// Shared memory is what the products of a wide row wait for. Where two warps have the same rows and one block of
  /// queries each, they take half of the channels each instead, for both blocks, from queries in registers, and give
  /// each other the halves of the scores: every row is read once.
  template <class Tile>
  static constexpr bool can_halve = Tile::pitch % 32 == 0 && (Tile::groups <= 1 || Tile::groups % 2 == 0);
  static constexpr bool halves = Spec::is_latent && layout::limbs == 1 && layout::warp_stride == 2 &&
                                 layout::query_blocks == 2 && can_halve<first_tile> && can_halve<second_tile>;
  static constexpr int held_products = halves ? shape::score_pitch / 32 : 1;
  static constexpr bool is_uneven = layout::value_blocks % warps != 0;  ///< some warps have a block less than others
  static constexpr bool by_groups =
      layout::weight_groups > 1 && layout::value_blocks == warps* layout::warp_values&& layout::warp_values % 2 == 0;
  /// Whether all blocks of a warp are of one group: value_blocks / 2 of them are dealt to the groups in order.
  static constexpr bool one_group =
      layout::weight_groups == 1 ||
      (by_groups && value_tile::group_chunks / 2 % max_of(1, layout::warp_values / 2) == 0);
  /// Sums of rounded weights, for what is above the values: as a product with ones, per group of this warp.
  static constexpr int one_sums = value_tile::above + value_tile::middle == 0 ? 0 : one_group ? 1 : layout::warp_values;
  using weight_sums = float[max_of(1, one_sums)][layout::query_blocks][4];
  static constexpr bool expands_by_product = [] {
    if constexpr (layout::expands) return first_tile::by_product;
    return false;
  }();
  /// The scores of expanded keys are made of each warp's part of the channels.
  static constexpr bool scores_parts = expands_by_product && layout::query_blocks == 1;
  using held_queries = uint32[held_products][2][2];  ///< of a product of 16 channels, per block of queries

  const cache_view<Spec>& view;
  const step_view& step;
  const attend_params& params;
  int index;  ///< of the sequence in the step
  int slot;
  int head;   ///< stored
  int query;  ///< first of the block, counted over query rows x group
  int count;  ///< of queries that exist
  byte* shared;
  int warp_index;

  /// A tile: rows [low, high) of those from `begin` on.
  struct cursor {
    int span;
    int begin;
    tile_span rows;
    page_blocks<first_tile::pieces> pages;  ///< of both streams

    __device__ bool is_end() const { return rows.begin >= rows.end; }
    __device__ int low() const { return max_of(rows.begin - begin, 0); }
    __device__ int high() const { return min_of(rows.end - begin, layout::rows); }
  };

  __device__ int warp() const { return warp_index; }
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
  /// The j-th block of 8 queries of those that this warp scores.
  __device__ int query_block(int j) const {
    return layout::warp_stride == 1 ? j : warp() / layout::row_blocks + j * layout::warp_stride;
  }
  __device__ bool has_query_block(int j) const {
    return layout::query_blocks % layout::warp_stride == 0 || query_block(j) < layout::query_blocks;
  }
  /// The rows of this thread in a tile of scores: this one and the one 8 below.
  __device__ int score_row() const { return warp() % layout::row_blocks * 16 + lane() / 4; }

  __device__ int group() const { return view.model.group(); }
  __device__ int64 position(int n) const { return step.seq_lens[index] + (query + n) / group(); }
  __device__ span_finder<Spec, layout::rows> finder() const {
    return {position(0), position(count - 1), params.window};
  }

  __device__ uint16* queries(int limb) const {
    return reinterpret_cast<uint16*>(shared + layout::query_at) + limb * Queries * layout::query_stride;
  }
  __device__ uint16* tile(int limb) const {
    return reinterpret_cast<uint16*>(shared + layout::tile_at) + limb * layout::limb_stride;
  }
  /// Weights times the scales of a group of channels; second limbs have no groups.
  __device__ uint16* weights(int group_or_limb) const {
    return reinterpret_cast<uint16*>(shared + layout::weight_at) + group_or_limb * layout::rows * layout::weight_stride;
  }
  __device__ byte* stage(int i) const { return shared + layout::stage_at + i * layout::stage_bytes; }
  /// {scale, offset}: [groups of the first stream, then of the second][rows]
  __device__ float2* first_scales() const { return reinterpret_cast<float2*>(shared + layout::constant_at); }
  __device__ float2* second_scales() const { return first_scales() + first_tile::constant_groups * layout::rows; }
  __device__ float2* value_scales() const { return Spec::is_latent ? first_scales() : second_scales(); }
  __device__ float* maxima() const { return reinterpret_cast<float*>(shared + layout::maxima_at); }
  __device__ float* shifts() const { return reinterpret_cast<float*>(shared + layout::shift_at); }
  __device__ float* query_sums() const { return reinterpret_cast<float*>(shared + layout::query_sum_at); }
  __device__ int* positions() const { return reinterpret_cast<int*>(shared + layout::position_at); }
  __device__ tile_span* spans() const { return reinterpret_cast<tile_span*>(shared + layout::span_at); }

  __device__ const float* first_constants() const { return view.calibration.first(slot, head); }
  __device__ const float* second_constants() const { return view.calibration.second(slot, head); }

  // ---- Queries into the stored space, once: one warp per query.

  static constexpr bool has_shift = (!first::is_deferred && !transform<first>::stack::is_identity) ||
                                    (Spec::is_latent && !transform<second>::stack::is_identity);

  __device__ void fold(const rows_view<const T>& q) const;
  /// A folded query in the order of the tile's slots, and the sums of its groups as they were rounded.
  template <class Tile>
  __device__ void place(const float* folded, int begin, int n, float* group_sums) const;

  // ---- Scores of this warp's block of 16 rows and its blocks of 8 queries.

  /// d[g] += the product over group g's elements of a row, Groups ranges of Channels elements from `begin` on. Chains
  /// of products are interleaved, as each waits for the one before: over the groups, or two over a single one.
  template <int Groups, int Channels>
  __device__ void multiply(scores (&d)[Groups], int begin, int key_limb, int query_limb) const;
  template <class Tile, int Begin>
  __device__ void score_part(scores& s, const float2* scales, const float* group_sums) const;
  /// Its half of a part for both blocks of queries; product i of the half begins at element half_element<Tile,
  /// Begin>(i).
  template <class Tile, int Begin>
  __device__ void score_half(float (&s)[2][4], const held_queries& held, const float2* scales,
                             const float* group_sums) const;
  template <class Tile, int Begin>
  __device__ int half_element(int i) const;
  template <class Tile, int Begin>
  __device__ void hold(held_queries& held) const;
  /// The same for pairs of bf16 where a key is infinite: the products of its parts would give NaN.
  __device__ void score_plainly(scores& s) const;
  __device__ void score(scores& s, const held_queries& held) const;

  /// The scores of a tile of stored rows that have to be expanded: from parts, or after the keys have taken the rows'
  /// place. `finite`: the rows have no infinities.
  template <class Basis>
  __device__ void score_expanded(scores& s, const Basis& basis, const held_queries& held, const cursor& c,
                                 bool finite) const;
  template <bool Inside, class Basis>
  __device__ void put_parts(const Basis& basis, const cursor& c, float4* parts) const;

  /// Which of this thread's scores are of rows that the query does not see: bit 4 j + i for s[j][i].
  __device__ uint32 hidden_scores(const cursor& c, const span_finder<Spec, layout::rows>& find) const;

  // ---- Sums of this warp's blocks of 16 channels.

  /// The i-th block of 16 channels of this warp. Where they have groups, a warp's blocks are of one group if they can
  /// be: neighbours, and the same of the other half of the slots.
  __device__ int value_block(int i) const {
    if constexpr (by_groups) {
      constexpr int half = layout::warp_values / 2;
      return i / half * (layout::value_blocks / 2) + warp() * half + i % half;
    } else {
      return warp() + i * warps;
    }
  }
  __device__ static int value_group(int block) { return value_tile::group_of_slot(2 * block); }

  __device__ void load_weights(uint32 (&b)[layout::query_blocks + 1][2], int r, int group_or_limb) const;
  __device__ void accumulate(sums& o, weight_sums& ones, bool exact) const;

  static constexpr uint16 hidden_weight = 0x8000u;  ///< -0, which no visible row has

  /// The same, row by row, for a tile that hides rows from some queries and has values that are not finite: a product
  /// with weight zero would carry their NaN to queries that do not see them.
  __device__ void accumulate_seen(sums& o) const;

  __device__ bool has_not_finite(int width) const;

  /// Weights of this thread's two rows, queries n and n + 1, as bf16.
  __device__ void put_weights(const float (&p)[4], uint32 hidden, int n, int group_index) const;

  /// x[query_block(j)]. Registers are indexed by constants alone.
  __device__ float pick(const float (&x)[layout::query_blocks][2], int j, int i) const {
    if constexpr (layout::warp_stride == 1) {
      return x[j][i];
    } else {
      float found = x[0][i];
#pragma unroll
      for (int b = 1; b < layout::query_blocks; ++b) found = query_block(j) == b ? x[b][i] : found;
      return found;
    }
  }

  // ---- The walk.

  __device__ void find_pages(cursor& c, const stream_rows<Spec, true>& rows) const {
    if (!c.is_end()) c.pages = first_tile::find_pages(rows, c.begin, c.high());
  }
  __device__ cursor at_span(int i) const {
    const tile_span s = spans()[i];
    return {i, s.begin / layout::rows * layout::rows, s, {}};
  }
  __device__ void advance(cursor& c) const {
    c.begin += layout::rows;
    if (c.begin >= c.rows.end) c = at_span(c.span + 1);
  }

  __device__ void run(const rows_view<const T>& q, int split, int splits, const attend_results& results) const;

  /// This block's part of the result: o in the stored space, m (natural), l.
  __device__ void finish(int split, int splits, const sums& o, const weight_sums& ones,
                         const float (&m)[layout::query_blocks][2], const float (&l)[layout::warp_queries][2],
                         const float (&offset)[layout::weight_groups][layout::warp_queries][2],
                         const attend_results& results) const;
  /// Sums over the lanes that share a column of scores: two columns.
  __device__ static void put_column_sums(const float (&x)[2], float* to) {
    float a = x[0];
    float b = x[1];
#pragma unroll
    for (int i = 4; i < 32; i *= 2) {
      a += __shfl_xor_sync(~0u, a, i);
      b += __shfl_xor_sync(~0u, b, i);
    }
    if (lane() < 4) *reinterpret_cast<float2*>(to) = make_float2(a, b);
  }
};

}  // namespace kvc::inline v0_1::cuda::detail
