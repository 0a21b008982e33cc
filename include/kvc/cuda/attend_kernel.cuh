// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/attention/state.hpp"
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
// product with a block of ones gives, as it was rounded.

namespace kvc::inline v0_1::cuda::detail {

template <class Spec, int Queries>
struct attend_layout {
  using shape = attend_shape<Spec>;
  static constexpr int rows = shape::tile_rows;
  static constexpr int limbs = shape::limbs;
  static constexpr bool folds = Queries <= 16;  // for more queries decoding costs little, and registers would run out
  static constexpr int warps = shape::warps;
  static constexpr int threads = shape::threads;
  using first_tile = device_tile<Spec, true, true, rows, limbs, folds, threads>;
  using second_tile = device_tile<Spec, false, Spec::is_latent, rows, limbs, folds, threads>;
  using value_tile = device_tile<Spec, Spec::is_latent, Spec::is_latent, rows, limbs, folds, threads>;

  static constexpr int row_blocks = rows / 16;
  static constexpr int query_blocks = Queries / 8;
  static constexpr int warp_stride = warps / row_blocks;  ///< warps that share a block of rows
  static constexpr int warp_queries = ceil_div(query_blocks, warp_stride);
  static constexpr int value_blocks = shape::value_pitch / 16;
  static constexpr int warp_values = ceil_div(value_blocks, warps);
  static constexpr int groups = first_tile::groups + second_tile::groups;
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
  static constexpr int weight_bytes = limbs * weight_groups * rows * weight_stride * 2;
  static constexpr int stage_at = weight_at + weight_bytes;
  static constexpr int constant_at = stage_at + stages * stage_bytes;
  static constexpr int maxima_at = constant_at + groups * rows * 8;
  static constexpr int shift_at = maxima_at + row_blocks * Queries * 4;
  static constexpr int query_sum_at = shift_at + Queries * 4;
  static constexpr int position_at = query_sum_at + groups * Queries * 4;
  static constexpr int span_at = position_at + Queries * 4;
  static constexpr int bytes = span_at + (most_spans + 1) * static_cast<int>(sizeof(tile_span));

  /// Blocks that a multiprocessor should hold: registers are limited for them.
  static constexpr int blocks = Queries > 16 ? 1 : max_of(1, min_of(shape::blocks, 232448 / (bytes + 1024)));

  // Queries are folded in fp32 where the tiles will lie.
  static constexpr int fold_floats = Spec::query_width + shape::score_pitch;
  static_assert(warps * fold_floats * 4 <= constant_at - tile_at);
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
  /// A wide row is scored from queries in registers, as shared memory is what its products wait for: the 8-side of
  /// every product of 16 channels, in the tile's order of slots.
  static constexpr bool holds_queries = Spec::is_latent && layout::warp_queries == 1 && layout::limbs == 1;
  static constexpr int held_products = holds_queries ? shape::score_pitch / 16 : 1;
  static constexpr bool by_groups =
      layout::weight_groups > 1 && layout::value_blocks == warps* layout::warp_values&& layout::warp_values % 2 == 0;
  /// Whether all blocks of a warp are of one group: value_blocks / 2 of them are dealt to the groups in order.
  static constexpr bool one_group =
      layout::weight_groups == 1 || (by_groups && value_tile::group_chunks / 2 % (layout::warp_values / 2) == 0);
  /// Sums of rounded weights, for what is above the values: as a product with ones, per group of this warp.
  static constexpr int one_sums = value_tile::above == 0 ? 0 : one_group ? 1 : layout::warp_values;
  using weight_sums = float[max_of(1, one_sums)][layout::query_blocks][4];
  using held_queries = uint32[held_products][2];

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
    typename first_tile::page_blocks pages;

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
  __device__ float2* second_scales() const { return first_scales() + first_tile::groups * layout::rows; }
  __device__ float2* value_scales() const { return Spec::is_latent ? first_scales() : second_scales(); }
  __device__ float* maxima() const { return reinterpret_cast<float*>(shared + layout::maxima_at); }
  __device__ float* shifts() const { return reinterpret_cast<float*>(shared + layout::shift_at); }
  __device__ float* query_sums() const { return reinterpret_cast<float*>(shared + layout::query_sum_at); }
  __device__ int* positions() const { return reinterpret_cast<int*>(shared + layout::position_at); }
  __device__ tile_span* spans() const { return reinterpret_cast<tile_span*>(shared + layout::span_at); }

