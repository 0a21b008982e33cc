// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/attention/state.hpp"
#include "kvc/cuda/attend_block.cuh"

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
// A block is made of teams of four warps. A team walks over its own tiles of 64 rows, for itself: while one waits, the
// others issue. In a team each warp scores 16 rows, and sums a quarter of the channels. What a product of scores leaves
// in a thread is what a product of sums takes from it, once rows are counted in a suitable order; weights go through
// shared memory only to reach the other warps.

namespace kvc::inline v0_1::cuda::detail {

/// A stream of 4-bit codes per token: value = scale (code - 8) + middle.
template <class Codec, int Width>
struct nibble_rows {
  static constexpr bool exists = false;
};

template <int Group, quant::grid Grid, quant::scale_type Type, int Width>
requires(Width % 32 == 0 &&
         (Group >= Width ||
          Group % 32 == 0)) struct nibble_rows<quant::integer<4, Group, Grid, quant::per_token, Type>, Width> {
  using codec = quant::integer<4, Group, Grid, quant::per_token, Type>;
  static constexpr bool exists = true;
  static constexpr int chunks = Width / 32;  ///< of 32 channels, 16 bytes: the depth of a product
  static constexpr int groups = codec::template groups<Width>;
  static constexpr int group_chunks = codec::template group_length<Width> / 32;
  static constexpr int row_bytes = Width / 2;
  static constexpr int group_bytes = codec::template group_bytes<Width>;

  KVC_HD static constexpr int group_begin(int g) { return g * group_chunks; }
  KVC_HD static constexpr int group_end(int g) { return min_of((g + 1) * group_chunks, chunks); }

  /// {scale, middle} of a row's groups.
  __device__ static void constants(const byte* at, float2 (&k)[groups]) {
    constexpr int align = min_of(16, group_bytes & -group_bytes);
    alignas(16) byte raw[group_bytes];
    __builtin_memcpy(raw, __builtin_assume_aligned(at, align), group_bytes);
#pragma unroll
    for (int g = 0; g < groups; ++g) {
      const quant::grid_constants c = codec::constants_of::load(raw + g * codec::constants_of::bytes);
      const float middle = Grid == quant::affine ? c.offset + 8 * c.scale : Grid == quant::midrise ? 0.5f * c.scale : 0;
      k[g] = make_float2(c.scale, middle);
    }
  }
};

template <class Spec>
struct byte_shape {
  using first = typename Spec::first_stream;
  using second = typename Spec::second_stream;
  using latent = nibble_rows<typename first::codec, first::width>;
  using key = nibble_rows<typename second::codec, second::width>;  ///< the rotary key
  static constexpr bool exists = Spec::is_latent && !Spec::has_tail && !first::is_deferred && latent::exists &&
                                 key::exists && first::width % 128 == 0 && first::width <= 512;
};

template <class Spec, class T>
struct byte_block {
  using shape = byte_shape<Spec>;
  using first = typename Spec::first_stream;
  using second = typename Spec::second_stream;
  using latent = typename shape::latent;
  using key = typename shape::key;

  static constexpr int queries = 16;
  static constexpr int rows = 64;  ///< of a tile
  static constexpr int teams = 3;
  static constexpr int team_warps = 4;
  static constexpr int team_threads = 32 * team_warps;
  static constexpr int threads = teams * team_threads;
  static constexpr int warp_rows = 16;
  static constexpr int warp_chunks = latent::chunks / team_warps;  ///< of the values
  static constexpr int chunks = latent::chunks + key::chunks;
  static constexpr int groups = latent::groups + key::groups;
  static constexpr int per_page = first::tokens_per_page;
  /// Whether all values of a warp are of one group.
  static constexpr bool one_group = latent::group_chunks % warp_chunks == 0;

  // A stage: codes [rows][latent, rotary key], then constants. An odd number of 16-byte slots to a row.
  static constexpr int pitch = ((latent::row_bytes + key::row_bytes) / 16 | 1) * 16;
  static constexpr int latent_constants_at = rows * pitch;
  static constexpr int key_constants_at = latent_constants_at + rows * latent::group_bytes;
  static constexpr int stage_bytes = round_up(key_constants_at + rows * key::group_bytes, 16);
  static constexpr int stages = 3;

