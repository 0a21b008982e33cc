// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/attention/state.hpp"
#include "kvc/cuda/byte_block.cuh"

// The walk of a block's teams over their tiles, and the kernel.

namespace kvc::inline v0_1::cuda::detail {

template <class Spec, class T>
__device__ void byte_block<Spec, T>::run(const rows_view<const T>& q, int split, int splits,
                                         const attend_results& results) const {
  const float minus_infinity = -infinity();
  loaded_queries model_queries;
  load_queries(q, model_queries);
  const span_finder<Spec, rows> find{position(0), position(count - 1), params.window};
  if (threadIdx.x == 0) find.find(split, splits, spans());
  __syncthreads();

  cursor c = tiles::at_span(spans(), 0);
  tiles::skip(spans(), c, team());
  cursor ahead = c;
  const auto prepare = [&](int into) {
    const typename tiles::copies asked =
        tiles::prepare(ahead, teams, view, step, index, slot, stage(into), warp(), lane());
    tiles::skip(spans(), ahead, teams);
    return asked;
  };
  for (int i = 0; i < stages - 1; ++i) {
    const typename tiles::copies asked = prepare(i);
#pragma unroll
    for (int n = 0; n < tiles::copies::count; ++n) asked.ask(n);
    commit_copies();
  }
  fold(model_queries);
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
  // Of queries lane / 4 and 8 more: the unit of the team's sums, as its log 2; the maximum so far of this warp's rows,
  // with what this thread's rows add up to.
  float m[2] = {minus_infinity, minus_infinity};
  float own_m[2] = {minus_infinity, minus_infinity};
  float l[2] = {};
  float middles[latent::groups][2] = {};
  float* tops = reinterpret_cast<float*>(team_memory() + tops_at);
  uint32* scale_tops = reinterpret_cast<uint32*>(team_memory() + scale_tops_at);
  byte* weights = team_memory() + weights_at;

  // Matrices are loaded by rows: of scores, two chunks of two blocks of rows; of values, four blocks of rows.
  const int score_offset = (warp() * 16 + lane() / 16 * 8 + lane() % 8) * pitch + lane() / 8 % 2 * 16;
  const int value_offset = lane() * pitch + warp() * warp_chunks * 16;

  wait_copies<stages - 2>();
  __syncthreads();  // the queries are there, and the first tile
  int current = 0;
#pragma unroll 1
  for (; !c.is_end(); tiles::skip(spans(), c, teams)) {
    const byte* staged = stage(current);
    const bool whole = c.begin >= seen_begin && c.begin + rows <= seen_end && c.is_whole();
    const auto tile_row = [&](int i) { return warp() * 16 + row_of(i); };

    float s[2][4] = {};
    {
      float2 k[4][key::groups];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        key::constants(staged + tiles::key_constants_at + tile_row(i) * key::group_bytes, k[i]);
      }
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
      latent::constants(staged + tiles::latent_constants_at + tile_row(i) * latent::group_bytes, k[i]);
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
      const int low = max_of(c.begin, c.range.begin);
      const int high = min_of(c.begin + rows, c.range.end);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int t = c.begin + tile_row(i);
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int4 v = visible()[lane() / 4 + 8 * h];
          const bool sees = (t >= v.x && t < v.y) || (t >= v.z && t < v.w);
          if (t < low || t >= high || !sees) s[i / 2][2 * h + i % 2] = minus_infinity;
        }
#pragma unroll
        for (int g = 0; g < latent::groups; ++g) {
          if (t < low || t >= high) k[i][g] = make_float2(0, 0);  // it was anything
        }
      }
    }
    // NaN is the largest scale. A row that has one is NaN for queries that see it, by its score; to others it must not
    // matter.
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

    // Weights to the maximum of this warp so far.
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
    const typename tiles::copies asked = prepare(current == 0 ? stages - 1 : current - 1);

    float part[2];    // what this tile's weights are worth
    float factor[2];  // and those before it
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float4 top = *reinterpret_cast<const float4*>(tops + (lane() / 4 + 8 * h) * team_warps);
      const float tile_top = fmaxf(fmaxf(top.x, top.y), fmaxf(top.z, top.w));
      // What is summed is in units of 2^m, which need not be the maximum: they follow it where it runs away.
      const float next = tile_top > m[h] + 20 || m[h] == minus_infinity ? tile_top : m[h];
      factor[h] = next != m[h] ? exp2_of(m[h] - next) : 1.0f;
      part[h] = tile_top == next ? 1.0f : exp2_of(tile_top - next);
      m[h] = next;
      // From the warp's maximum to the tile's, where weights are largest; without overflow.
      const float ratio = tile_top == own_m[h] || own_m[h] == minus_infinity || tile_top == minus_infinity
                              ? 1.0f
                              : exp2_of(fminf(own_m[h] - tile_top, 126.0f));
#pragma unroll
      for (int i = 0; i < 4; ++i) s[i / 2][2 * h + i % 2] *= ratio;
    }
    const uint4 scales = scale_tops_of_groups(scale_tops);
    const uint32 scale_of[4] = {scales.x, scales.y, scales.z, scales.w};
#pragma unroll
    for (int g = 0; g < latent::groups; ++g) {
      const float top = __uint_as_float(scale_of[g]);
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
    float scale[warp_chunks];
    weight_scales(scale_tops, scale);
    wait_copies<0>();
    team_sync();  // the weights are there, and the next tile; maxima were read
    accumulate(staged + value_offset, weights, scale, part, asked, o);
    commit_copies();
    current = current + 1 == stages ? 0 : current + 1;
  }
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
  all_sync();  // results are there, stages are free

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
        const int at = n * sum_pitch + (warp() * warp_chunks + j) * 32 + lane() % 4 * 8 + 4 * b;
        const int e = 2 * h + b;
        *reinterpret_cast<float4*>(own_total + at) =
            make_float4(o[j][0][e] * share, o[j][1][e] * (share / 16), o[j][2][e] * share, o[j][3][e] * (share / 16));
      }
    }
  }
  all_sync();

  const bool direct = is_direct<Spec>(splits);
  for (int n = warp_index; n < count; n += teams * team_warps) {
    const int64 row = step.row_indptr[index] + (query + n) / group();
    const int query_head = (query + n) % group();
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

/// grid: (sequences x query blocks, splits).
template <class Spec, class T>
KVC_KERNEL void __launch_bounds__(byte_block<Spec, T>::threads, 1)
    attend_bytes_kernel(cache_view<Spec> view, step_view step, int slot, int query_blocks, rows_view<const T> q,
                        attend_params params, attend_results results) {
  extern __shared__ __align__(16) byte shared[];
  const int block = static_cast<int>(blockIdx.x) % query_blocks;
  const int index = static_cast<int>(blockIdx.x) / query_blocks;
  constexpr int queries = byte_block<Spec, T>::queries;
  const int64 left = step.rows(index) * view.model.group() - static_cast<int64>(block) * queries;
  if (left <= 0) return;
  // Through a shuffle: the compiler knows that all lanes of a warp have the same.
  const int warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0);
  const byte_block<Spec, T> work{
      view, step, params, index, slot, block * queries, static_cast<int>(min_of<int64>(left, queries)), shared, warp};
  work.run(q, static_cast<int>(blockIdx.y), static_cast<int>(gridDim.y), results);
}

}  // namespace kvc::inline v0_1::cuda::detail
