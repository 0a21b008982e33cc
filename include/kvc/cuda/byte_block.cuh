// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cuda/attend_block.cuh"
#include "kvc/cuda/byte_rows.cuh"

// Attention over a latent in codes of 4 bits with products of bytes: codes become operands by a mask, at twice the rate
// and half the space of bf16.
//
//   scores   S [queries][rows]     = Q [queries][channels] U^T        16 queries on the 16-side of the product
//   sums     O [queries][channels] += W [queries][rows] U
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
// A block is made of teams of warps. A team walks over its own tiles, for itself: while one waits, the others issue. In
// a tile each warp scores the 16 rows that it copied, and sums its share of the channels over all rows. What a product
// of scores leaves in a thread is what a product of sums takes from it, once rows are counted in a suitable order;
// weights go through shared memory only to reach the other warps.

namespace kvc::inline v0_1::cuda::detail {

template <class Spec, class T>
struct byte_block {
  using shape = byte_shape<Spec>;
  using first = typename Spec::first_stream;
  using second = typename Spec::second_stream;
  using latent = typename shape::latent;
  using key = typename shape::key;

  static constexpr int queries = 16;
  static constexpr int team_warps = 4;
  static constexpr int teams = 3;  // as many as leave a thread the registers that it needs
  static constexpr int team_threads = 32 * team_warps;
  static constexpr int threads = teams * team_threads;
  static constexpr int warp_chunks = latent::chunks / team_warps;  ///< of the values
  static constexpr int chunks = latent::chunks + key::chunks;
  static constexpr int groups = latent::groups + key::groups;
  /// Whether all values of a warp are of one group.
  static constexpr bool one_group = latent::group_chunks % warp_chunks == 0;

  // Shared memory of a team: stages, weights, and maxima.
  static constexpr int rows = 16 * team_warps;          ///< of a tile
  static constexpr int weight_bytes = rows / 32 * 512;  ///< of a group: [products][lanes]{4 words}
  static constexpr int tops_bytes = queries * team_warps * 4;
  static constexpr int scale_pitch = 4;
  static_assert(latent::groups <= scale_pitch);
  static constexpr int scale_top_bytes = team_warps * scale_pitch * 4;

  // Shared memory of a block.
  static constexpr int query_at = 0;                             // [chunks][lanes]{4 words}
  static constexpr int sum_at = query_at + chunks * 512;         // [groups][queries / 2]{beside products, sums}
  static constexpr int unit_at = sum_at + groups * queries * 8;  // [queries] of scores: the latent's query's scale
  static constexpr int key_unit_at = unit_at + queries * 4;      // [queries]{the key's scale, shift} in such units
  static constexpr int visible_at = key_unit_at + queries * 8;   // [queries]{sinks, newest: begin, end}
  static constexpr int result_at = visible_at + queries * 16;    // [teams][warps][queries]{team's m, m, l, middles}
  static constexpr int result_floats = 3 + latent::groups;
  static constexpr int span_at = round_up(result_at + teams * team_warps * queries * result_floats * 4, 16);
  static constexpr int team_at = round_up(span_at + (most_spans + 1) * static_cast<int>(sizeof(tile_span)), 16);

  static constexpr int stages = 3;  ///< one is summed, one scored next, one on its way
  using tiles = byte_tiles<Spec, team_warps, stages>;
  using cursor = typename tiles::cursor;
  static constexpr int pitch = tiles::pitch;
  static constexpr int weights_at = tiles::bytes;
  static constexpr int tops_at = weights_at + latent::groups * weight_bytes;  // [queries][warps]
  static constexpr int scale_tops_at = tops_at + tops_bytes;                  // [warps][groups]
  static constexpr int team_bytes = scale_tops_at + scale_top_bytes;
  static constexpr int bytes = team_at + teams * team_bytes;

  // Queries are folded, one by a warp, where the last stage will lie; teams' sums are added up where stages were.
  static constexpr int score_width = first::width + second::width;
  static constexpr int fold_floats = Spec::query_width + score_width;
  static_assert(team_warps * fold_floats * 4 <= tiles::stage_bytes);
  static constexpr int sum_pitch = first::width + 8;
  static_assert(teams * queries * sum_pitch * 4 <= bytes - team_at);

