// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cuda/attend_block.cuh"
#include "kvc/cuda/byte_rows.cuh"
#include "kvc/cuda/warpgroup.cuh"

// Attention over a latent in codes of 4 bits with products of bytes: codes become operands by a mask, at twice the rate
// and half the space of bf16.
//
//   scores   S [rows][queries]     = U [rows][channels] Q^T        rows or channels on the side of 64,
//   sums     O [channels][queries] += U^T [channels][rows] W       queries on the other: none is padded
//
// U are the codes u of rows = scale (u - 8) + middle, with constants per row t and group g of channels. Queries are
// rounded to 8 bits per stream, weights times scales to 8 bits per tile and group:
//
//   S[t] = sum_g scale[t][g] <q8, u_tg - 8> q_scale + middle[t][g] sum(q_g)
//   O_g += w_scale sum_t w8[t] (u_tg - 8) + sum_t p_t middle[t][g]        w8 = round(p_t scale[t][g] / w_scale)
//
// Weights are rounded up or down by thresholds whose mean is one half: beside a large weight, many small ones would
// vanish if they were rounded to nearest.
//
// A block is made of teams of four warps. A team walks over its own tiles, for itself: while one waits, the others
// issue. Codes go from shared memory through registers, where they are unpacked, into products of the whole team, which
// read queries and weights from shared memory once. In a tile each warp scores the 16 rows that it copied, and sums its
// share of the channels over all rows.

namespace kvc::inline v0_1::cuda::detail {

template <class Spec, class T, int Queries>
struct byte_block {
  using shape = byte_shape<Spec>;
  using first = typename Spec::first_stream;
  using second = typename Spec::second_stream;
  using latent = typename shape::latent;
  using key = typename shape::key;

  static constexpr int queries = Queries;
  static constexpr int columns = queries / 8;  ///< of products, in blocks of 8
  static constexpr int own = 2 * columns;      ///< queries of a thread: query_of
  static constexpr int team_warps = 4;
  static constexpr int teams = queries == 16 ? 3 : 2;  // as many as leave a thread the registers that it needs
  static constexpr int warps = teams * team_warps;
  static constexpr int team_threads = 32 * team_warps;
  static constexpr int threads = 32 * warps;
  static constexpr int rows = 16 * team_warps;  ///< of a tile
  static constexpr int chunks = latent::chunks + key::chunks;
  static constexpr int groups = latent::groups + key::groups;
  static_assert(queries % 16 == 0);

  /// A product of sums has 64 channels. Where groups allow it, a warp's 16 of two products are the low and the high
  /// nibbles of the same bytes; else they are both nibbles of every other byte.
  static constexpr bool splits_nibbles = latent::group_chunks % 4 == 0 && latent::chunks % 4 == 0;
  static constexpr int value_products = latent::chunks / 2;
  KVC_HD static constexpr int group_of_product(int p) {
    return (splits_nibbles ? p / 2 * 4 : p * 2) / latent::group_chunks;
  }

  // Shared memory of a team: stages, weights, and maxima.
  static constexpr int operand_bytes = 32 * queries;              ///< of 32 deep
  static constexpr int weight_bytes = rows / 32 * operand_bytes;  ///< of a group
  static constexpr int scale_pitch = 4;
  static constexpr int stages = 3;  ///< one is summed, one scored next, one on its way
  using tiles = byte_tiles<Spec, team_warps, stages>;
  using cursor = typename tiles::cursor;
  static constexpr int pitch = tiles::pitch;
  static constexpr int weights_at = round_up(tiles::bytes, 128);              // [groups][rows / 32]{operand}
  static constexpr int tops_at = weights_at + latent::groups * weight_bytes;  // [queries][warps]
  static constexpr int scale_tops_at = tops_at + queries * team_warps * 4;    // [warps][scale_pitch]
  static constexpr int team_bytes = round_up(scale_tops_at + team_warps * scale_pitch * 4, 128);