  __device__ const float* first_constants() const {
    return view.calibration.data == nullptr ? nullptr : view.calibration.first(slot, head);
  }
  __device__ const float* second_constants() const {
    return view.calibration.data == nullptr ? nullptr : view.calibration.second(slot, head);
  }

  // ---- Queries into the stored space, once: one warp per query.

  static constexpr bool has_shift =
      !transform<first>::stack::is_identity || (Spec::is_latent && !transform<second>::stack::is_identity);

  __device__ void fold(const rows_view<const T>& q) const {
    const warp_team<> team;
    float* model_query = reinterpret_cast<float*>(shared + layout::tile_at) + warp() * layout::fold_floats;
    float* folded = model_query + Spec::query_width;
    for (int n = warp(); n < Queries; n += warps) {
      for (int c = lane(); c < shape::score_pitch; c += 32) folded[c] = 0;
      float shift = 0;
      if (n < count) {
        const T* source = q.at(step.row_indptr[index] + (query + n) / group(), head * group() + (query + n) % group());
        for (int c = lane(); c < Spec::query_width; c += 32) model_query[c] = to_float(source[c]);
        team.sync();
        shift = transform<first>::fold_query(model_query, folded, first_constants(), team);
        if constexpr (Spec::is_latent) {
          shift += transform<second>::fold_query(model_query + first::model_width, folded + shape::first_pitch,
                                                 second_constants(), team);
        }
      }
      if (lane() == 0) {
        shifts()[n] = shift;
        positions()[n] = static_cast<int>(position(min_of(n, count - 1)));
      }
      team.sync();
      place<first_tile>(folded, 0, n, query_sums());
      if constexpr (Spec::is_latent) {
        place<second_tile>(folded + shape::first_pitch, shape::first_pitch, n,
                           query_sums() + first_tile::groups * Queries);
      }
      team.sync();
    }
  }
  /// A folded query in the order of the tile's slots, and the sums of its groups as they were rounded.
  template <class Tile>
  __device__ void place(const float* folded, int begin, int n, float* group_sums) const {
    float sum[max_of(1, Tile::groups)] = {};
    for (int s = lane(); s < Tile::pitch / 8; s += 32) {
      for (int i = 0; i < 8; i += 2) {
        const float low = folded[Tile::channel(s, i)];
        const float high = folded[Tile::channel(s, i + 1)];
        const uint32 pair = pack_bf16(low, high);
        const int at = n * layout::query_stride + begin + 8 * s + i;
        *reinterpret_cast<uint32*>(queries(0) + at) = pair;
        if constexpr (layout::limbs == 2) {
          *reinterpret_cast<uint32*>(queries(1) + at) = pack_rest(low, high, pair);
        }
#pragma unroll
        for (int g = 0; g < Tile::groups; ++g) {
          if (Tile::group_of_slot(s) == g) sum[g] += low_bf16(pair) + high_bf16(pair);
        }
      }
    }
    for (int g = 0; g < Tile::groups; ++g) {
      const float total = warp_team<>::sum(sum[g]);
      if (lane() == 0) group_sums[g * Queries + n] = total;
    }
  }

  // ---- Scores of this warp's block of 16 rows and its blocks of 8 queries.

