// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/attention/mask.hpp"
#include "kvc/attention/params.hpp"
#include "kvc/cuda/attend_plan.hpp"
#include "kvc/cuda/attend_tile.cuh"

// Attention of a block of queries over a share of one sequence's rows, from the compressed form, on tensor cores.
//
//   scores  S [rows][queries]      = K [rows][channels] Q^T            rows on the 16-side of the product, queries on
//   weights P                      = exp(scale S - max)                the 8-side: few queries waste little
//   sums    O [channels][queries] += V^T [channels][rows] P
//
// A thread block owns Queries queries that share a stored head (query rows x group) and walks over its tiles:
//
//   codes of the next tiles on their way to shared memory (staged)
//   decode keys -> bf16 tile | scores, maxima | decode values -> the same tile | sums
//
// A latent cache decodes once: the latent serves as keys and values. Rows that are exact (first rows, open tail) are
// tiles of their own: a tile has one source per stream, and a mask takes care that every query sees each row once, from
// the source that its own length names.

namespace kvc::inline v0_1::cuda::detail {

/// Where the rows of a tile are read from.
struct tile_source {
  bool first_exact;
  bool second_exact;
};

/// Consecutive rows that a block visits.
struct tile_span {
  int64 begin;
  int64 end;
  tile_source source;
};

template <class Spec, int Queries>
struct attend_layout {
  using shape = attend_shape<Spec>;
  static constexpr int rows = shape::tile_rows;
  static constexpr int limbs = shape::limbs;
  using first_tile = device_tile<Spec, true, true, rows, limbs>;
  using second_tile = device_tile<Spec, false, Spec::is_latent, rows, limbs>;

  static constexpr int row_blocks = rows / 16;
  static constexpr int query_blocks = Queries / 8;
  static constexpr int warp_stride = warps / row_blocks;  ///< warps that share a block of rows
  static constexpr int warp_queries = ceil_div(query_blocks, warp_stride);
  static constexpr int value_blocks = shape::value_pitch / 16;
  static constexpr int warp_values = ceil_div(value_blocks, warps);

  // Strides in elements; an odd number of 16-byte slots each.
  static constexpr int query_stride = shape::score_pitch + 8;
  static constexpr int tile_stride = shape::tile_pitch + 8;
  static constexpr int weight_stride = Queries + (query_blocks % 2 == 0 ? 8 : 16);

  static constexpr int stage_bytes = first_tile::shape::stage_bytes + second_tile::shape::stage_bytes;
  static constexpr int stages = stage_bytes > 12288 ? 2 : 3;

  // Shared memory, in bytes.
  static constexpr int query_at = 0;
  static constexpr int tile_at = query_at + limbs * Queries * query_stride * 2;
  static constexpr int weight_at = tile_at + limbs * rows * tile_stride * 2;
  static constexpr int stage_at = weight_at + limbs * rows * weight_stride * 2;
  static constexpr int maxima_at = stage_at + stages * stage_bytes;
  static constexpr int shift_at = maxima_at + row_blocks * Queries * 4;
  static constexpr int span_at = shift_at + Queries * 4;
  static constexpr int bytes = span_at + 9 * static_cast<int>(sizeof(tile_span));

  // Queries are folded in fp32 where the tiles will lie.
  static constexpr int fold_floats = Spec::query_width + shape::score_pitch;
  static_assert(warps * fold_floats * 4 <= stage_at - tile_at + stages * stage_bytes);
};

template <class Spec, class T, int Queries>
struct attend_block {
  using shape = attend_shape<Spec>;
  using layout = attend_layout<Spec, Queries>;
  using first = typename Spec::first_stream;
  using second = typename Spec::second_stream;
  using tokens = typename Spec::tokens_policy;

  const cache_view<Spec>& view;
  const step_view& step;
  const attend_params& params;
  int index;  ///< of the sequence in the step
  int slot;
  int head;   ///< stored
  int query;  ///< first of the block, counted over query rows x group
  int count;  ///< of queries that exist
  byte* shared;