  // Shared memory of a block.
  static constexpr int result_floats = 2 + latent::groups;
  struct output_of {
    float* to;
    float factor;
    float middles[latent::groups];
  };
  static constexpr int query_at = 0;                                  // [chunks]{operand}
  static constexpr int start_at = query_at + chunks * operand_bytes;  // [groups][queries]: see fold_products
  static constexpr int factor_at = start_at + groups * queries * 4;   // [queries / 16][8][4]{8 bytes of two queries}
  static constexpr int unit_at = factor_at + queries / 16 * 512;      // [queries] of scores: the latent's query's
  static constexpr int ratio_at = unit_at + queries * 4;              // [queries]: the key's query's in such units
  static constexpr int visible_at = ratio_at + queries * 4;           // [queries]{sinks, newest: begin, end}
  static constexpr int result_at = visible_at + queries * 16;         // [warps][queries]{m, l, middles}
  static constexpr int output_at = round_up(result_at + warps * queries * result_floats * 4, 16);
  static constexpr int team_at = round_up(output_at + queries * static_cast<int>(sizeof(output_of)), 128);
  static constexpr int sum_pitch = first::width + 4;
  static constexpr int bytes = team_at + teams * max_of(team_bytes, queries* sum_pitch * 4);

  // Queries are folded where rows will lie, one by a warp; teams' sums are added up where rows lay.
  static constexpr int score_width = first::width + second::width;
  static constexpr int fold_floats = Spec::query_width + score_width;
  static_assert(team_warps * fold_floats * 4 <= tiles::bytes);
  static_assert(bytes + (most_spans + 1) * sizeof(tile_span) <= device_limits{}.shared_bytes - 1024);

  // Integers below 2^24 are denormal floats, times 2^149: a product with a scale takes them as they are.
  static constexpr float up = 0x1p80f;        ///< of scales
  static constexpr float down = 0x1p-69f;     ///< the unit of what is summed with them
  static constexpr int32 positive = 1 << 20;  ///< more than a group's scores: sums begin there, as none may be negative
  static_assert(latent::group_chunks * 32 * 127 * 15 < positive);
  static_assert(rows * 255 * 15 * 16 < 1 << 24);

  static constexpr float lowest = -1e30f;  ///< below any score

  const cache_view<Spec>& view;
  const step_view& step;
  const attend_params& params;
  int index;  ///< of the sequence in the step
  int slot;
  int query;        ///< first of the block, counted over query rows x group
  int count;        ///< of queries that exist
  int64 length;     ///< of the sequence, before the step
  int64 first_row;  ///< of the step's rows
  byte* shared;
  tile_span* spans;
  int warp_index;

  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
  __device__ int team() const { return warp_index / team_warps; }
  __device__ int warp() const { return warp_index % team_warps; }
  __device__ void team_sync() const {
#if defined(KVC_LITERAL_BARRIERS)  // racecheck does not follow the numbers of barriers in registers
    if (team() == 0) {
      asm volatile("bar.sync 1, %0;" ::"n"(team_threads) : "memory");
    } else if (team() == 1) {
      asm volatile("bar.sync 2, %0;" ::"n"(team_threads) : "memory");
    } else {
      asm volatile("bar.sync 3, %0;" ::"n"(team_threads) : "memory");
    }
#else
    asm volatile("bar.sync %0, %1;" ::"r"(team() + 1), "n"(team_threads) : "memory");
#endif
  }
  /// After team_sync: racecheck does not see that a barrier of all follows those of the teams, but for this.
  __device__ void all_sync() const {
    team_sync();
    __syncthreads();
  }
  __device__ int group() const {
    return view.model.group();
  }
  __device__ int64 position(int n) const {
    return length + (query + n) / group();
  }

  __device__ byte* team_memory() const {
    return shared + team_at + team() * team_bytes;
  }
  __device__ byte* stage(int i) const {
    return team_memory() + i * tiles::stage_bytes;
  }
  __device__ float* units() const {
    return reinterpret_cast<float*>(shared + unit_at);
  }
  __device__ float* ratios() const {
    return reinterpret_cast<float*>(shared + ratio_at);
  }
  __device__ int4* visible() const {
    return reinterpret_cast<int4*>(shared + visible_at);
  }
  __device__ float* result(int w, int n) const {
    return reinterpret_cast<float*>(shared + result_at) + (w * queries + n) * result_floats;
  }
  __device__ output_of* outputs() const {
    return reinterpret_cast<output_of*>(shared + output_at);
  }