  /// Integers below 2^22 (2^23 without a sign) that are added to these bits are floats, plus a constant.
  static constexpr int32 signed_ones = 0x4b400000;    // 1.5 x 2^23
  static constexpr int32 unsigned_ones = 0x4b000000;  // 2^23
  static_assert(rows * 255 * 16 * 15 < 1 << 23);
  static_assert(bytes <= device_limits{}.shared_bytes - 1024);

  const cache_view<Spec>& view;
  const step_view& step;
  const attend_params& params;
  int index;  ///< of the sequence in the step
  int slot;
  int query;  ///< first of the block, counted over query rows x group
  int count;  ///< of queries that exist
  byte* shared;
  int warp_index;

  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
  __device__ int team() const { return warp_index / team_warps; }
  __device__ int warp() const { return warp_index % team_warps; }
  __device__ int rank() const { return warp() * 32 + lane(); }
  __device__ void team_sync() const {  // numbers in the instructions: tools do not follow them in registers
    static_assert(teams == 3);
    if (team() == 0) {
      asm volatile("bar.sync 1, %0;" ::"n"(team_threads) : "memory");
    } else if (team() == 1) {
      asm volatile("bar.sync 2, %0;" ::"n"(team_threads) : "memory");
    } else {
      asm volatile("bar.sync 3, %0;" ::"n"(team_threads) : "memory");
    }
  }
  /// After team_sync: racecheck does not see that a barrier of all follows those of the teams, but for this.
  __device__ void all_sync() const {
    team_sync();
    __syncthreads();
  }
  __device__ int group() const { return view.model.group(); }
  __device__ int64 position(int n) const { return step.seq_lens[index] + (query + n) / group(); }

  __device__ byte* team_memory() const { return shared + team_at + team() * team_bytes; }
  __device__ byte* stage(int i) const { return team_memory() + i * tiles::stage_bytes; }
  __device__ const uint4* query_words() const { return reinterpret_cast<const uint4*>(shared + query_at); }
  __device__ const float4* query_sums() const { return reinterpret_cast<const float4*>(shared + sum_at); }
  __device__ float* units() const { return reinterpret_cast<float*>(shared + unit_at); }
  __device__ float2* key_units() const { return reinterpret_cast<float2*>(shared + key_unit_at); }
  __device__ int4* visible() const { return reinterpret_cast<int4*>(shared + visible_at); }
  __device__ float* result(int t, int w, int n) const {
    return reinterpret_cast<float*>(shared + result_at) + ((t * team_warps + w) * queries + n) * result_floats;
  }
  __device__ tile_span* spans() const { return reinterpret_cast<tile_span*>(shared + span_at); }

  // ---- Queries into the stored space and to bytes, once: one warp per query.

  /// A stream's part of a folded query, as operands of products from chunk Begin on. Returns its scale.
  template <class Rows, int Begin, int Groups>
  __device__ float put_query(const float* folded, int n) const {
    float top = 0;
    bool is_finite_query = true;
    for (int c = 0; c < Rows::chunks; ++c) {
      const float x = folded[32 * c + lane()];
      top = fmaxf(top, fabsf(x));
      is_finite_query &= is_finite(x);
    }
    top = warp_team<>::largest(top);
    is_finite_query = __all_sync(~0u, is_finite_query);
    const float inverse = is_finite_query && top > 0 ? 127.0f / top : 0.0f;
    byte* words = shared + query_at;
    int sum8[Rows::groups] = {};
    float sum[Rows::groups] = {};
#pragma unroll
    for (int g = 0; g < Rows::groups; ++g) {
      for (int c = Rows::group_begin(g); c < Rows::group_end(g); ++c) {
        const float x = is_finite_query ? folded[32 * c + lane()] * inverse : 0.0f;
        const int q = __float2int_rn(x);
        sum8[g] += q;
        sum[g] += x;
        // A word of codes holds 8 channels of a row: the even ones in its low nibbles, which are the first half of a
        // product's depth, the odd ones in its high nibbles.
        const int word = ((Begin + c) * 32 + n % 8 * 4 + lane() / 8) * 4 + n / 8 + lane() % 2 * 2;
        words[word * 4 + lane() % 8 / 2] = static_cast<byte>(q);
      }
      const int total8 = __reduce_add_sync(~0u, sum8[g]);
      const float total = warp_team<>::sum(sum[g]);
      if (lane() == 0) {
        float* to = reinterpret_cast<float*>(shared + sum_at) + ((Groups + g) * (queries / 2) + n % 8) * 4 + n / 8;
        to[0] = __int_as_float(signed_ones + 8 * total8);
        to[2] = total;
      }
    }
    return !is_finite_query ? quiet_nan() : top > 0 ? top / 127.0f : 1.0f;
  }