  __device__ int group() const { return view.model.group(); }
  __device__ int64 position(int n) const { return step.seq_lens[index] + (query + n) / group(); }
  __device__ int64 earliest() const { return position(0); }
  __device__ int64 latest() const { return position(count - 1); }

  __device__ uint16* queries(int limb) const {
    return reinterpret_cast<uint16*>(shared + layout::query_at) + limb * Queries * layout::query_stride;
  }
  __device__ uint16* tile(int limb) const {
    return reinterpret_cast<uint16*>(shared + layout::tile_at) + limb * layout::rows * layout::tile_stride;
  }
  __device__ uint16* weights(int limb) const {
    return reinterpret_cast<uint16*>(shared + layout::weight_at) + limb * layout::rows * layout::weight_stride;
  }
  __device__ byte* stage(int i) const { return shared + layout::stage_at + i * layout::stage_bytes; }
  __device__ float* maxima() const { return reinterpret_cast<float*>(shared + layout::maxima_at); }
  __device__ float* shifts() const { return reinterpret_cast<float*>(shared + layout::shift_at); }
  __device__ tile_span* spans() const { return reinterpret_cast<tile_span*>(shared + layout::span_at); }

  __device__ const float* first_constants() const {
    return view.calibration.data == nullptr ? nullptr : view.calibration.first(slot, head);
  }
  __device__ const float* second_constants() const {
    return view.calibration.data == nullptr ? nullptr : view.calibration.second(slot, head);
  }

  // ---- Queries into the stored space, once: one warp per query.

  __device__ void fold(const rows_view<const T>& q) const {
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    float* model_query = reinterpret_cast<float*>(shared + layout::tile_at) + warp * layout::fold_floats;
    float* folded = model_query + Spec::query_width;
    for (int n = warp; n < Queries; n += warps) {
      for (int c = lane; c < shape::score_pitch; c += 32) folded[c] = 0;
      if (n < count) {
        const T* source = q.at(step.row_indptr[index] + (query + n) / group(), head * group() + (query + n) % group());
        for (int c = lane; c < Spec::query_width; c += 32) model_query[c] = to_float(source[c]);
        __syncwarp();
        if (lane == 0) {
          float shift = transform<first>::fold_query(model_query, folded, first_constants());
          if constexpr (Spec::is_latent) {
            shift += transform<second>::fold_query(model_query + first::model_width, folded + shape::first_pitch,
                                                   second_constants());
          }
          shifts()[n] = shift;
        }
      } else if (lane == 0) {
        shifts()[n] = 0;
      }
      __syncwarp();
      place<shape::first_pitch>(folded, 0, n, lane);
      if constexpr (Spec::is_latent)
        place<shape::second_pitch>(folded + shape::first_pitch, shape::first_pitch, n, lane);
      __syncwarp();
    }
  }
  template <int Pitch>
  __device__ void place(const float* folded, int begin, int n, int lane) const {
    for (int s = lane; s < Pitch / 8; s += 32) {
      const float* x = folded + slots<Pitch / 16>::channel(s);
      for (int i = 0; i < 4; ++i) {
        const uint32 high = pack_bf16(x[2 * i], x[2 * i + 1]);
        const int at = n * layout::query_stride + begin + 8 * s + 2 * i;
        *reinterpret_cast<uint32*>(queries(0) + at) = high;
        if constexpr (layout::limbs == 2) {
          *reinterpret_cast<uint32*>(queries(1) + at) = pack_rest(x[2 * i], x[2 * i + 1], high);
        }
      }
    }
  }

  // ---- Which rows: spans with one source per stream, those of sealed rows dealt to the splits.