  /// d[g] += the product over group g's elements of a row, Groups ranges of Channels elements from `begin` on. Chains
  /// of products are interleaved, as each waits for the one before: over the groups, or two over a single one.
  template <int Groups, int Channels>
  __device__ void multiply(scores (&d)[Groups], int begin, int key_limb, int query_limb) const {
    const uint16* k = tile(key_limb) + (warp() % layout::row_blocks * 16 + lane() % 16) * layout::tile_stride +
                      lane() / 16 * 8 + begin;
    const uint16* q = queries(query_limb) + lane() % 8 * layout::query_stride + lane() / 8 * 8 + begin;
    scores odd = {};
#pragma unroll
    for (int c = 0; c < Channels; c += 32) {
      const bool pair = c + 16 < Channels;
#pragma unroll
      for (int g = 0; g < Groups; ++g) {
        uint32 a[2][4];
        load_matrices(a[0], k + g * Channels + c);
        if (pair) load_matrices(a[1], k + g * Channels + c + 16);
#pragma unroll
        for (int j = 0; j < layout::warp_queries; ++j) {
          if (layout::query_blocks % layout::warp_stride != 0 && query_block(j) >= layout::query_blocks) continue;
          uint32 b[4];
          load_matrices(
              b, q + query_block(j) * 8 * layout::query_stride + g * Channels + (pair ? c : c - (lane() / 16) * 16));
          multiply_add(d[g][j], a[0], b[0], b[1]);
          if (pair) multiply_add(Groups == 1 ? odd[j] : d[g][j], a[1], b[2], b[3]);
        }
      }
    }
    if constexpr (Groups == 1) {
#pragma unroll
      for (int j = 0; j < layout::warp_queries; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) d[0][j][i] += odd[j][i];
      }
    }
  }
  /// The same from held queries, at a `Begin` known at compile time. All loads of a batch come first.
  template <int Begin, int Groups, int Channels>
  __device__ void multiply_held(scores (&d)[Groups], const held_queries& q) const {
    const uint16* k =
        tile(0) + (warp() % layout::row_blocks * 16 + lane() % 16) * layout::tile_stride + lane() / 16 * 8 + Begin;
    constexpr int products = Groups * Channels / 16;
    constexpr int batch = 4;
    scores odd = {};
#pragma unroll
    for (int first_of = 0; first_of < products; first_of += batch) {
      uint32 a[batch][4];
#pragma unroll
      for (int i = 0; i < batch; ++i) {
        if (first_of + i < products) load_matrices(a[i], k + element<Groups, Channels>(first_of + i));
      }
#pragma unroll
      for (int i = 0; i < batch; ++i) {
        if (first_of + i >= products) continue;
        const auto& b = q[(Begin + element<Groups, Channels>(first_of + i)) / 16];
        multiply_add(Groups == 1 && i % 2 == 1 ? odd[0] : d[(first_of + i) % Groups][0], a[i], b[0], b[1]);
      }
    }
    if constexpr (Groups == 1) {
#pragma unroll
      for (int i = 0; i < 4; ++i) d[0][0][i] += odd[0][i];
    }
  }
  /// Where product i of those of all groups begins: the groups take turns.
  template <int Groups, int Channels>
  __device__ static constexpr int element(int i) {
    return i % Groups * Channels + i / Groups * 16;
  }
  __device__ void hold(held_queries& held) const {
    if constexpr (holds_queries) {
      const uint16* q = queries(0) + (query_block(0) * 8 + lane() % 8) * layout::query_stride + lane() / 8 % 2 * 8;
#pragma unroll
      for (int i = 0; i < held_products; i += 2) {
        uint32 two[4];
        const bool pair = i + 1 < held_products;
        load_matrices(two, q + i * 16 + (pair ? lane() / 16 * 16 : 0));
        held[i][0] = two[0], held[i][1] = two[1];
        if (pair) held[i + 1][0] = two[2], held[i + 1][1] = two[3];
      }
    }
  }
  template <class Tile, int Begin>
  __device__ void score_part(scores& s, const held_queries& held, const float2* scales, const float* group_sums) const {
    if constexpr (Tile::groups == 0) {
      scores d[1] = {};
      if constexpr (holds_queries) {
        multiply_held<Begin, 1, Tile::pitch>(d, held);
      } else {
        multiply<1, Tile::pitch>(d, Begin, 0, 0);
      }
      if constexpr (layout::limbs == 2) {
        multiply<1, Tile::pitch>(d, Begin, 1, 0);
        multiply<1, Tile::pitch>(d, Begin, 0, 1);
      }
#pragma unroll
      for (int j = 0; j < layout::warp_queries; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) s[j][i] += d[0][j][i];
      }
    } else {
      scores d[Tile::groups] = {};
      if constexpr (Tile::groups == 1 && holds_queries) {
        multiply_held<Begin, 1, Tile::pitch>(d, held);
      } else if constexpr (Tile::groups == 1) {
        multiply<1, Tile::pitch>(d, Begin, 0, 0);
      } else {  // a group has slots in both halves
        constexpr int half = Tile::group_chunks * 8;
        if constexpr (holds_queries) {
          multiply_held<Begin, Tile::groups, half>(d, held);
          multiply_held<Begin + Tile::chunks * 8, Tile::groups, half>(d, held);
        } else {
          multiply<Tile::groups, half>(d, Begin, 0, 0);
          multiply<Tile::groups, half>(d, Begin + Tile::chunks * 8, 0, 0);
        }
      }
#pragma unroll
      for (int g = 0; g < Tile::groups; ++g) {
        float2 k[2] = {scales[g * layout::rows + score_row()], scales[g * layout::rows + score_row() + 8]};
        k[0].y -= Tile::above * k[0].x;
        k[1].y -= Tile::above * k[1].x;
#pragma unroll
        for (int j = 0; j < layout::warp_queries; ++j) {
#pragma unroll
          for (int i = 0; i < 4; ++i) s[j][i] += k[i / 2].x * d[g][j][i];
          if constexpr (Tile::has_offset || Tile::above != 0) {
            const int n = min_of(query_block(j) * 8, Queries - 8) + lane() % 4 * 2;
            const float2 sum = *reinterpret_cast<const float2*>(group_sums + g * Queries + n);
            s[j][0] += k[0].y * sum.x;
            s[j][1] += k[0].y * sum.y;
            s[j][2] += k[1].y * sum.x;
            s[j][3] += k[1].y * sum.y;
          }
        }
      }
    }
  }
  /// The same for pairs of bf16 where a key is infinite: the products of its parts would give NaN.
  __device__ void score_plainly(scores& s) const {
    for (int j = 0; j < layout::warp_queries; ++j) {
      for (int i = 0; i < 4; ++i) {
        const int k = (score_row() + i / 2 * 8) * layout::tile_stride;
        const int q = min_of(query_block(j) * 8 + lane() % 4 * 2 + i % 2, Queries - 1) * layout::query_stride;
        float sum = 0;
        for (int c = 0; c < shape::score_pitch; ++c) {
          const float key = bf16{tile(0)[k + c]}.value() + bf16{tile(1)[k + c]}.value();
          const float query_value = bf16{queries(0)[q + c]}.value() + bf16{queries(1)[q + c]}.value();
          sum += key * query_value;
        }
        s[j][i] = sum;
      }
    }
  }
  __device__ void score(scores& s, const held_queries& held) const {
    for (int j = 0; j < layout::warp_queries; ++j) {
      for (int i = 0; i < 4; ++i) s[j][i] = 0;
    }
    if constexpr (layout::limbs == 2) {
      if (__syncthreads_or(has_not_finite(shape::score_pitch))) {
        score_plainly(s);
        return;
      }
    }
    score_part<first_tile, 0>(s, held, first_scales(), query_sums());
    if constexpr (Spec::is_latent) {
      score_part<second_tile, shape::first_pitch>(s, held, second_scales(),
                                                  query_sums() + first_tile::groups * Queries);
    }
  }

  /// Which of this thread's scores are of rows that the query does not see: bit 4 j + i for s[j][i].
  __device__ uint32 hidden_scores(const cursor& c, const span_finder<Spec, layout::rows>& find) const {
    uint32 hidden = 0;
#pragma unroll 1
    for (int bit = 0; bit < 4 * layout::warp_queries; ++bit) {
      const int n = min_of(query_block(bit / 4) * 8 + lane() % 4 * 2 + bit % 2, Queries - 1);
      const int r = score_row() + bit % 4 / 2 * 8;
      const bool seen = r >= c.low() && r < c.high() && find.sees(positions()[n], c.begin + r, c.rows.source);
      hidden |= static_cast<uint32>(!seen) << bit;
    }
    return hidden;
  }

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
  __device__ static int value_group(int block) {
    return value_tile::group_of_slot(2 * block);
  }

  __device__ void load_weights(uint32 (&b)[layout::query_blocks + 1][2], int r, int group_or_limb) const {
    const uint16* p = weights(group_or_limb) + (r + lane() % 16) * layout::weight_stride + lane() / 16 * 8;
#pragma unroll
    for (int j = 0; j < layout::query_blocks; j += 2) {
      uint32 two[4];
      load_matrices_transposed(two, p + j * 8);
      b[j][0] = two[0], b[j][1] = two[1];
      b[j + 1][0] = two[2], b[j + 1][1] = two[3];
    }
  }
  __device__ void accumulate(sums& o, weight_sums& ones, bool exact) const {
    const uint32 all_ones[4] = {0x3f803f80u, 0x3f803f80u, 0x3f803f80u, 0x3f803f80u};
#pragma unroll
    for (int limb = 0; limb < (layout::limbs == 2 ? 3 : 1); ++limb) {  // high x high, rest x high, high x rest
      const uint16* v =
          tile(limb == 1 ? 1 : 0) + (lane() % 8 + lane() / 16 * 8) * layout::tile_stride + lane() / 8 % 2 * 8;
#pragma unroll
      for (int r = 0; r < layout::rows; r += 16) {
        uint32 b[layout::query_blocks + 1][2];
        if constexpr (one_group) {
          load_weights(b, r, layout::weight_groups == 1 ? (limb == 2 ? 1 : 0) : value_group(value_block(0)));
          if (one_sums > 0 && !exact) {
#pragma unroll
            for (int j = 0; j < layout::query_blocks; ++j) multiply_add(ones[0][j], all_ones, b[j][0], b[j][1]);
          }
        }
        constexpr int batch = layout::warp_values > 2 && layout::query_blocks <= 2 ? 4 : 1;  // loads come first
#pragma unroll
        for (int first_of = 0; first_of < layout::warp_values; first_of += batch) {
          uint32 a[batch][4];
#pragma unroll
          for (int i = 0; i < batch; ++i) {
            const int block = value_block(first_of + i);
            if (first_of + i >= layout::warp_values || block >= layout::value_blocks) continue;
            load_matrices_transposed(a[i], v + r * layout::tile_stride + block * 16);
          }
#pragma unroll
          for (int i = 0; i < batch; ++i) {
            const int block = value_block(first_of + i);
            if (first_of + i >= layout::warp_values || block >= layout::value_blocks) continue;
            if constexpr (!one_group) {
              load_weights(b, r, value_group(block));
              if (one_sums > 0 && !exact) {
#pragma unroll
                for (int j = 0; j < layout::query_blocks; ++j) {
                  multiply_add(ones[min_of(first_of + i, max_of(1, one_sums) - 1)][j], all_ones, b[j][0], b[j][1]);
                }
              }
            }
#pragma unroll
            for (int j = 0; j < layout::query_blocks; ++j) multiply_add(o[first_of + i][j], a[i], b[j][0], b[j][1]);
          }
        }
      }
    }
  }

  static constexpr uint16 hidden_weight = 0x8000u;  ///< -0, which no visible row has

  /// The same, row by row, for a tile that hides rows from some queries and has values that are not finite: a product
  /// with weight zero would carry their NaN to queries that do not see them.
  __device__ void accumulate_seen(sums& o) const {
#pragma unroll 1
    for (int r = 0; r < layout::rows; ++r) {
      const uint16* v = tile(0) + r * layout::tile_stride;
#pragma unroll
      for (int i = 0; i < layout::warp_values; ++i) {
        if (value_block(i) >= layout::value_blocks) continue;
        const uint16* p =
            weights(layout::weight_groups == 1 ? 0 : value_group(value_block(i))) + r * layout::weight_stride;
#pragma unroll
        for (int j = 0; j < layout::query_blocks; ++j) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const int n = j * 8 + lane() % 4 * 2 + e % 2;
            if (p[n] == hidden_weight) continue;
            const int at = value_block(i) * 16 + e / 2 * 8 + lane() / 4;
            float weight = bf16{p[n]}.value();
            float value = bf16{v[at]}.value();
            if constexpr (layout::limbs == 2) {
              weight += bf16{weights(1)[r * layout::weight_stride + n]}.value();
              value += bf16{v[layout::limb_stride + at]}.value();
            }
            o[i][j][e] += weight * value;
          }
        }
      }
    }
  }

  __device__ bool has_not_finite(int width) const {
    bool found = false;
    for (int i = static_cast<int>(threadIdx.x); i < layout::rows * width; i += threads) {
      found |= (tile(0)[i / width * layout::tile_stride + i % width] & 0x7f80u) == 0x7f80u;
    }
    return found;
  }

  /// Weights of this thread's two rows, queries n and n + 1, as bf16.
  __device__ void put_weights(const float (&p)[4], uint32 hidden, int n, int group_index) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int at = (score_row() + 8 * i) * layout::weight_stride + n;
      uint32 bits = pack_bf16(p[2 * i], p[2 * i + 1]);
      if constexpr (layout::limbs == 2) {
        *reinterpret_cast<uint32*>(weights(1) + at) = pack_rest(p[2 * i], p[2 * i + 1], bits);
      }
      if (hidden & (1u << (2 * i))) bits = (bits & 0xffff0000u) | hidden_weight;
      if (hidden & (2u << (2 * i))) bits = (bits & 0xffffu) | static_cast<uint32>(hidden_weight) << 16;
      *reinterpret_cast<uint32*>(weights(group_index) + at) = bits;
    }
  }

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

  /// Both streams of a page have the same block.
  __device__ static typename second_tile::page_blocks pages_of_second(const typename first_tile::page_blocks& pages) {
    typename second_tile::page_blocks same;
#pragma unroll
    for (int i = 0; i < second_tile::pieces; ++i) same.of[i] = pages.of[i];
    return same;
  }
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

  __device__ void run(const rows_view<const T>& q, int split, int splits, const attend_results& results) const {
    const stream_rows<Spec, true> first_rows(view, step, index, slot, head);
    const stream_rows<Spec, false> second_rows(view, step, index, slot, head);
    constexpr float log2e = 1.44269504f;
    const float minus_infinity = -infinity();
    const span_finder<Spec, layout::rows> find = finder();

    if (threadIdx.x == 0) find.find(split, splits, spans());
    fold(q);
    __syncthreads();

    held_queries held;
    hold(held);
    const row_range all = find.seen_by_all();
    const int seen_begin = static_cast<int>(all.begin);
    const int seen_end = static_cast<int>(all.end);

    const auto issue = [&](const cursor& c, int into) {
      if (!c.is_end()) {
        if (!Spec::has_tail || !c.rows.source.first_exact) {
          first_tile::stage(first_rows, c.pages, c.begin, c.low(), c.high(), stage(into));
        }
        if (!Spec::has_tail || !c.rows.source.second_exact) {
          second_tile::stage(second_rows, pages_of_second(c.pages), c.begin, c.low(), c.high(),
                             stage(into) + first_tile::stage_bytes);
        }
      }
      commit_copies();
    };

    sums o = {};
    weight_sums ones = {};
    float m[layout::query_blocks][2];  // maxima, in units of log 2
    float l[layout::warp_queries][2] = {};
    float offset[layout::weight_groups][layout::warp_queries][2] = {};  // sum_t p_t offset[t][g]
#pragma unroll
    for (int j = 0; j < layout::query_blocks; ++j) m[j][0] = m[j][1] = minus_infinity;

    const auto step_ahead = [&](cursor& c) {
      if (c.is_end()) return;
      advance(c);
      find_pages(c, first_rows);
    };
    cursor ahead = at_span(0);
    cursor c = ahead;
    find_pages(ahead, first_rows);
    for (int i = 0; i < layout::stages - 1; ++i) {
      issue(ahead, i);
      step_ahead(ahead);
    }
    int current = 0;
#pragma unroll 1
    for (; !c.is_end(); advance(c)) {
      const int low = c.low();
      const int high = c.high();
      const bool value_exact = Spec::is_latent ? c.rows.source.first_exact : c.rows.source.second_exact;
      const bool whole = c.begin >= seen_begin && c.begin + layout::rows <= seen_end && low == 0 &&
                         high == layout::rows && !c.rows.source.first_exact && !c.rows.source.second_exact;
      wait_copies<layout::stages - 2>();
      __syncthreads();  // the codes are there; the tile, the weights and the oldest stage are free
      issue(ahead, current == 0 ? layout::stages - 1 : current - 1);
      step_ahead(ahead);

      const byte* staged_first = stage(current);
      const byte* staged_second = staged_first + first_tile::stage_bytes;
      current = current + 1 == layout::stages ? 0 : current + 1;
      first_tile::put_constants(low, high, c.rows.source.first_exact, staged_first, first_scales());
      second_tile::put_constants(low, high, c.rows.source.second_exact, staged_second, second_scales());
      first_tile::decode(first_rows, c.begin, low, high, c.rows.source.first_exact, staged_first, first_constants(),
                         params.rotary, tile(0), layout::tile_stride, layout::limb_stride);
      const auto decode_second = [&](uint16* to) {
        second_tile::decode(second_rows, c.begin, low, high, c.rows.source.second_exact, staged_second,
                            second_constants(), params.rotary, to, layout::tile_stride, layout::limb_stride);
      };
      if constexpr (Spec::is_latent) decode_second(tile(0) + shape::first_pitch);
      __syncthreads();  // the tile is there

      scores s;
      score(s, held);
      const uint32 hidden = whole ? 0 : hidden_scores(c, find);
#pragma unroll
      for (int j = 0; j < layout::warp_queries; ++j) {
        const int n = query_block(j) * 8 + lane() % 4 * 2;
        if (layout::query_blocks % layout::warp_stride != 0 && query_block(j) >= layout::query_blocks) continue;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if constexpr (has_shift) s[j][i] += shifts()[n + i % 2];
          s[j][i] *= params.scale;
        }
        if (params.soft_cap > 0) {
          for (int i = 0; i < 4; ++i) s[j][i] = params.soft_cap * tanh_of(s[j][i] / params.soft_cap);
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) s[j][i] *= log2e;
        if (hidden != 0) {
#pragma unroll
          for (int i = 0; i < 4; ++i) s[j][i] = hidden >> (4 * j + i) & 1u ? minus_infinity : s[j][i];
        }
        float top[2] = {fmaxf(s[j][0], s[j][2]), fmaxf(s[j][1], s[j][3])};
#pragma unroll
        for (int x = 4; x < 32; x *= 2) {
          top[0] = fmaxf(top[0], __shfl_xor_sync(~0u, top[0], x));
          top[1] = fmaxf(top[1], __shfl_xor_sync(~0u, top[1], x));
        }
        if (lane() < 4) {
          *reinterpret_cast<float2*>(maxima() + warp() % layout::row_blocks * Queries + n) =
              make_float2(top[0], top[1]);
        }
      }
      __syncthreads();  // the maxima are there; keys are no longer needed

      float factor[layout::query_blocks][2];
#pragma unroll
      for (int j = 0; j < layout::query_blocks; ++j) {
        float next[2] = {m[j][0], m[j][1]};
#pragma unroll
        for (int b = 0; b < layout::row_blocks; ++b) {
          const float2 top = *reinterpret_cast<const float2*>(maxima() + b * Queries + j * 8 + lane() % 4 * 2);
          next[0] = fmaxf(next[0], top.x);
          next[1] = fmaxf(next[1], top.y);
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          factor[j][i] = next[i] > m[j][i] ? exp2_of(m[j][i] - next[i]) : 1.0f;
          m[j][i] = next[i];
        }
      }
#pragma unroll
      for (int j = 0; j < layout::warp_queries; ++j) {
        const int n = query_block(j) * 8 + lane() % 4 * 2;
        if (layout::query_blocks % layout::warp_stride != 0 && query_block(j) >= layout::query_blocks) continue;
        float p[4];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float top = pick(m, j, i);
          const float base = top == minus_infinity ? 0.0f : top;
          p[i] = exp2_of(s[j][i] - base);
          p[i + 2] = exp2_of(s[j][i + 2] - base);
          l[j][i] = l[j][i] * pick(factor, j, i) + p[i] + p[i + 2];
        }
        const uint32 hidden_here = hidden >> (4 * j) & 15u;
        if constexpr (value_tile::groups == 0) {
          put_weights(p, hidden_here, n, 0);
        } else {
#pragma unroll
          for (int g = 0; g < layout::weight_groups; ++g) {
            const float2 k[2] = {value_scales()[g * layout::rows + score_row()],
                                 value_scales()[g * layout::rows + score_row() + 8]};
            const float scaled[4] = {p[0] * k[0].x, p[1] * k[0].x, p[2] * k[1].x, p[3] * k[1].x};
            put_weights(scaled, hidden_here, n, g);
            if constexpr (value_tile::has_offset) {
#pragma unroll
              for (int i = 0; i < 2; ++i) {
                const float upper = value_exact || (hidden_here >> i & 1u) ? 0.0f : p[i] * k[0].y;
                const float lower = value_exact || (hidden_here >> (i + 2) & 1u) ? 0.0f : p[i + 2] * k[1].y;
                offset[g][j][i] = offset[g][j][i] * pick(factor, j, i) + upper + lower;
              }
            }
          }
        }
      }
      if constexpr (!Spec::is_latent) decode_second(tile(0));
      __syncthreads();  // weights and values are there

      bool rises = false;