  // Shared memory of a team.
  static constexpr int weights_at = stages * stage_bytes;
  static constexpr int weight_bytes = rows / 32 * 512;  ///< of a group: [products][lanes]{4 words}
  static constexpr int tops_at = weights_at + latent::groups * weight_bytes;  // [queries][warps]
  static constexpr int scale_tops_at = tops_at + queries * team_warps * 4;    // [groups][warps]
  static constexpr int team_bytes = scale_tops_at + latent::groups * team_warps * 4;

  // Shared memory of a block.
  static constexpr int query_at = 0;  // [chunks][lanes]{4 words}
  static constexpr int sum_at =
      query_at + chunks * 512;  // [groups][queries / 2]{sums that products begin with | sums}, of n and n + 8 twice
  static constexpr int unit_at = sum_at + groups * queries / 2 * 32;  // [queries] of scores: the latent's query's scale
  static constexpr int key_unit_at = unit_at + queries * 4;           // [queries]{the key's scale, shift} in such units
  static constexpr int visible_at = key_unit_at + queries * 8;        // [queries]{sinks, newest: begin, end}
  static constexpr int result_at = visible_at + queries * 16;  // [teams][warps][queries]{team's m, m, l, middles}
  static constexpr int result_floats = 3 + latent::groups;
  static constexpr int span_at = round_up(result_at + teams * team_warps * queries * result_floats * 4, 16);
  static constexpr int team_at = round_up(span_at + (most_spans + 1) * static_cast<int>(sizeof(tile_span)), 16);
  static constexpr int bytes = team_at + teams * team_bytes;

  // Queries are folded, one by a warp, where the last stage will lie; teams' sums are added up where stages were.
  static constexpr int score_width = first::width + second::width;
  static constexpr int fold_floats = Spec::query_width + score_width;
  static_assert(team_warps * fold_floats * 4 <= stage_bytes);
  static constexpr int sum_pitch = first::width + 8;
  static_assert(teams * queries * sum_pitch * 4 <= bytes - team_at);

  /// Integers below 2^22 (2^23 without a sign) that are added to these bits are floats, plus a constant.
  static constexpr int32 signed_ones = 0x4b400000;    // 1.5 x 2^23
  static constexpr int32 unsigned_ones = 0x4b000000;  // 2^23

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

  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
  __device__ int team() const { return warp_index / team_warps; }
  __device__ int warp() const { return warp_index % team_warps; }
  __device__ int rank() const { return warp() * 32 + lane(); }
  __device__ void team_sync() const {
    asm volatile("bar.sync %0, %1;" ::"r"(team() + 1), "n"(team_threads) : "memory");
  }
  __device__ int group() const { return view.model.group(); }
  __device__ int64 position(int n) const { return step.seq_lens[index] + (query + n) / group(); }

  __device__ byte* team_memory() const { return shared + team_at + team() * team_bytes; }
  __device__ byte* stage(int i) const { return team_memory() + i * stage_bytes; }
  __device__ const uint4* query_words() const { return reinterpret_cast<const uint4*>(shared + query_at); }
  __device__ const int4* query_sums() const { return reinterpret_cast<const int4*>(shared + sum_at); }
  __device__ float* units() const { return reinterpret_cast<float*>(shared + unit_at); }
  __device__ float2* key_units() const { return reinterpret_cast<float2*>(shared + key_unit_at); }
  __device__ int4* visible() const { return reinterpret_cast<int4*>(shared + visible_at); }
  __device__ float* result(int t, int w, int n) const {
    return reinterpret_cast<float*>(shared + result_at) + ((t * team_warps + w) * queries + n) * result_floats;
  }
  __device__ tile_span* spans() const { return reinterpret_cast<tile_span*>(shared + span_at); }

  // ---- The walk: tiles team, team + teams, ... of the spans.

  struct cursor {
    int span;
    int begin;
    tile_span range;
    int32 block;  ///< of the page, where a tile lies in one