  __device__ void find_spans(int split, int splits) const {
    const int64 shortest = earliest() + 1;
    const int64 longest = latest() + 1;
    const visible_rows v = visible_at(earliest(), tokens::sinks, tokens::window, params.window);
    const int64 sealed = min_of(first::seal_boundary(longest), second::seal_boundary(longest));
    int n = 0;
    const auto add = [&](int64 begin, int64 end, tile_source source) {
      if (begin < end) spans()[n++] = {begin, end, source};
    };

    // Sealed rows: the sinks, where a gap parts them from the newest rows, and the rest. A split takes whole tiles.
    int64 begin = v.recent.begin;
    int64 sinks_begin = 0;
    int64 sinks_end = 0;
    if (!v.sinks.empty()) {
      if (begin <= tokens::sinks) {
        begin = v.sinks.begin;
      } else {
        sinks_begin = max_of<int64>(v.sinks.begin, ends);
        sinks_end = min_of<int64>(tokens::sinks, sealed);
      }
    }
    begin = max_of<int64>(begin, ends);
    const int64 sink_tiles = tiles_of(sinks_begin, sinks_end);
    const int64 tiles = sink_tiles + tiles_of(begin, sealed);
    const int64 from = tiles * split / splits;
    const int64 to = tiles * (split + 1) / splits;
    add(clip(sinks_begin, sinks_end, from), clip(sinks_begin, sinks_end, to), {false, false});
    add(clip(begin, sealed, from - sink_tiles), clip(begin, sealed, to - sink_tiles), {false, false});

    // The others are few, the last split takes them: first rows [0, ends), and what is open for any of the queries.
    if (Spec::has_tail && split == splits - 1) {
      const int64 open = max_of<int64>(ends, min_of(first::has_ring ? first::seal_boundary(shortest) : longest,
                                                    second::has_ring ? second::seal_boundary(shortest) : longest));
      add_exact<true, true>(add, longest, open);
      add_exact<true, false>(add, longest, open);
      add_exact<false, true>(add, longest, open);
    }
    spans()[n] = {0, 0, {}};
  }
  /// Rows that a stream can hold exactly without a ring; those of the stream that has more.
  static constexpr int ends = max_of(first::first_rows, second::first_rows);
  static constexpr bool same_boundaries =
      first::newest_rows == second::newest_rows && first::tokens_per_group == second::tokens_per_group;

  template <bool FirstExact, bool SecondExact, class Add>
  __device__ static void add_exact(const Add& add, int64 longest, int64 open) {
    constexpr auto at_start = [](bool exact, int rows, bool ring) { return exact ? rows > 0 || ring : rows < ends; };
    if constexpr (at_start(FirstExact, first::first_rows, first::has_ring) &&
                  at_start(SecondExact, second::first_rows, second::has_ring)) {
      add(0, min_of<int64>(ends, longest), {FirstExact, SecondExact});
    }
    if constexpr ((first::has_ring || !FirstExact) && (second::has_ring || !SecondExact) &&
                  (FirstExact == SecondExact || !same_boundaries)) {
      add(open, longest, {FirstExact, SecondExact});
    }
  }

  __device__ static int64 tiles_of(int64 begin, int64 end) {
    return begin >= end ? 0 : ceil_div<int64>(end, layout::rows) - begin / layout::rows;
  }
  /// The row at which tile n of a span begins.
  __device__ static int64 clip(int64 begin, int64 end, int64 n) {
    if (n <= 0) return begin;
    return max_of(begin, min_of(end, (begin / layout::rows + n) * layout::rows));
  }

  /// Whether query n sees row t through this tile.
  __device__ bool sees(int n, int64 t, tile_source source) const {
    const int64 at = position(n);
    const visible_rows v = visible_at(at, tokens::sinks, tokens::window, params.window);
    const bool visible = (t >= v.sinks.begin && t < v.sinks.end) || (t >= v.recent.begin && t < v.recent.end);
    const bool first_exact = t < first::first_rows || t >= first::seal_boundary(at + 1);
    const bool second_exact = t < second::first_rows || t >= second::seal_boundary(at + 1);
    return visible && first_exact == source.first_exact && second_exact == source.second_exact;
  }
  /// Whether all queries see the whole tile through it.
  __device__ bool is_whole(int64 begin, tile_source source) const {
    const int64 end = begin + layout::rows;
    const int64 sealed = min_of(first::seal_boundary(earliest() + 1), second::seal_boundary(earliest() + 1));
    const int64 oldest = visible_at(latest(), tokens::sinks, tokens::window, params.window).recent.begin;
    return !source.first_exact && !source.second_exact && end <= sealed && begin >= oldest && begin >= ends;
  }

  // ---- Products.

