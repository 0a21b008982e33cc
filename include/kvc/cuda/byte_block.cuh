// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cuda/attend_block.cuh"
#include "kvc/cuda/byte_rows.cuh"
#include "kvc/cuda/warpgroup.cuh"

// Attention over a latent in codes of 4 bits that become operands by a mask: bytes for the scores, fp16 for the sums.
// The rotary key, which is scored alone, may be in codes of 8 bits, which are operands as they are.
//
//   scores   S [rows][queries]     = U [rows][channels] Q^T        rows or channels on the side of 64,
//   sums     O [channels][queries] += U^T [channels][rows] W       queries on the other: none is padded
//
// U are the codes u of rows = scale u + offset, with constants per row t and group g of channels. Queries are rounded
// to 8 bits per stream, weights times scales to fp16:
//
//   S[t] = sum_g scale[t][g] (<q8, u_tg - 8> q_scale + 8 sum(q_g)) + offset[t][g] sum(q_g)
//   O_g += sum_t w[t][g] u_tg + sum_t p_t offset[t][g]                    w = fp16(p_t scale[t][g])
//
// The bits of a code are those of a denormal fp16 number: nothing is converted, and sums stay in the registers of the
// products over all tiles.
//
// A block is made of teams of warpgroups. A team walks over its own tiles: its first warpgroup scores them, 16 rows to
// each warp, which it copies; the others sum, each its share of the channels over all rows. Weights lie in two buffers
// between them: while one tile is summed, the next is scored. Codes go from shared memory through registers, where they
// are unpacked, into products of a warpgroup, which read queries and weights from shared memory once.

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
  /// A product of sums has 64 channels. Where groups allow it, a warp's 16 of two products are those of the same words;
  /// else they are every other byte's.
  static constexpr bool splits_nibbles = latent::group_chunks % 4 == 0 && latent::chunks % 4 == 0;
  static constexpr int fed_products = splits_nibbles ? 2 : 1;  ///< by a load of 32 channels

  /// Warpgroups of a team that score, those that sum, and teams: as many as leave a thread the registers that it needs.
  static constexpr bool is_wide = key::bits == 16;  ///< rows, so that fewer fit
  static constexpr int score_groups = queries == 32 && !is_wide ? 2 : 1;
  static constexpr int sum_groups = queries > 32 ? 2 : 1;
  static constexpr int teams = queries > 16 ? 1 : 2;
  /// Registers of a thread, of 512 for the four of a multiprocessor's quarter: where they are not the same for all.
  static constexpr int score_registers = queries > 32 ? 152 : score_groups == 2 ? 160 : 0;
  static constexpr int sum_registers = queries > 32 ? 176 : score_groups == 2 ? 184 : 0;
  static constexpr int score_warps = 4 * score_groups;  ///< of a team
  static constexpr int team_warps = score_warps + 4 * sum_groups;
  static constexpr int warps = teams * team_warps;
  static constexpr int threads = 32 * warps;
  static constexpr int rows = 16 * score_warps;  ///< of a tile
  static constexpr int chunks = latent::chunks + key::chunks;
  static constexpr int groups = latent::groups + key::groups;
  static_assert(queries % 16 == 0);

  static constexpr int value_products = latent::chunks / 2 / sum_groups;  ///< of a warpgroup
  static_assert(latent::chunks / 2 % (sum_groups * fed_products) == 0);
  /// Of product p of the block.
  KVC_HD static constexpr int group_of_product(int p) {
    return p / fed_products * fed_products * 2 / latent::group_chunks;
  }

  // Shared memory of a team: stages, weights, and maxima.
  static constexpr int operand_bytes = 32 * queries;              ///< of 32 channels in bytes, of 16 rows in fp16
  static constexpr int weight_bytes = rows / 16 * operand_bytes;  ///< of a group
  static constexpr int scale_pitch = 4;
  static constexpr int buffers = 2;  ///< of weights
  /// As many are summed or wait for it, one is scored, and one or two are on their way.
  static constexpr int stages = buffers + (queries == 32 || is_wide ? 1 : 2);
  using tiles = byte_tiles<Spec, score_warps, stages>;
  using cursor = typename tiles::cursor;
  static constexpr int pitch = tiles::pitch;
  static constexpr int weights_at = round_up(tiles::bytes, 128);  // [buffers][groups][rows / 16]{operand}
  static constexpr int sum_pitch = first::width + 4;
  static constexpr int tops_at =  // [queries][warps]
      round_up(max_of(weights_at + buffers * latent::groups * weight_bytes, queries* sum_pitch * 4), 128);
  static constexpr int scale_tops_at = tops_at + queries * score_warps * 4;  // [warps][scale_pitch]
  /// How the units of a tile's weights differ from those before.
  struct unit_change {
    float of_query[queries];
    float of_group[scale_pitch];
    int exists;
  };
  static constexpr int arrived_at = scale_tops_at + score_warps * scale_pitch * 4;  // [stages], 2 [buffers]
  static constexpr int changes_at = arrived_at + (stages + 2 * buffers) * 8;        // [stages]
  static constexpr int team_bytes = round_up(changes_at + stages * static_cast<int>(sizeof(unit_change)), 128);

  // Shared memory of a block.
  /// What a scoring warp keeps of its rows, per query: the unit of its sums, and sums of weights times constants.
  enum field { field_m, field_l, field_offsets };
  static constexpr int fields = field_offsets + latent::groups;
  struct output_of {
    float* to;
    float factor;
    float offsets[latent::groups];
  };
  static constexpr int query_at = 0;                                  // [chunks]{operand}
  static constexpr int start_at = query_at + chunks * operand_bytes;  // [groups][queries / 2]{both, twice}
  static constexpr int factor_at = start_at + groups * queries * 8;   // [queries / 16][8][4]{8 bytes of two queries}
  static constexpr int unit_at = factor_at + queries / 16 * 512;      // [queries] of scores: the latent's query's
  static constexpr int ratio_at = unit_at + queries * 4;              // [queries]: the key's query's in such units
  static constexpr int visible_at = ratio_at + queries * 4;           // [queries]{sinks, newest: begin, end}
  static constexpr int result_at = visible_at + queries * 16;         // [teams x warps][fields][queries]
  static constexpr int result_unit_at = result_at + teams * score_warps * queries * fields * 4;  // [teams][scale_pitch]
  static constexpr int output_at = query_at;  // once no query is needed
  static_assert(queries * static_cast<int>(sizeof(output_of)) <= chunks * operand_bytes);
  static constexpr int team_at = round_up(result_unit_at + teams * scale_pitch * 4, 128);
  static constexpr int bytes = team_at + teams * team_bytes;

  // Queries are folded where rows will lie, one by a warp; teams' sums are added up where rows lay.
  static constexpr int score_width = first::width + second::width;
  static constexpr int fold_chunks = score_width / 32;
  static constexpr int fold_floats = Spec::query_width + score_width;
  static_assert(warps * fold_floats * 4 <= teams * team_bytes);
  static constexpr int fixed_bytes = round_up(static_cast<int>((most_spans + 1) * sizeof(tile_span)), 128);
  static_assert(bytes + fixed_bytes <= device_limits{}.shared_bytes);

  // Integers below 2^24 are denormal floats, times 2^149: a product with a scale takes them as they are. In scores
  // codes count 16 where there is room for it: to shift to the left is to multiply, and does not keep the masks' unit
  // busy.
  static constexpr int group_channels = 32 * max_of(latent::group_chunks, key::bits == 4 ? key::group_chunks : 0);
  static constexpr int code_unit = group_channels <= 256 ? 16 : 1;
  static constexpr int key_unit = key::bits == 4 ? code_unit : 1;  ///< bytes are taken as they are
  static constexpr int32 largest_score =                           ///< of a group, in integers
      max_of(group_channels * 127 * 15 * code_unit, 32 * key::group_chunks * 127 * key::top * key_unit);
  static constexpr int32 positive = [] {  ///< where their sums begin, as none may be negative
    int32 power = 1;
    while (power <= largest_score) power *= 2;
    return power;
  }();
  static_assert(positive + largest_score < 1 << 24);
  static constexpr float up = 0x1p80f / code_unit;  ///< of scales
  static constexpr float key_up = 0x1p80f / key_unit;
  static constexpr float down = 0x1p-69f;          ///< the unit of scores with them
  static constexpr float sum_unit = 0x1p24f / up;  ///< of sums with them: codes are denormal fp16 numbers, times 2^24

  static constexpr float lowest = -1e30f;  ///< below any score
  // Weights times scales are fp16, and their largest 2^15 at most: a weight is 2^6 where its score is the maximum that
  // m was set by, a scale 1 to 2 where it was its unit; both may grow by 2^4 before the units follow. So tiles need not
  // know their maxima: that something has grown is found in the weights, and is rare.
  static constexpr float largest_weight = 6;      ///< as log 2
  static constexpr uint32 grown_weight = 0x6400;  ///< fp16: 2^10
  static constexpr float largest_ratio = 32;      ///< of a scale to its unit
  static constexpr float no_unit = 0x1p126f;      ///< before the first scale

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
  __device__ bool scores_rows() const { return warp_index % team_warps < score_warps; }
  /// Among those that score; among the four of a warpgroup that sums.
  __device__ int warp() const {
    const int w = warp_index % team_warps;
    return w < score_warps ? w : (w - score_warps) % 4;
  }
  __device__ int sum_group() const { return sum_groups == 1 ? 0 : (warp_index % team_warps - score_warps) / 4; }
  // Barriers of a team's warps that score, and of those that sum.
  __device__ int team_barrier() const { return 1 + team(); }
  __device__ int sum_barrier() const { return 1 + teams + team(); }
  static_assert(2 * teams <= 4);
  /// Whether any thread that scores says so.
  __device__ bool team_any(bool said) const { return barrier_any<32 * score_warps>(team_barrier(), said); }
  __device__ void team_sync() const { barrier_sync<32 * score_warps>(team_barrier()); }
  __device__ void sum_sync() const { barrier_sync<32 * 4 * sum_groups>(sum_barrier()); }
  __device__ int group() const { return view.model.group(); }
  __device__ int64 position(int n) const { return length + (query + n) / group(); }

  __device__ int result_warp() const { return team() * score_warps + warp(); }
  __device__ byte* team_memory() const { return shared + team_at + team() * team_bytes; }
  __device__ byte* stage(int i) const { return team_memory() + i * tiles::stage_bytes; }
  __device__ bool copies_rows() const { return !scores_rows() && sum_group() == 0; }
  __device__ byte* weights(int buffer) const {
    return team_memory() + weights_at + buffer * latent::groups * weight_bytes;
  }
  /// Counts the threads whose part of a stage's rows is there.
  __device__ uint32 arrived(int i) const { return shared_address(team_memory()) + arrived_at + 8 * i; }
  /// Count the warps whose weights lie in a buffer, and those that have summed them.
  __device__ uint32 filled(int buffer) const { return arrived(stages + buffer); }
  __device__ uint32 summed(int buffer) const { return arrived(stages + buffers + buffer); }
  static constexpr int counters = stages + 2 * buffers;
  __device__ void begin_counters() const {
    if (!scores_rows() || warp() != 0 || lane() >= counters) return;
    begin_counting(arrived(lane()), lane() < stages             ? 32 * 4
                                    : lane() < stages + buffers ? score_warps * counts_of_warp
                                                                : 4 * sum_groups * counts_of_warp);
  }
  __device__ void end_counters() const {
    if (scores_rows() && warp() == 0 && lane() < counters) end_counting(arrived(lane()));
  }
  __device__ unit_change* changes(int i) const {
    return reinterpret_cast<unit_change*>(team_memory() + changes_at) + i;
  }
  __device__ float* units() const { return reinterpret_cast<float*>(shared + unit_at); }
  __device__ float* ratios() const { return reinterpret_cast<float*>(shared + ratio_at); }
  __device__ int4* visible() const { return reinterpret_cast<int4*>(shared + visible_at); }
  __device__ float* result(int w, int f) const {
    return reinterpret_cast<float*>(shared + result_at) + (w * fields + f) * queries;
  }
  /// Of a team's sums: what they count.
  __device__ float* result_units() const {
    return reinterpret_cast<float*>(shared + result_unit_at) + team() * scale_pitch;
  }
  /// A team's [queries][sum_pitch], where its rows and weights lay.
  __device__ float* totals(int t) const { return reinterpret_cast<float*>(shared + team_at + t * team_bytes); }
  __device__ output_of* outputs() const { return reinterpret_cast<output_of*>(shared + output_at); }

  /// This thread's queries j < own, and its rows i < 2 among the warp's 16, in products.
  __device__ static int query_of(int j) { return j / 2 * 8 + lane() % 4 * 2 + j % 2; }
  __device__ static int row_of(int i) { return lane() / 4 + 8 * i; }
  KVC_HD static constexpr int product_at(int i, int j) { return j / 2 * 4 + 2 * i + j % 2; }
  using products = int32[4 * columns];
  using scores = float[2][own];                     ///< [rows][queries]
  using sums = float[value_products][4 * columns];  ///< of products; odd channels count 16
  using row_scales = float[2][groups];              ///< of this thread's rows, times `up`
  using scale_units = float[latent::groups];        ///< their inverses: powers of two
  using packed_weights = uint32[2][columns];        ///< [rows][pairs of queries], two 16-bit numbers each
  /// What weights times constants add up to, as products have it: queries lane / 4 and + 8 of 16, by constants
  /// 2 (lane % 4) and the next.
  using offset_sums = float[queries / 16][4];

  /// 1 / x of a power of two.
  __device__ static float inverse_power(float x) { return __uint_as_float((254u << 23) - __float_as_uint(x)); }
  /// Whether queries are folded in shared memory, and not stored as they are.
  static constexpr bool folds_in_rows =
      !(transform<first>::stack::is_identity && transform<first>::dims_are_identity &&
        transform<second>::stack::is_identity && transform<second>::dims_are_identity);

  // byte_queries.cuh: queries into the stored space and to bytes, once.
  static constexpr int folds = ceil_div(queries, warps);  ///< queries of a warp
  using loaded_queries = float[folds][ceil_div(Spec::query_width, 32)];
  __device__ void load_queries(const rows_view<const T>& q, loaded_queries& x) const;
  template <class Rows, int Begin, int Groups, int Unit>
  __device__ float put_query(const float* x, int n, float (&sum)[Rows::groups]) const;
  __device__ void put_halves(const float* x, int n) const;
  __device__ void fold(const loaded_queries& x) const;
  __device__ void put_visible() const;

  // byte_scores.cuh: scores of this warp's rows.
  __device__ void load_constants(const byte* staged, row_scales& scale, uint32 (&constants)[4]) const;
  using key_products = float[4 * columns];
  __device__ void issue_halves(const byte* codes, uint64 q, key_products& d) const;
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

  // byte_sums.cuh: maxima, weights in fp16, sums of this warp's channels.
  __device__ static void weigh(const scores& s, const float (&to_log2)[own], const float (&m)[own], packed_weights& p);
  __device__ static bool have_grown(const packed_weights& p);
  __device__ static void put_tops(const scores& s, const float (&to_log2)[own], float* tops);
  __device__ uint32 put_scale_tops(const row_scales& scale, uint32* scale_tops) const;
  __device__ void follow(const float* tops, const uint32* scale_tops, unit_change& change, scale_units& unit,
                         offset_sums& offsets) const;
  __device__ void change_units(const unit_change& change, sums& o) const;
  __device__ void put_weights(const packed_weights& p, const row_scales& scale, const scale_units& unit,
                              byte* weights) const;
  __device__ static void add_offsets(const packed_weights& p, const uint32 (&constants)[4], offset_sums& offsets);
  __device__ void accumulate(const byte* codes, const byte* weights, sums& o) const;

  // attend_bytes.cuh: the walks over the tiles, and the end.
  struct walk;
  struct row_copies;
  __device__ void run(const rows_view<const T>& q, int split, int splits, const attend_results& results) const;
  __device__ void score_tiles(walk& w, int seen_begin, int seen_end) const;
  __device__ void sum_tiles(walk& w, row_copies& copies, sums& o) const;
  __device__ float largest_unit(int n) const;
  __device__ static float share_of(float m, float top) { return m == lowest ? 0.0f : exp2_of(m - top); }
  __device__ void put_outputs(int split, int splits, const attend_results& results) const;
  __device__ void put_totals(const sums& o) const;
  __device__ void write_outputs() const;
};

}  // namespace kvc::inline v0_1::cuda::detail