    __device__ bool is_end() const { return range.begin >= range.end; }
    __device__ int low() const { return max_of(range.begin - begin, 0); }
    __device__ int high() const { return min_of(range.end - begin, rows); }
  };
  __device__ cursor at_span(int i) const {
    const tile_span s = spans()[i];
    return {i, s.begin / rows * rows, s, 0};
  }
  __device__ void skip(cursor& c, int tiles) const {
    c.begin += tiles * rows;
    while (c.begin >= c.range.end && !c.is_end()) {
      const int more = c.begin - round_up(c.range.end, rows);
      c = at_span(c.span + 1);
      c.begin += more;
    }
  }
  __device__ void find_page(cursor& c) const {
    if constexpr (per_page >= rows) {
      if (!c.is_end()) c.block = step.block(index, c.begin / per_page);
    }
  }

  /// What a tile has of one stream, codes or constants: RowBytes per row, Pitch apart in shared memory, copied in
  /// pieces of 16 bytes.
  template <bool First, int RowBytes, int Pitch>
  struct rows_copy {
    static constexpr int pieces = rows * RowBytes / 16;
    static constexpr int step = 16 * team_threads;  ///< bytes that the team copies at a time
    static constexpr bool is_regular = RowBytes >= 16 ? step % RowBytes == 0 : pieces <= team_threads;
    KVC_HD static constexpr int target(int i) { return RowBytes >= 16 ? i / RowBytes * Pitch + i % RowBytes : i; }

    /// All rows, which lie in one page. from: the first.
    __device__ static void all(const byte* from, byte* to, int rank) {
      from += 16 * rank;
      to += target(16 * rank);
#pragma unroll
      for (int i = 0; i * team_threads < pieces; ++i) {
        if ((i + 1) * team_threads > pieces && i * team_threads + rank >= pieces) break;
        copy_async<16>(to + (RowBytes >= 16 ? i * step / RowBytes * Pitch : 0), from + i * step);
      }
    }
    /// Rows [low, high). page_of(row): where the rows of its page begin.
    template <class PageOf>
    __device__ static void some(int low, int high, int begin, const PageOf& page_of, byte* to, int rank) {
#pragma unroll 1
      for (int i = 16 * rank; i < 16 * pieces; i += step) {
        const int row = i / RowBytes;
        const int last = (i + 15) / RowBytes;  // constants of several rows share a piece
        if (last < low || row >= high) continue;
        copy_async<16>(to + target(i), page_of(begin + row) + ((begin + row) % per_page - row) * RowBytes + i);
      }
    }
  };
  using latent_copy = rows_copy<true, latent::row_bytes, pitch>;
  using key_copy = rows_copy<false, key::row_bytes, pitch>;
  using latent_constants_copy = rows_copy<true, latent::group_bytes, latent::group_bytes>;
  using key_constants_copy = rows_copy<false, key::group_bytes, key::group_bytes>;
  static constexpr bool copies_all = per_page >= rows && latent_copy::is_regular && key_copy::is_regular &&
                                     latent_constants_copy::is_regular && key_constants_copy::is_regular;

  static constexpr int64 key_at = first::segment_bytes;  ///< of a page: a latent has one head

  /// Asks for a tile.
  __device__ void issue(const cursor& c, byte* to) const {
    if (copies_all && c.range.begin <= c.begin && c.begin + rows <= c.range.end) {
      const byte* page = view.page(slot, c.block);
      const int row = per_page == rows ? 0 : c.begin % per_page;
      latent_copy::all(page + row * latent::row_bytes, to, rank());
      latent_constants_copy::all(page + first::codes_bytes + row * latent::group_bytes, to + latent_constants_at,
                                 rank());
      key_copy::all(page + key_at + row * key::row_bytes, to + latent::row_bytes, rank());
      key_constants_copy::all(page + key_at + second::codes_bytes + row * key::group_bytes, to + key_constants_at,
                              rank());
    } else if (!c.is_end()) {
      const auto page_at = [&](int64 offset) {
        return [=, this](int t) { return view.page(slot, step.block(index, t / per_page)) + offset; };
      };
      latent_copy::some(c.low(), c.high(), c.begin, page_at(0), to, rank());
      latent_constants_copy::some(c.low(), c.high(), c.begin, page_at(first::codes_bytes), to + latent_constants_at,
                                  rank());
      key_copy::some(c.low(), c.high(), c.begin, page_at(key_at), to + latent::row_bytes, rank());
      key_constants_copy::some(c.low(), c.high(), c.begin, page_at(key_at + second::codes_bytes), to + key_constants_at,
                               rank());
    }
    commit_copies();
  }