  /// The j-th block of 8 queries of those that a warp scores.
  __device__ static int query_block(int warp, int j) {
    return layout::warp_stride == 1 ? j : warp / layout::row_blocks + j * layout::warp_stride;
  }

  /// Scores of this warp's block of 16 rows and its blocks of 8 queries.
  __device__ void score(float (&s)[layout::warp_queries][4]) const {
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int row = warp % layout::row_blocks * 16 + lane % 16;
    for (int j = 0; j < layout::warp_queries; ++j) {
      for (int i = 0; i < 4; ++i) s[j][i] = 0;
    }
#pragma unroll
    for (int limb = 0; limb < (layout::limbs == 2 ? 3 : 1); ++limb) {  // high x high, rest x high, high x rest
      const uint16* k = tile(limb == 1 ? 1 : 0) + row * layout::tile_stride + lane / 16 * 8;
      const uint16* q = queries(limb == 2 ? 1 : 0) + lane % 8 * layout::query_stride + lane / 8 * 8;
#pragma unroll 4
      for (int c = 0; c < shape::score_pitch; c += 32) {
        const bool pair = c + 16 < shape::score_pitch;
        uint32 a[2][4];
        load_matrices(a[0], k + c);
        if (pair) load_matrices(a[1], k + c + 16);
#pragma unroll
        for (int j = 0; j < layout::warp_queries; ++j) {
          const int block = query_block(warp, j);
          if (layout::query_blocks % layout::warp_stride != 0 && block >= layout::query_blocks) continue;
          uint32 b[4];
          load_matrices(b, q + block * 8 * layout::query_stride + (pair ? c : c - (lane / 16) * 16));
          multiply_add(s[j], a[0], b[0], b[1]);
          if (pair) multiply_add(s[j], a[1], b[2], b[3]);
        }
      }
    }
  }

  /// Adds the tile's weighted values to this warp's blocks of 16 channels.
  __device__ void accumulate(float (&o)[layout::warp_values][layout::query_blocks][4]) const {
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int limb = 0; limb < (layout::limbs == 2 ? 3 : 1); ++limb) {
      const uint16* v = tile(limb == 1 ? 1 : 0) + (lane % 8 + lane / 16 * 8) * layout::tile_stride + lane / 8 % 2 * 8;
      const uint16* p = weights(limb == 2 ? 1 : 0) + (lane % 16) * layout::weight_stride + lane / 16 * 8;
#pragma unroll
      for (int r = 0; r < layout::rows; r += 16) {
        uint32 b[layout::query_blocks + 1][2];
#pragma unroll
        for (int j = 0; j < layout::query_blocks; j += 2) {
          uint32 two[4];
          load_matrices_transposed(two, p + r * layout::weight_stride + j * 8);
          b[j][0] = two[0], b[j][1] = two[1];
          b[j + 1][0] = two[2], b[j + 1][1] = two[3];
        }
#pragma unroll
        for (int i = 0; i < layout::warp_values; ++i) {
          const int block = warp + i * warps;
          if (layout::value_blocks % warps != 0 && block >= layout::value_blocks) continue;
          uint32 a[4];
          load_matrices_transposed(a, v + r * layout::tile_stride + block * 16);
#pragma unroll
          for (int j = 0; j < layout::query_blocks; ++j) multiply_add(o[i][j], a, b[j][0], b[j][1]);
        }
      }
    }
  }