#pragma unroll
      for (int j = 0; j < layout::query_blocks; ++j) rises |= factor[j][0] != 1.0f || factor[j][1] != 1.0f;
      if (__any_sync(~0u, rises)) {
#pragma unroll
        for (int i = 0; i < layout::warp_values; ++i) {
#pragma unroll
          for (int j = 0; j < layout::query_blocks; ++j) {
#pragma unroll
            for (int e = 0; e < 4; ++e) o[i][j][e] *= factor[j][e % 2];
          }
        }
#pragma unroll
        for (int i = 0; i < one_sums; ++i) {
#pragma unroll
          for (int j = 0; j < layout::query_blocks; ++j) {
            for (int e = 0; e < 2; ++e) ones[i][j][e] *= factor[j][e];
          }
        }
      }
      if ((!whole || layout::limbs == 2) && __syncthreads_or(has_not_finite(shape::value_pitch))) {
        accumulate_seen(o);
      } else {
        accumulate(o, ones, value_exact);
      }
    }
    wait_copies<0>();
    finish(split, splits, o, ones, m, l, offset, results);
  }

  /// This block's part of the result: o in the stored space, m (natural), l.
  __device__ void finish(int split, int splits, const sums& o, const weight_sums& ones,
                         const float (&m)[layout::query_blocks][2], const float (&l)[layout::warp_queries][2],
                         const float (&offset)[layout::weight_groups][layout::warp_queries][2],
                         const attend_results& results) const {
    constexpr float ln2 = 0.693147181f;
    const bool direct = is_direct<Spec>(splits);
    float* offsets = reinterpret_cast<float*>(shared + layout::weight_at);  // [row_blocks][groups][Queries]
    __syncthreads();                                                        // the weights were read
#pragma unroll
    for (int j = 0; j < layout::warp_queries; ++j) {
      const int n = query_block(j) * 8 + lane() % 4 * 2;
      if (layout::query_blocks % layout::warp_stride != 0 && query_block(j) >= layout::query_blocks) continue;
      const int block = warp() % layout::row_blocks;
      put_column_sums(l[j], maxima() + block * Queries + n);
      if constexpr (value_tile::has_offset) {
#pragma unroll
        for (int g = 0; g < layout::weight_groups; ++g) {
          put_column_sums(offset[g][j], offsets + (block * layout::weight_groups + g) * Queries + n);
        }
      }
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < layout::query_blocks; ++j) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int n = j * 8 + lane() % 4 * 2 + i;
        if (n >= count) continue;
        const int64 row = step.row_indptr[index] + (query + n) / group();
        const int64 at = (row * view.model.query_heads + head * group() + (query + n) % group()) * splits + split;
        const int query_head = head * group() + (query + n) % group();
        softmax_state state{m[j][i] * ln2, 0};
        for (int b = 0; b < layout::row_blocks; ++b) state.l += maxima()[b * Queries + n];
        float* to = results.o + at * shape::value_pitch;
        float factor = 1;
        if (direct) {  // no other split, and the stored space is the model's
          to = results.out.at(row, query_head);
          if (params.sink_logits != nullptr) state.push(params.sink_logits[query_head], factor);
          factor = state.l == 0 ? 0.0f : factor / state.l;
        }
        if (warp() == 0 && lane() < 4) {
          if (!direct) {
            results.states[2 * at] = state.m;
            results.states[2 * at + 1] = state.l;
          } else if (results.lse != nullptr) {
            results.lse[at] = state.lse();
          }
        }
#pragma unroll
        for (int b = 0; b < layout::warp_values; ++b) {
          if (value_block(b) >= layout::value_blocks) continue;
          float more = 0;
          if constexpr (one_sums > 0) more = -value_tile::above * ones[one_group ? 0 : b][j][i];
          if constexpr (value_tile::has_offset) {
            for (int r = 0; r < layout::row_blocks; ++r) {
              more += offsets[(r * layout::weight_groups + value_group(value_block(b))) * Queries + n];
            }
          }
          const int first_channel = value_tile::channel(2 * value_block(b), lane() / 4);
          const int second_channel = value_tile::channel(2 * value_block(b) + 1, lane() / 4);
          const int limit = direct ? Spec::output_width : shape::value_pitch;
          if (first_channel < limit) to[first_channel] = (o[b][j][i] + more) * factor;
          if (second_channel < limit) to[second_channel] = (o[b][j][i + 2] + more) * factor;
        }
      }
    }
  }
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