  // ---- Queries into the stored space and to bytes, once: one warp per query.

  /// A stream's part of a folded query: chunks [Begin, ...) of the products' operands.
  /// Returns its scale.
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
        int* to = reinterpret_cast<int*>(shared + sum_at) + (Groups + g) * (queries * 4) + n % 8 * 4 + n / 8 * 2;
        to[0] = to[1] = signed_ones - 8 * total8;
        to[queries * 2] = to[queries * 2 + 1] = __float_as_int(total);
      }
    }
    return !is_finite_query ? quiet_nan() : top > 0 ? top / 127.0f : 1.0f;
  }

  __device__ void fold(const rows_view<const T>& q) const {
    const warp_team<> lanes;
    float* model_query = reinterpret_cast<float*>(stage(stages - 1)) + warp() * fold_floats;
    float* folded = model_query + Spec::query_width;
    const float unit = params.soft_cap > 0 ? params.scale : params.scale * 1.44269504f;
    for (int n = warp_index; n < queries; n += teams * team_warps) {
      for (int c = lane(); c < score_width; c += 32) folded[c] = 0;
      float shift = 0;
      if (n < count) {
        const T* source = q.at(step.row_indptr[index] + (query + n) / group(), head * group() + (query + n) % group());
        float x[ceil_div(Spec::query_width, 32)];
#pragma unroll
        for (int i = 0; i * 32 < Spec::query_width; ++i) {
          x[i] = i * 32 + lane() < Spec::query_width ? to_float(source[i * 32 + lane()]) : 0.0f;
        }
#pragma unroll
        for (int i = 0; i * 32 < Spec::query_width; ++i) {
          if (i * 32 + lane() < Spec::query_width) model_query[i * 32 + lane()] = x[i] * unit;
        }
        lanes.sync();
        shift = transform<first>::fold_query(model_query, folded, view.calibration.first(slot, head), lanes);
        shift += transform<second>::fold_query(model_query + first::model_width, folded + first::width,
                                               view.calibration.second(slot, head), lanes);
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

  __device__ int row_of(int i) const {
    return warp() * warp_rows + i / 2 * 8 + lane() % 4 * 2 + i % 2;
  }

  /// s += the part of one stream, in units of the query's scale. `codes`: this lane's row of matrices.
  template <class Rows, int Begin, int Groups>
  __device__ void score(const byte* codes, const float2 (&k)[4][Rows::groups], float (&s)[2][4]) const {
    const uint4* q = query_words() + Begin * 32 + lane();
    const float ones = __int_as_float(signed_ones);
    uint32 w[2][4];  // of a chunk and the next, for either block of rows: loaded one step ahead
    load_settled_matrices(w[0], codes);
    int loaded = 0;
#pragma unroll
    for (int g = 0; g < Rows::groups; ++g) {
      const int4 begin = query_sums()[(Groups + g) * queries + lane() / 4];
      int32 a[2][4] = {{begin.x, begin.y, begin.z, begin.w}, {begin.x, begin.y, begin.z, begin.w}};
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
            const uint32 codes_of_rows = w[loaded % 2][2 * b + i];
            multiply_add_signed(a[b], of_queries, codes_of_rows & 0x0f0f0f0fu, codes_of_rows >> 4 & 0x0f0f0f0fu);
          }
        }
        ++loaded;
      }
      const int4 sum = query_sums()[(Groups + g) * queries + queries / 2 + lane() / 4];
      const float sums[2] = {__int_as_float(sum.x), __int_as_float(sum.z)};
#pragma unroll
      for (int b = 0; b < 2; ++b) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float2 constants = k[2 * b + e % 2][g];
          s[b][e] += (__int_as_float(a[b][e]) - ones) * constants.x;
          s[b][e] += sums[e / 2] * constants.y;
        }
      }
    }
  }

  // ---- Sums of this warp's quarter of the channels: o[c][i][e] is of the query lane / 4 (e < 2) or 8 more, and
  // channel 32 c + 8 (lane % 4) + 4 (e % 2) + i of the quarter.
  using sums = float[warp_chunks][4][4];

  /// o += f * the products of a tile. `codes`: this lane's row of matrices, weights: [groups].
  __device__ void accumulate(const byte* codes, const byte* weights, const float (&f)[warp_chunks][2], sums& o) const {
    const uint4* of_group = reinterpret_cast<const uint4*>(weights) + lane();
    constexpr int steps = rows / 32;
    // 8 rows each: the halves of a register are rows 2 (lane % 4) and the next, 4 channels. Loaded one step ahead.
    uint32 next[4];
    load_settled_matrices<true>(next, codes);
    uint32 w[steps][4];
    float ones[2][2] = {};  // what is in the sums beside the products: for low and high nibbles
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
      }
      int32 a[4][4];