  /// The same, row by row, for a tile that hides rows from some queries and has values that are not finite: a product
  /// with weight zero would carry their NaN to queries that do not see them. Hidden rows have weight -0.
  __device__ void accumulate_seen(float (&o)[layout::warp_values][layout::query_blocks][4]) const {
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    for (int r = 0; r < layout::rows; ++r) {
      const uint16* v = tile(0) + r * layout::tile_stride;
#pragma unroll
      for (int i = 0; i < layout::warp_values; ++i) {
        const int block = warp + i * warps;
        if (block >= layout::value_blocks) continue;
#pragma unroll
        for (int j = 0; j < layout::query_blocks; ++j) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const uint16 p = weights(0)[r * layout::weight_stride + j * 8 + lane % 4 * 2 + e % 2];
            if (p == 0x8000u) continue;
            const int at = block * 16 + e / 2 * 8 + lane / 4;
            float weight = bf16{p}.value();
            float value = bf16{v[at]}.value();
            if constexpr (layout::limbs == 2) {
              weight += bf16{weights(1)[r * layout::weight_stride + j * 8 + lane % 4 * 2 + e % 2]}.value();
              value += bf16{v[layout::rows * layout::tile_stride + at]}.value();
            }
            o[i][j][e] += weight * value;
          }
        }
      }
    }
  }

  __device__ bool has_not_finite() const {
    bool found = false;
    for (int i = static_cast<int>(threadIdx.x); i < layout::rows * shape::value_pitch; i += threads) {
      const uint16 bits = tile(0)[i / shape::value_pitch * layout::tile_stride + i % shape::value_pitch];
      found |= (bits & 0x7f80u) == 0x7f80u;
    }
    return found;
  }

  // ---- The walk.

  struct cursor {
    int span;
    int64 begin;  ///< of the tile, a multiple of its rows
  };
  __device__ cursor start() const {
    return {0, spans()[0].begin / layout::rows * layout::rows};
  }
  __device__ bool is_end(const cursor& c) const {
    return spans()[c.span].begin >= spans()[c.span].end;
  }
  __device__ void advance(cursor& c) const {
    c.begin += layout::rows;
    if (c.begin < spans()[c.span].end) return;
    ++c.span;
    c.begin = spans()[c.span].begin / layout::rows * layout::rows;
  }
  __device__ int low(const cursor& c) const {
    return static_cast<int>(max_of<int64>(spans()[c.span].begin - c.begin, 0));
  }
  __device__ int high(const cursor& c) const {
    return static_cast<int>(min_of<int64>(spans()[c.span].end - c.begin, layout::rows));
  }

  __device__ void run(const rows_view<const T>& q, int split, int splits, float* partial_o, float* partial_state,
                      int64 partial_stride) const {
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const stream_rows<Spec, true> first_rows(view, step, index, slot, head);
    const stream_rows<Spec, false> second_rows(view, step, index, slot, head);
    constexpr float log2e = 1.44269504f;
    const float minus_infinity = -infinity();

    if (threadIdx.x == 0) find_spans(split, splits);
    fold(q);
    __syncthreads();

    const auto issue = [&](const cursor& c, int into) {
      if (!is_end(c)) {
        const tile_source source = spans()[c.span].source;
        if (!source.first_exact) layout::first_tile::stage(first_rows, c.begin, low(c), high(c), stage(into));
        if (!source.second_exact) {
          layout::second_tile::stage(second_rows, c.begin, low(c), high(c),
                                     stage(into) + layout::first_tile::shape::stage_bytes);
        }
      }
      commit_copies();
    };

    float o[layout::warp_values][layout::query_blocks][4] = {};
    float m[layout::query_blocks][2];
    float l[layout::warp_queries][2] = {};
#pragma unroll
    for (int j = 0; j < layout::query_blocks; ++j) m[j][0] = m[j][1] = minus_infinity;

    cursor ahead = start();
    for (int i = 0; i < layout::stages - 1; ++i) {
      issue(ahead, i);
      if (!is_end(ahead)) advance(ahead);
    }
    int current = 0;
    for (cursor c = start(); !is_end(c); advance(c)) {
      const tile_source source = spans()[c.span].source;
      wait_copies<layout::stages - 2>();
      __syncthreads();  // the codes are there; the tile, the weights and the oldest stage are free
      issue(ahead, (current + layout::stages - 1) % layout::stages);
      if (!is_end(ahead)) advance(ahead);

      const byte* staged = stage(current);
      current = (current + 1) % layout::stages;
      constexpr int limb_stride = layout::rows * layout::tile_stride;
      layout::first_tile::decode(first_rows, c.begin, low(c), high(c), source.first_exact, staged, first_constants(),
                                 params.rotary, tile(0), layout::tile_stride, limb_stride);
      const auto decode_second = [&](uint16* to) {
        layout::second_tile::decode(second_rows, c.begin, low(c), high(c), source.second_exact,
                                    staged + layout::first_tile::shape::stage_bytes, second_constants(), params.rotary,
                                    to, layout::tile_stride, limb_stride);
      };
      if constexpr (Spec::is_latent) decode_second(tile(0) + shape::first_pitch);
      __syncthreads();  // the tile is there

      float s[layout::warp_queries][4];
      score(s);
      const bool whole = is_whole(c.begin, source) && low(c) == 0 && high(c) == layout::rows;
      const int row = warp % layout::row_blocks * 16 + lane / 4;
      uint32 hidden = 0;  // bit 4 j + i: s[j][i]
#pragma unroll
      for (int j = 0; j < layout::warp_queries; ++j) {
        const int n = (query_block(warp, j)) * 8 + lane % 4 * 2;
        if (n >= Queries) continue;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          s[j][i] = params.scale * (s[j][i] + shifts()[n + i % 2]);
          if (params.soft_cap > 0) s[j][i] = params.soft_cap * tanh_of(s[j][i] / params.soft_cap);
          if (!whole) {
            const int r = row + i / 2 * 8;
            if (r < low(c) || r >= high(c) || !sees(min_of(n + i % 2, count - 1), c.begin + r, source)) {
              hidden |= 1u << (4 * j + i);
              s[j][i] = minus_infinity;
            }
          }
        }
        float top[2] = {fmaxf(s[j][0], s[j][2]), fmaxf(s[j][1], s[j][3])};
#pragma unroll
        for (int x = 4; x < 32; x *= 2) {
          top[0] = fmaxf(top[0], __shfl_xor_sync(~0u, top[0], x));
          top[1] = fmaxf(top[1], __shfl_xor_sync(~0u, top[1], x));
        }
        if (lane < 4) {
          *reinterpret_cast<float2*>(maxima() + warp % layout::row_blocks * Queries + n) = make_float2(top[0], top[1]);
        }
      }
      __syncthreads();  // the maxima are there; keys are no longer needed

      float factor[layout::query_blocks][2];
#pragma unroll
      for (int j = 0; j < layout::query_blocks; ++j) {
        float next[2] = {m[j][0], m[j][1]};
#pragma unroll
        for (int b = 0; b < layout::row_blocks; ++b) {
          const float2 top = *reinterpret_cast<const float2*>(maxima() + b * Queries + j * 8 + lane % 4 * 2);
          next[0] = fmaxf(next[0], top.x);
          next[1] = fmaxf(next[1], top.y);
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          factor[j][i] = next[i] > m[j][i] ? exp2_of((m[j][i] - next[i]) * log2e) : 1.0f;
          m[j][i] = next[i];
        }
      }
#pragma unroll
      for (int j = 0; j < layout::warp_queries; ++j) {
        const int block = query_block(warp, j);
        if (block >= layout::query_blocks) continue;
        float p[4];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float top = pick(m, j, block, i);
          const float base = top == minus_infinity ? 0.0f : top * log2e;
          p[i] = exp2_of(s[j][i] * log2e - base);
          p[i + 2] = exp2_of(s[j][i + 2] * log2e - base);
          l[j][i] = l[j][i] * pick(factor, j, block, i) + p[i] + p[i + 2];
        }
        put_weights(p, hidden >> (4 * j), row, block * 8 + lane % 4 * 2);
      }
      if constexpr (!Spec::is_latent) decode_second(tile(0));
      __syncthreads();  // weights and values are there