  static constexpr int warps = teams * team_warps;
  static constexpr int folds = ceil_div(queries, warps);  ///< queries of a warp
  using loaded_queries = float[folds][ceil_div(Spec::query_width, 32)];

  /// The model's queries of this warp: asked for early, as memory is far.
  __device__ void load_queries(const rows_view<const T>& q, loaded_queries& x) const {
#pragma unroll
    for (int f = 0; f < folds; ++f) {
      const int n = warp_index + f * warps;
      if (n >= count) continue;
      const T* source = q.at(step.row_indptr[index] + (query + n) / group(), (query + n) % group());
#pragma unroll
      for (int i = 0; i * 32 < Spec::query_width; ++i) {
        x[f][i] = i * 32 + lane() < Spec::query_width ? to_float(source[i * 32 + lane()]) : 0.0f;
      }
    }
  }
  __device__ void fold(const loaded_queries& x) const {
    const warp_team<> lanes;
    float* model_query = reinterpret_cast<float*>(stage(stages - 1)) + warp() * fold_floats;
    float* folded = model_query + Spec::query_width;
    const float unit = params.soft_cap > 0 ? params.scale : params.scale * 1.44269504f;
#pragma unroll
    for (int f = 0; f < folds; ++f) {
      const int n = warp_index + f * warps;
      if (n >= queries) break;
      for (int c = lane(); c < score_width; c += 32) folded[c] = 0;
      float shift = 0;
      if (n < count) {
#pragma unroll
        for (int i = 0; i * 32 < Spec::query_width; ++i) {
          if (i * 32 + lane() < Spec::query_width) model_query[i * 32 + lane()] = x[f][i] * unit;
        }
        lanes.sync();
        shift = transform<first>::fold_query(model_query, folded, view.calibration.first(slot, 0), lanes);
        shift += transform<second>::fold_query(model_query + first::model_width, folded + first::width,
                                               view.calibration.second(slot, 0), lanes);
      }
      lanes.sync();
      const float unit_of_latent = put_query<latent, 0, 0>(folded, n);
      const float unit_of_key = put_query<key, latent::chunks, latent::groups>(folded + first::width, n);
      if (lane() == 0) {
        units()[n] = unit_of_latent;
        key_units()[n] = make_float2(unit_of_key / unit_of_latent, shift / unit_of_latent);
        using tokens = typename Spec::tokens_policy;
        const visible_rows v =
            kvc::visible_at(position(min_of(n, count - 1)), tokens::sinks, tokens::window, params.window);
        visible()[n] = make_int4(static_cast<int>(v.sinks.begin), static_cast<int>(v.sinks.end),
                                 static_cast<int>(v.recent.begin), static_cast<int>(v.recent.end));
      }
      lanes.sync();
    }
  }

  // ---- Scores of this warp's 16 rows: s[b][e] is of the query lane / 4 (e < 2) or 8 more and the row of index
  // 2 b + e % 2 among this thread's four, which is row_of(2 b + e % 2).

  __device__ static int row_of(int i) {
    return i / 2 * 8 + lane() % 4 * 2 + i % 2;
  }