#pragma unroll
      for (int i = 0; i < 4; ++i) a[i][0] = a[i][1] = a[i][2] = a[i][3] = unsigned_ones;
#pragma unroll
      for (int r = 0; r < steps; ++r) {
        const uint32 x[4] = {next[0], next[1], next[2], next[3]};
        const int i = c * steps + r + 1;
        if (i < warp_chunks * steps) load_settled_matrices<true>(next, codes + i % steps * 32 * pitch + i / steps * 16);
        const uint32 even[2] = {__byte_perm(x[0], x[1], 0x6420), __byte_perm(x[2], x[3], 0x6420)};
        const uint32 odd[2] = {__byte_perm(x[0], x[1], 0x7531), __byte_perm(x[2], x[3], 0x7531)};
        // High nibbles stay where they are: 16 times the code.
        multiply_add_unsigned(a[0], w[r], even[0] & 0x0f0f0f0fu, even[1] & 0x0f0f0f0fu);
        multiply_add_unsigned(a[1], w[r], even[0] & 0xf0f0f0f0u, even[1] & 0xf0f0f0f0u);
        multiply_add_unsigned(a[2], w[r], odd[0] & 0x0f0f0f0fu, odd[1] & 0x0f0f0f0fu);
        multiply_add_unsigned(a[3], w[r], odd[0] & 0xf0f0f0f0u, odd[1] & 0xf0f0f0f0u);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float factor = i % 2 == 0 ? f[c][e / 2] : f[c][e / 2] * 0.0625f;
          o[c][i][e] += factor * (__int_as_float(a[i][e]) - ones[e / 2][i % 2]);
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

  /// The largest scale of each group among the warp's rows; returns the largest of all.
  __device__ uint32 put_scale_tops(const float2 (&k)[4][latent::groups], uint32* scale_tops) const {
    uint32 of_all = 0;
#pragma unroll
    for (int g = 0; g < latent::groups; ++g) {
      const uint32 low = max(__float_as_uint(k[0][g].x), __float_as_uint(k[1][g].x));
      const uint32 high = max(__float_as_uint(k[2][g].x), __float_as_uint(k[3][g].x));
      const uint32 top = __reduce_max_sync(~0u, max(low, high));
      if (lane() == 0) scale_tops[g * team_warps + warp()] = top;
      of_all = max(of_all, top);
    }
    return of_all;
  }
  static __device__ float scale_top(const uint32* scale_tops, int g) {
    const uint4 top = *reinterpret_cast<const uint4*>(scale_tops + g * team_warps);
    return __uint_as_float(max(max(top.x, top.y), max(top.z, top.w)));
  }

  __device__ void run(const rows_view<const T>& q, int split, int splits, const attend_results& results) const;
  __device__ void finish(int split, int splits, const float (&m)[2], const float (&own_m)[2], const float (&l)[2],
                         const float (&middles)[latent::groups][2], const sums& o, const attend_results& results) const;
};