#pragma unroll
      for (int i = 0; i < layout::warp_values; ++i) {
#pragma unroll
        for (int j = 0; j < layout::query_blocks; ++j) {
#pragma unroll
          for (int e = 0; e < 4; ++e) o[i][j][e] *= factor[j][e % 2];
        }
      }
      if (!whole && __syncthreads_or(has_not_finite())) {
        accumulate_seen(o);
      } else {
        accumulate(o);
      }
    }

    // Sums of weights over the warps, then the partial result.
    wait_copies<0>();
    __syncthreads();
#pragma unroll
    for (int j = 0; j < layout::warp_queries; ++j) {
      const int n = (query_block(warp, j)) * 8 + lane % 4 * 2;
      if (n >= Queries) continue;
#pragma unroll
      for (int x = 4; x < 32; x *= 2) {
        l[j][0] += __shfl_xor_sync(~0u, l[j][0], x);
        l[j][1] += __shfl_xor_sync(~0u, l[j][1], x);
      }
      if (lane < 4) {
        *reinterpret_cast<float2*>(maxima() + warp % layout::row_blocks * Queries + n) = make_float2(l[j][0], l[j][1]);
      }
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < layout::query_blocks; ++j) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int n = j * 8 + lane % 4 * 2 + i;
        if (n >= count) continue;
        const int64 row = step.row_indptr[index] + (query + n) / group();
        const int64 at =
            (row * view.model.query_heads + head * group() + (query + n) % group()) * partial_stride + split;
        if (warp == 0 && lane < 4) {
          float sum = 0;
          for (int b = 0; b < layout::row_blocks; ++b) sum += maxima()[b * Queries + n];
          partial_state[2 * at] = m[j][i];
          partial_state[2 * at + 1] = sum;
        }