  /// This thread's queries j < own, and its rows i < 2 among the warp's 16, in products.
  __device__ static int query_of(int j) {
    return j / 2 * 8 + lane() % 4 * 2 + j % 2;
  }
  __device__ static int row_of(int i) {
    return lane() / 4 + 8 * i;
  }
  KVC_HD static constexpr int product_at(int i, int j) {
    return j / 2 * 4 + 2 * i + j % 2;
  }
  /// Of which of its queries a thread stores the j-th weights: neighbouring lanes' rows share a word (put_weights).
  KVC_HD static constexpr int stored_query(int j) {
    return j / 2 * 4 + j % 2;
  }
  KVC_HD static constexpr int stored_query_of_odd(int j) {
    return j / 2 * 4 + 3 - j % 2;
  }
  using products = int32[4 * columns];
  using scores = float[2][own];                       ///< [rows][queries]
  using sums = float[value_products][4 * columns];    ///< of products, in units of down; high nibbles count 16
  using row_scales = float[2][groups];                ///< of this thread's rows, times `up`
  using eight_sums = float[latent::groups][columns];  ///< see put_weights

  /// Whether queries are folded in shared memory, and not stored as they are.
  static constexpr bool folds_in_rows =
      !(transform<first>::stack::is_identity && transform<first>::dims_are_identity &&
        transform<second>::stack::is_identity && transform<second>::dims_are_identity);

  // byte_queries.cuh: queries into the stored space and to bytes, once.
  static constexpr int folds = ceil_div(queries, warps);  ///< queries of a warp
  using loaded_queries = float[folds][ceil_div(Spec::query_width, 32)];
  __device__ void load_queries(const rows_view<const T>& q, loaded_queries& x) const;
  template <class Rows, int Begin, int Groups>
  __device__ float put_query(const float* x, int n, float (&sum)[Rows::groups]) const;
  __device__ void fold(const loaded_queries& x) const;
  __device__ void put_visible() const;

  // byte_scores.cuh: scores of this warp's rows.
  __device__ void load_constants(const byte* staged, row_scales& scale, uint32 (&constants)[4]) const;
  __device__ void score(const byte* codes, const row_scales& scale, const uint32 (&constants)[4], scores& s) const;
  struct score_state;
  template <int Batch>
  __device__ void issue_batch(const byte* codes, uint64 q, score_state& t) const;
  template <int Batch>
  __device__ void take_batch(const row_scales& scale, const uint32 (&constants)[4], score_state& t, scores& s) const;
  template <int Batch>
  __device__ void score_from(const byte* codes, uint64 q, const row_scales& scale, const uint32 (&constants)[4],
                             score_state& t, scores& s) const;
  __device__ void fold_products(int g, const products& d, const row_scales& scale, scores& s) const;
  __device__ void add_constants(const row_scales& scale, const uint32 (&constants)[4], scores& s) const;

  // byte_sums.cuh: maxima, weights in bytes, sums of this warp's channels.
  __device__ static void put_tops(const scores& s, float* to);
  __device__ static int top_query();
  __device__ uint32 put_scale_tops(const row_scales& scale, uint32* scale_tops) const;
  __device__ void put_weights(const scores& s, const row_scales& scale, const uint32* scale_tops,
                              const float (&part)[own], byte* weights, float (&weight_scale)[latent::groups],
                              eight_sums& eights) const;
  __device__ void accumulate(const byte* codes, const byte* weights, const float (&part)[own],
                             const float (&weight_scale)[latent::groups], const typename tiles::copies& asked,
                             sums& o) const;

  // attend_bytes.cuh: the walk over the tiles, and the end.
  __device__ void run(const rows_view<const T>& q, int split, int splits, const attend_results& results) const;
  __device__ void finish(int split, int splits, const float (&m)[own], const float (&constants)[own],
                         const eight_sums& eights, const sums& o, const attend_results& results) const;
};

}  // namespace kvc::inline v0_1::cuda::detail