template <class Spec, class T>
__device__ void byte_block<Spec, T>::run(const rows_view<const T>& q, int split, int splits,
                                         const attend_results& results) const {
  const float minus_infinity = -infinity();
  const span_finder<Spec, rows> find{position(0), position(count - 1), params.window};
  if (threadIdx.x == 0) find.find(split, splits, spans());
  __syncthreads();

  cursor c = at_span(0);
  skip(c, team());
  cursor ahead = c;
  for (int i = 0; i < stages - 1; ++i) {
    find_page(ahead);
    issue(ahead, stage(i));
    skip(ahead, teams);
  }
  find_page(ahead);
  fold(q);
  const row_range all = find.seen_by_all();
  const int seen_begin = static_cast<int>(all.begin);
  const int seen_end = static_cast<int>(all.end);

  // Thresholds of this thread's rows: bits of the row's number, reversed.
  float thresholds[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32 reversed = __brev(static_cast<uint32>(row_of(i))) >> 28;
    thresholds[i] = 32768.0f + (static_cast<float>(reversed) + 0.5f) / 16.0f;
  }

  sums o = {};
  // Of queries lane / 4 and 8 more: maxima so far, in units of log 2, over the team's rows, and over this warp's, with
  // what this thread's rows add up to.
  float m[2] = {minus_infinity, minus_infinity};
  float own_m[2] = {minus_infinity, minus_infinity};
  float l[2] = {};
  float middles[latent::groups][2] = {};
  float* tops = reinterpret_cast<float*>(team_memory() + tops_at);
  uint32* scale_tops = reinterpret_cast<uint32*>(team_memory() + scale_tops_at);
  byte* weights = team_memory() + weights_at;

  // Matrices are loaded by rows: of scores, two chunks of two blocks of rows; of values, four blocks of rows.
  const int score_offset = (warp() * warp_rows + lane() / 16 * 8 + lane() % 8) * pitch + lane() / 8 % 2 * 16;
  const int value_offset = lane() * pitch + warp() * warp_chunks * 16;

  wait_copies<stages - 2>();
  __syncthreads();  // the queries are there, and the first tile
  int current = 0;
#pragma unroll 1
  for (; !c.is_end(); skip(c, teams)) {
    const byte* staged = stage(current);
    const bool whole = c.begin >= seen_begin && c.begin + rows <= seen_end && c.low() == 0 && c.high() == rows;

    float s[2][4] = {};
    {
      float2 k[4][key::groups];
#pragma unroll
      for (int i = 0; i < 4; ++i) key::constants(staged + key_constants_at + row_of(i) * key::group_bytes, k[i]);
      score<key, latent::chunks, latent::groups>(staged + latent::row_bytes + score_offset, k, s);
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) {  // in units of the latent's query
      const float2 unit = key_units()[lane() / 4 + e / 2 * 8];
      s[0][e] = s[0][e] * unit.x + unit.y;
      s[1][e] = s[1][e] * unit.x + unit.y;
    }
    float2 k[4][latent::groups];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      latent::constants(staged + latent_constants_at + row_of(i) * latent::group_bytes, k[i]);
    }
    score<latent, 0, 0>(staged + score_offset, k, s);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const float unit = units()[lane() / 4 + e / 2 * 8];
      s[0][e] *= unit;
      s[1][e] *= unit;
    }
    if (params.soft_cap > 0) {
      const float inverse = 1 / params.soft_cap;
      for (int b = 0; b < 2; ++b) {
        for (int e = 0; e < 4; ++e) s[b][e] = params.soft_cap * 1.44269504f * tanh_of(s[b][e] * inverse);
      }
    }
    if (!whole) {
      const int low = c.low();
      const int high = c.high();
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = row_of(i);
        const bool exists = row >= low && row < high;  // else memory is anything
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int4 v = visible()[lane() / 4 + 8 * h];
          const int t = c.begin + row;
          const bool sees = (t >= v.x && t < v.y) || (t >= v.z && t < v.w);
          if (!exists || !sees) s[i / 2][2 * h + i % 2] = minus_infinity;
        }
#pragma unroll
        for (int g = 0; g < latent::groups; ++g) {
          if (!exists) k[i][g] = make_float2(0, 0);
        }
      }
    }
    // Scales are not negative: ordered as their bits, and NaN is the largest. A row that has one is NaN for queries
    // that see it, by its score; to others it must not matter.
    if (put_scale_tops(k, scale_tops) >= 0x7f800000u) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int g = 0; g < latent::groups; ++g) {
          if (!is_finite(k[i][g].x)) k[i][g] = make_float2(0, 0);
        }
      }
      put_scale_tops(k, scale_tops);
    }
    float own_factor[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float top = fmaxf(fmaxf(s[0][2 * h], s[0][2 * h + 1]), fmaxf(s[1][2 * h], s[1][2 * h + 1]));
      top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
      top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
      if (lane() % 4 == 0) tops[(lane() / 4 + 8 * h) * team_warps + warp()] = top;
      const float next = fmaxf(own_m[h], top);
      const float base = next == minus_infinity ? 0.0f : next;
      own_factor[h] = next > own_m[h] ? exp2_of(own_m[h] - next) : 1.0f;
      own_m[h] = next;
      float sum = 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float& p = s[i / 2][2 * h + i % 2];
        p = exp2_of(p - base);
        sum += p;
      }
      l[h] = l[h] * own_factor[h] + sum;