/// grid: (sequences x stored heads x query blocks, splits).
template <class Spec, class T, int Queries>
KVC_KERNEL void __launch_bounds__(attend_layout<Spec, Queries>::threads, attend_layout<Spec, Queries>::blocks)
    attend_kernel(cache_view<Spec> view, step_view step, int slot, int query_blocks, rows_view<const T> q,
                  attend_params params, attend_results results) {
  extern __shared__ __align__(16) byte shared[];
  const int heads = view.model.stored_heads();
  const int block = static_cast<int>(blockIdx.x) % query_blocks;
  const int head = static_cast<int>(blockIdx.x) / query_blocks % heads;
  const int index = static_cast<int>(blockIdx.x) / query_blocks / heads;
  const int64 queries = step.rows(index) * view.model.group() - static_cast<int64>(block) * Queries;
  if (queries <= 0) return;
  // Through a shuffle: the compiler knows that all lanes of a warp have the same.
  const int warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0);
  const attend_block<Spec, T, Queries> work{
      view,   step, params, index, slot, head, block * Queries, static_cast<int>(min_of<int64>(queries, Queries)),
      shared, warp};
  work.run(q, static_cast<int>(blockIdx.y), static_cast<int>(gridDim.y), results);
}

}  // namespace kvc::inline v0_1::cuda::detail