#pragma unroll
        for (int b = 0; b < layout::warp_values; ++b) {
          const int block = warp + b * warps;
          if (block >= layout::value_blocks) continue;
          float* to = partial_o + at * shape::value_pitch;
          using order = slots<shape::value_pitch / 16>;
          to[order::channel(2 * block) + lane / 4] = o[b][j][i];
          to[order::channel(2 * block + 1) + lane / 4] = o[b][j][i + 2];
        }
      }
    }
  }

  /// x[block], the j-th of this warp. Registers are indexed by constants alone.
  __device__ static float pick(const float (&x)[layout::query_blocks][2], int j, int block, int i) {
    if constexpr (layout::warp_stride == 1) {
      return x[j][i];
    } else {
      float found = x[0][i];
#pragma unroll
      for (int j = 1; j < layout::query_blocks; ++j) found = block == j ? x[j][i] : found;
      return found;
    }
  }

  /// Weights of rows row and row + 8, queries n and n + 1, as bf16; -0 where hidden.
  __device__ void put_weights(const float (&p)[4], uint32 hidden, int row, int n) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int at = (row + 8 * i) * layout::weight_stride + n;
      const uint32 bits = pack_bf16(p[2 * i], p[2 * i + 1]);
      const uint32 sign = ((hidden >> (2 * i)) & 1u) << 15 | ((hidden >> (2 * i + 1)) & 1u) << 31;
      *reinterpret_cast<uint32*>(weights(0) + at) = bits | sign;
      if constexpr (layout::limbs == 2) {
        *reinterpret_cast<uint32*>(weights(1) + at) = pack_rest(p[2 * i], p[2 * i + 1], bits);
      }
    }
  }
};

/// grid: (sequences x stored heads x query blocks, splits).
/// partial_o: [rows][query_heads][splits][value_pitch], partial_state: [rows][query_heads][splits]{m, l}.
template <class Spec, class T, int Queries>
__global__ void __launch_bounds__(threads)
    attend_kernel(cache_view<Spec> view, step_view step, int slot, int query_blocks, rows_view<const T> q,
                  attend_params params, float* partial_o, float* partial_state) {
  extern __shared__ __align__(16) byte shared[];
  const int heads = view.model.stored_heads();
  const int block = static_cast<int>(blockIdx.x) % query_blocks;
  const int head = static_cast<int>(blockIdx.x) / query_blocks % heads;
  const int index = static_cast<int>(blockIdx.x) / query_blocks / heads;
  if (index >= step.sequences) return;
  const int64 queries = step.rows(index) * view.model.group() - static_cast<int64>(block) * Queries;
  if (queries <= 0) return;
  const attend_block<Spec, T, Queries> work{
      view,  step, params, index, slot, head, block * Queries, static_cast<int>(min_of<int64>(queries, Queries)),
      shared};
  work.run(q, static_cast<int>(blockIdx.y), static_cast<int>(gridDim.y), partial_o, partial_state,
           static_cast<int64>(gridDim.y));
}

}  // namespace kvc::inline v0_1::cuda::detail