#pragma unroll
      for (int g = 0; g < latent::groups; ++g) {
        float x = middles[g][h] * own_factor[h];
#pragma unroll
        for (int i = 0; i < 4; ++i) x += s[i / 2][2 * h + i % 2] * k[i][g].y;
        middles[g][h] = x;
      }
    }
    team_sync();  // the maxima are there; weights and the oldest stage are free
    issue(ahead, stage(current == 0 ? stages - 1 : current - 1));
    skip(ahead, teams);
    find_page(ahead);

    float part[2];    // what this tile's weights are worth
    float factor[2];  // and those before it
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float4 top = *reinterpret_cast<const float4*>(tops + (lane() / 4 + 8 * h) * team_warps);
      const float tile_top = fmaxf(fmaxf(top.x, top.y), fmaxf(top.z, top.w));
      const float next = fmaxf(m[h], tile_top);
      factor[h] = next > m[h] ? exp2_of(m[h] - next) : 1.0f;
      part[h] = tile_top == next ? 1.0f : exp2_of(tile_top - next);
      m[h] = next;
      // From the warp's maximum to the tile's, where weights are largest; without overflow.
      const float ratio = tile_top == own_m[h] || own_m[h] == minus_infinity || tile_top == minus_infinity
                              ? 1.0f
                              : exp2_of(fminf(own_m[h] - tile_top, 126.0f));
#pragma unroll
      for (int i = 0; i < 4; ++i) s[i / 2][2 * h + i % 2] *= ratio;
    }
#pragma unroll
    for (int g = 0; g < latent::groups; ++g) {
      const float top = scale_top(scale_tops, g);
      const float inverse = top > 0 ? reciprocal_of(top) * 255.0f : 0.0f;
      uint2 words;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float y[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) y[i] = s[i / 2][2 * h + i % 2] * (k[i][g].x * inverse) + thresholds[i];
        (h == 0 ? words.x : words.y) = pack_weights(y);
      }
      *reinterpret_cast<uint2*>(weights + g * weight_bytes + warp() / 2 * 512 + lane() * 16 + warp() % 2 * 8) = words;
    }
    if (__any_sync(~0u, factor[0] != 1.0f || factor[1] != 1.0f)) {
#pragma unroll
      for (int j = 0; j < warp_chunks; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
          for (int e = 0; e < 4; ++e) o[j][i][e] *= factor[e / 2];
        }
      }
    }
    float f[warp_chunks][2];
#pragma unroll
    for (int j = 0; j < warp_chunks; ++j) {
      if (j > 0 && one_group) {
        f[j][0] = f[0][0];
        f[j][1] = f[0][1];
        continue;
      }
      const float scale = scale_top(scale_tops, (warp() * warp_chunks + j) / latent::group_chunks) * (1 / 255.0f);
      f[j][0] = part[0] * scale;
      f[j][1] = part[1] * scale;
    }
    wait_copies<stages - 2>();
    team_sync();  // the weights are there, and the next tile
    accumulate(staged + value_offset, weights, f, o);
    current = current + 1 == stages ? 0 : current + 1;
  }
  wait_copies<0>();
  finish(split, splits, m, own_m, l, middles, o, results);
}

template <class Spec, class T>
__device__ void byte_block<Spec, T>::finish(int split, int splits, const float (&m)[2], const float (&own_m)[2],
                                            const float (&l)[2], const float (&middles)[latent::groups][2],
                                            const sums& o, const attend_results& results) const {
  constexpr float ln2 = 0.693147181f;
  const auto over_rows = [](float x) {
    x += __shfl_xor_sync(~0u, x, 1);
    return x + __shfl_xor_sync(~0u, x, 2);
  };
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float* to = result(team(), warp(), lane() / 4 + 8 * h);
    const float sum = over_rows(l[h]);
    if (lane() % 4 == 0) to[0] = m[h], to[1] = own_m[h], to[2] = sum;
#pragma unroll
    for (int g = 0; g < latent::groups; ++g) {
      const float middle = over_rows(middles[g][h]);
      if (lane() % 4 == 0) to[3 + g] = middle;
    }
  }
  __syncthreads();  // results are there, stages are free

  // Shares in units of the largest maximum; who has no rows has none.
  const auto largest = [&](int n) {
    float top = result(0, 0, n)[0];
    for (int t = 1; t < teams; ++t) top = fmaxf(top, result(t, 0, n)[0]);
    return top;
  };
  const auto share_of = [](float m, float top) { return m == top ? 1.0f : exp2_of(m - top); };
  float* total = reinterpret_cast<float*>(shared + team_at);
  float* own_total = total + team() * queries * sum_pitch;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int n = lane() / 4 + 8 * h;
    const float share = share_of(m[h], largest(n));
