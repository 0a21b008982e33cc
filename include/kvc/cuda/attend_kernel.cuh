// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cuda/attend_scores.cuh"
#include "kvc/cuda/attend_sums.cuh"

// The walk of a block over its tiles, and the kernel.

namespace kvc::inline v0_1::cuda::detail {

template <class Spec, class T, int Queries>
__device__ void attend_block<Spec, T, Queries>::run(const rows_view<const T>& q, int split, int splits,
                                                    const attend_results& results) const {
  const stream_rows<Spec, true> first_rows(view, step, index, slot, head);
  const stream_rows<Spec, false> second_rows(view, step, index, slot, head);
  constexpr float log2e = 1.44269504f;
  const float minus_infinity = -infinity();
  const span_finder<Spec, layout::rows> find = finder();

  if (threadIdx.x == 0) find.find(split, splits, spans());
  fold(q);
  __syncthreads();

  const auto make_basis = [&] {
    if constexpr (expands_by_product) {
      typename first_tile::basis basis;
      basis.make(first_constants(),
                 reinterpret_cast<float*>(shared + layout::tile_at) + warp() * first_tile::making_floats, warp());
      if constexpr (scores_parts) basis.take_queries(queries(0), layout::query_stride, warp());
      __syncthreads();  // its memory is free
      return basis;
    } else {
      return no_basis{};
    }
  };
  const auto basis = make_basis();
  held_queries held;
  hold<first_tile, 0>(held);
  if constexpr (Spec::is_latent) hold<second_tile, shape::first_pitch>(held);
  const row_range all = find.seen_by_all();
  const int seen_begin = static_cast<int>(all.begin);
  const int seen_end = static_cast<int>(all.end);

  const auto issue = [&](const cursor& c, int into) {
    if (!c.is_end()) {
      if (!Spec::has_tail || !c.rows.source.first_exact) {
        first_tile::stage(first_rows, c.pages, c.begin, c.low(), c.high(), stage(into));
      }
      if (!Spec::has_tail || !c.rows.source.second_exact) {
        second_tile::stage(second_rows, c.pages, c.begin, c.low(), c.high(), stage(into) + first_tile::stage_bytes);
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
    if constexpr (layout::expands) {
      score_expanded(s, basis, held, c, whole && !first_tile::holds_infinities);
    } else {
      score(s, held);
    }
    const uint32 hidden = whole ? 0 : hidden_scores(c, find);
#pragma unroll
    for (int j = 0; j < layout::warp_queries; ++j) {
      const int n = query_block(j) * 8 + lane() % 4 * 2;
      if (!has_query_block(j)) continue;
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
        *reinterpret_cast<float2*>(maxima() + warp() % layout::row_blocks * Queries + n) = make_float2(top[0], top[1]);
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
      if (!has_query_block(j)) continue;
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
            const float middle[2] = {k[0].y + value_tile::middle * k[0].x, k[1].y + value_tile::middle * k[1].x};
#pragma unroll
            for (int i = 0; i < 2; ++i) {
              const float upper = value_exact || (hidden_here >> i & 1u) ? 0.0f : p[i] * middle[0];
              const float lower = value_exact || (hidden_here >> (i + 2) & 1u) ? 0.0f : p[i + 2] * middle[1];
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

/// grid: (sequences x stored heads x query blocks, splits).
template <class Spec, class T, int Queries>
KVC_KERNEL void __launch_bounds__(attend_layout<Spec, Queries>::threads, attend_layout<Spec, Queries>::blocks)
    attend_kernel(cache_view<Spec> view, step_view step, step_bounds bounds, int slot, int query_blocks,
                  rows_view<const T> q, attend_params params, attend_results results) {
  extern __shared__ __align__(16) byte shared[];
  const int heads = view.model.stored_heads();
  const int block = static_cast<int>(blockIdx.x) % query_blocks;
  const int head = static_cast<int>(blockIdx.x) / query_blocks % heads;
  const int index = static_cast<int>(blockIdx.x) / query_blocks / heads;
  if (is_attend_out_of_range(view, step, bounds, index, params.window)) return;
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