  /// s += the part of one stream, in units of the query's scale. `codes`: this lane's row of matrices, k: {scale,
  /// middle} of this thread's rows.
  template <class Rows, int Begin, int Groups>
  __device__ void score(const byte* codes, const float2 (&k)[4][Rows::groups], float (&s)[2][4]) const {
    const uint4* q = query_words() + Begin * 32 + lane();
    uint32 w[2][4];  // codes of a chunk and the next, for either block of rows: loaded a step ahead
    load_settled_matrices(w[0], codes);
    int loaded = 0;
#pragma unroll
    for (int g = 0; g < Rows::groups; ++g) {
      int32 a[2][4];
#pragma unroll
      for (int b = 0; b < 2; ++b) a[b][0] = a[b][1] = a[b][2] = a[b][3] = signed_ones;
#pragma unroll
      for (int c = Rows::group_begin(g); c < Rows::group_end(g); c += 2) {
        const int next = min_of(c + 2, Rows::group_end(g));
        if (next < Rows::chunks) load_settled_matrices(w[(loaded + 1) % 2], codes + 16 * next);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          if (c + i >= Rows::group_end(g)) continue;
          const uint4 word = q[(c + i) * 32];
          const uint32 of_queries[4] = {word.x, word.y, word.z, word.w};
#pragma unroll
          for (int b = 0; b < 2; ++b) {
            const uint32 x = w[loaded % 2][2 * b + i];
            multiply_add_signed(a[b], of_queries, x & 0x0f0f0f0fu, x >> 4 & 0x0f0f0f0fu);
          }
        }
        ++loaded;
      }
      const float4 sum = query_sums()[(Groups + g) * (queries / 2) + lane() / 4];
#pragma unroll
      for (int b = 0; b < 2; ++b) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float2 constants = k[2 * b + e % 2][g];
          s[b][e] += (__int_as_float(a[b][e]) - (e < 2 ? sum.x : sum.y)) * constants.x;
          s[b][e] += (e < 2 ? sum.z : sum.w) * constants.y;
        }
      }
    }
  }

  // ---- Sums of this warp's share of the channels: o[c][i][e] is of the query lane / 4 (e < 2) or 8 more, and
  // channel 32 c + 8 (lane % 4) + 4 (e % 2) + i of the share.
  using sums = float[warp_chunks][4][4];

  /// o += the products of a tile, with 16 for 1 where i is odd. scale: of a chunk's weights, part: what the tile's are
  /// worth. `codes`: this lane's row of matrices. Meanwhile it asks for rows of a later tile.
  __device__ void accumulate(const byte* codes, const byte* weights, const float (&scale)[warp_chunks],
                             const float (&part)[2], const typename tiles::copies& asked, sums& o) const {
    const uint4* of_group = reinterpret_cast<const uint4*>(weights) + lane();
    constexpr int steps = rows / 32;
    // 8 rows each: the halves of a register are rows 2 (lane % 4) and the next, 4 channels. Loaded one step ahead.
    uint32 next[4];
    load_settled_matrices<true>(next, codes);
    uint32 w[steps][4];
    float ones[2][2] = {};  // what is in the sums beside the products: for low and high nibbles
    float factor[2] = {};
#pragma unroll
    for (int c = 0; c < warp_chunks; ++c) {
      if (c == 0 || !one_group) {
        const int g = (warp() * warp_chunks + c) / latent::group_chunks;
        int32 eights[4] = {};
#pragma unroll
        for (int r = 0; r < steps; ++r) {
          const uint4 word = of_group[g * (weight_bytes / 16) + r * 32];
          w[r][0] = word.x, w[r][1] = word.y, w[r][2] = word.z, w[r][3] = word.w;
          multiply_add_unsigned(eights, w[r], 0x08080808u, 0x08080808u);
        }
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          ones[e][0] = __int_as_float(unsigned_ones + eights[2 * e]);
          ones[e][1] = __int_as_float(unsigned_ones + 16 * eights[2 * e]);
        }
        factor[0] = part[0] * scale[c];
        factor[1] = part[1] * scale[c];
      }
      int32 a[4][4];
#pragma unroll
      for (int i = 0; i < 4; ++i) a[i][0] = a[i][1] = a[i][2] = a[i][3] = unsigned_ones;
#pragma unroll
      for (int r = 0; r < steps; ++r) {
#pragma unroll
        for (int n = c * steps + r; n < tiles::copies::count; n += warp_chunks * steps) asked.ask(n);
        const uint32 x[4] = {next[0], next[1], next[2], next[3]};
        const int i = c * steps + r + 1;
        if (i < warp_chunks * steps) load_settled_matrices<true>(next, codes + i % steps * 32 * pitch + i / steps * 16);
        const uint32 even[2] = {__byte_perm(x[0], x[1], 0x6420), __byte_perm(x[2], x[3], 0x6420)};
        const uint32 odd[2] = {__byte_perm(x[0], x[1], 0x7531), __byte_perm(x[2], x[3], 0x7531)};
        // High nibbles stay where they are: 16 times the code, and so do their sums.
        multiply_add_unsigned(a[0], w[r], even[0] & 0x0f0f0f0fu, even[1] & 0x0f0f0f0fu);
        multiply_add_unsigned(a[1], w[r], even[0] & 0xf0f0f0f0u, even[1] & 0xf0f0f0f0u);
        multiply_add_unsigned(a[2], w[r], odd[0] & 0x0f0f0f0fu, odd[1] & 0x0f0f0f0fu);
        multiply_add_unsigned(a[3], w[r], odd[0] & 0xf0f0f0f0u, odd[1] & 0xf0f0f0f0u);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          o[c][i][e] += factor[e / 2] * (__int_as_float(a[i][e]) - ones[e / 2][i % 2]);
        }
      }
    }
  }

  /// Bytes of four weights, from floats of 2^15 and more: units in the last place are 2^-8.
  __device__ static uint32 pack_weights(const float (&y)[4]) {
    const uint32 low = __byte_perm(__float_as_uint(y[0]), __float_as_uint(y[1]), 0x0051);
    const uint32 high = __byte_perm(__float_as_uint(y[2]), __float_as_uint(y[3]), 0x0051);
    return __byte_perm(low, high, 0x5410);
  }

  /// What one unit of the weights of this warp's chunks is worth.
  __device__ void weight_scales(const uint32* scale_tops, float (&scale)[warp_chunks]) const {
#pragma unroll
    for (int c = 0; c < warp_chunks; ++c) {
      if (c > 0 && one_group) break;
      const int g = (warp() * warp_chunks + c) / latent::group_chunks;
      uint32 top = scale_tops[g];
#pragma unroll
      for (int w = 1; w < team_warps; ++w) top = max_of(top, scale_tops[w * scale_pitch + g]);
      scale[c] = __uint_as_float(top) * (1 / 255.0f);
    }
  }

  /// The largest scale of each group among the warp's rows; returns the largest of all.
  __device__ uint32 put_scale_tops(const float2 (&k)[4][latent::groups], uint32* scale_tops) const {
    uint32 of_all = 0;
    uint32 tops[scale_pitch] = {};
#pragma unroll
    for (int g = 0; g < latent::groups; ++g) {  // scales are not negative: ordered as their bits
      const uint32 low = max_of(__float_as_uint(k[0][g].x), __float_as_uint(k[1][g].x));
      const uint32 high = max_of(__float_as_uint(k[2][g].x), __float_as_uint(k[3][g].x));
      tops[g] = __reduce_max_sync(~0u, max_of(low, high));
      of_all = max_of(of_all, tops[g]);
    }
    if (lane() == 0) {
      *reinterpret_cast<uint4*>(scale_tops + warp() * scale_pitch) = make_uint4(tops[0], tops[1], tops[2], tops[3]);
    }
    return of_all;
  }
  /// Of all warps.
  __device__ static uint4 scale_tops_of_groups(const uint32* scale_tops) {
    uint4 top = *reinterpret_cast<const uint4*>(scale_tops);
#pragma unroll
    for (int w = 1; w < team_warps; ++w) {
      const uint4 x = *reinterpret_cast<const uint4*>(scale_tops + w * scale_pitch);
      top = make_uint4(max_of(top.x, x.x), max_of(top.y, x.y), max_of(top.z, x.z), max_of(top.w, x.w));
    }
    return top;
  }

  __device__ void run(const rows_view<const T>& q, int split, int splits, const attend_results& results) const;
  __device__ void finish(int split, int splits, const float (&m)[2], const float (&own_m)[2], const float (&l)[2],
                         const float (&middles)[latent::groups][2], const sums& o, const attend_results& results) const;
};

}  // namespace kvc::inline v0_1::cuda::detail