#pragma unroll
    for (int j = 0; j < warp_chunks; ++j) {
#pragma unroll
      for (int b = 0; b < 2; ++b) {
        *reinterpret_cast<float4*>(own_total + n * sum_pitch + (warp() * warp_chunks + j) * 32 + lane() % 4 * 8 +
                                   4 * b) = make_float4(o[j][0][2 * h + b] * share, o[j][1][2 * h + b] * share,
                                                        o[j][2][2 * h + b] * share, o[j][3][2 * h + b] * share);
      }
    }
  }
  __syncthreads();

  const bool direct = is_direct<Spec>(splits);
  for (int n = warp_index; n < count; n += teams * team_warps) {
    const int64 row = step.row_indptr[index] + (query + n) / group();
    const int query_head = head * group() + (query + n) % group();
    const int64 at = (row * view.model.query_heads + query_head) * splits + split;
    const float top = largest(n);
    softmax_state state{top * ln2, 0};
    float middle[latent::groups] = {};
    for (int w = 0; w < teams * team_warps; ++w) {
      const float* from = result(0, w, n);
      const float share = share_of(from[1], top);
      state.l += from[2] * share;
#pragma unroll
      for (int g = 0; g < latent::groups; ++g) middle[g] += from[3 + g] * share;
    }
    float* to = results.o + at * attend_shape<Spec>::value_pitch;
    float factor = 1;
    if (direct) {  // no other split, and the stored space is the model's
      to = results.out.at(row, query_head);
      if (params.sink_logits != nullptr) state.push(params.sink_logits[query_head], factor);
      factor = state.l == 0 ? 0.0f : factor / state.l;
    }
    if (lane() == 0) {
      if (!direct) {
        results.states[2 * at] = state.m;
        results.states[2 * at + 1] = state.l;
      } else if (results.lse != nullptr) {
        results.lse[at] = state.lse();
      }
    }
#pragma unroll
    for (int c = 0; c < latent::chunks; ++c) {
      const int channel = 32 * c + lane();
      float x = middle[c / latent::group_chunks];
#pragma unroll
      for (int t = 0; t < teams; ++t) x += total[(t * queries + n) * sum_pitch + channel];
      to[channel] = x * factor;
    }
  }
}

/// grid: (sequences x stored heads x query blocks, splits).
template <class Spec, class T>
KVC_KERNEL void __launch_bounds__(byte_block<Spec, T>::threads, 1)
    attend_bytes_kernel(cache_view<Spec> view, step_view step, int slot, int query_blocks, rows_view<const T> q,
                        attend_params params, attend_results results) {
  extern __shared__ __align__(16) byte shared[];
  const int heads = view.model.stored_heads();
  const int block = static_cast<int>(blockIdx.x) % query_blocks;
  const int head = static_cast<int>(blockIdx.x) / query_blocks % heads;
  const int index = static_cast<int>(blockIdx.x) / query_blocks / heads;
  constexpr int queries = byte_block<Spec, T>::queries;
  const int64 left = step.rows(index) * view.model.group() - static_cast<int64>(block) * queries;
  if (left <= 0) return;
  // Through a shuffle: the compiler knows that all lanes of a warp have the same.
  const int warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0);
  const byte_block<Spec, T> work{view,   step, params,          index,
                                 slot,   head, block * queries, static_cast<int>(min_of<int64>(left, queries)),
                                 shared, warp};
  work.run(q, static_cast<int>(blockIdx.y), static_cast<int>(gridDim.y), results);
}

}  // namespace kvc::inline v0_1::cuda::detail
