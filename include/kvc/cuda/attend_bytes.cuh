// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/attention/state.hpp"
#include "kvc/cuda/byte_queries.cuh"
#include "kvc/cuda/byte_scores.cuh"
#include "kvc/cuda/byte_sums.cuh"

// The walk of a block's teams over their tiles, and the kernel.

namespace kvc::inline v0_1::cuda::detail {

template <class Spec, class T, int Queries>
__device__ void byte_block<Spec, T, Queries>::run(const rows_view<const T>& q, int split, int splits,
                                                  const attend_results& results) const {
  const float minus_infinity = -infinity();
  loaded_queries model_queries;
  load_queries(q, model_queries);
  const span_finder<Spec, rows> find{position(0), position(count - 1), params.window};
  if (threadIdx.x == 0) find.find(split, splits, spans);
  if (warp_index == warps - 1) put_visible();
  __syncthreads();

  cursor c = tiles::at_span(spans, 0);
  tiles::skip(spans, c, team());
  cursor ahead = c;
  const auto prepare = [&](int into) {
    const typename tiles::copies asked =
        tiles::prepare(ahead, teams, view, step, index, slot, stage(into), warp(), lane());
    tiles::skip(spans, ahead, teams);
    return asked;
  };
  const auto ask = [&](const typename tiles::copies& asked) {
#pragma unroll
    for (int n = 0; n < tiles::copies::count; ++n) asked.ask(n);
    commit_copies();
  };
  if constexpr (folds_in_rows) {
    fold(model_queries);
    team_sync();  // queries lay where rows will
    ask(prepare(0));
  } else {
    const typename tiles::copies asked = prepare(0);
    fold(model_queries);  // while the block is looked up
    ask(asked);
  }
  publish_operands();
#pragma unroll 1
  for (int i = 1; i < stages - 1; ++i) ask(prepare(i));
  const row_range all = find.seen_by_all();
  const int seen_begin = static_cast<int>(all.begin);
  const int seen_end = static_cast<int>(all.end);

  sums o = {};
  offset_sums offsets = {};
  scale_units unit;
#pragma unroll
  for (int g = 0; g < latent::groups; ++g) unit[g] = no_unit;
  for (int n = lane(); n < queries; n += 32) result(warp_index, field_m)[n] = lowest;
  float* tops = reinterpret_cast<float*>(team_memory() + tops_at);
  uint32* scale_tops = reinterpret_cast<uint32*>(team_memory() + scale_tops_at);
  byte* weights = team_memory() + weights_at;

  // Matrices are loaded by rows: of scores, two blocks of rows of two chunks; of values, four blocks of rows.
  const int score_offset = (warp() * 16 + lane() % 16) * pitch + lane() / 16 * 16;
  const int value_offset =
      lane() * pitch + warp() % 4 / (splits_nibbles ? 1 : 2) * 16 + team_group() * value_products * 32;

  __syncthreads();  // the queries are there
  int current = 0;
#pragma unroll 1
  for (; !c.is_end(); tiles::skip(spans, c, teams)) {
    wait_copies<stages - 2>();
    __syncwarp();  // the warp's rows are there
    const byte* staged = stage(current);
    const bool whole = c.begin >= seen_begin && c.begin + rows <= seen_end && c.is_whole();
    row_scales scale;
    uint32 row_constants[4];
    packed_weights p;
    // Once more where weights outgrow their units: for the maxima, and with them.
    for (bool wants_maxima = false;; wants_maxima = !wants_maxima) {
      load_constants(staged, scale, row_constants);
      scores s;
      score(staged + score_offset, scale, row_constants, s);
      float to_log2[own];
      float m[own];
#pragma unroll
      for (int j = 0; j < own; j += 2) {
        const float2 u = *reinterpret_cast<const float2*>(units() + query_of(j));
        const float2 of_both = *reinterpret_cast<const float2*>(result(warp_index, field_m) + query_of(j));
        to_log2[j] = u.x, to_log2[j + 1] = u.y;
        m[j] = of_both.x, m[j + 1] = of_both.y;
      }
      if (params.soft_cap > 0) {
        const float to_exponent = 2 * 1.44269504f / params.soft_cap;
        const float cap = params.soft_cap * 1.44269504f;
        for (int j = 0; j < own; ++j) {  // tanh x = 1 - 2 / (e^2x + 1)
          for (int i = 0; i < 2; ++i) {
            s[i][j] = cap - 2 * cap * reciprocal_of(exp2_of(s[i][j] * to_log2[j] * to_exponent) + 1);
          }
          to_log2[j] = 1;
        }
      }
      const auto hide_row = [&](int i) {  // its weights are zero or NaN, and it was anything
#pragma unroll
        for (int g = 0; g < latent::groups; ++g) scale[i][g] = 0;
        row_constants[i] = lane() % 4 == 2 ? 0x3f80u : 0u;
        row_constants[2 + i] = 0;
      };
      if (!whole) {
        const int low = max_of(c.begin, c.range.begin);
        const int high = min_of(c.begin + rows, c.range.end);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int t = c.begin + warp() * 16 + row_of(i);
#pragma unroll
          for (int j = 0; j < own; ++j) {
            const int4 v = visible()[query_of(j)];
            const bool sees = (t >= v.x && t < v.y) || (t >= v.z && t < v.w);
            if (t < low || t >= high || !sees) s[i][j] = minus_infinity;
          }
          if (t < low || t >= high) hide_row(i);
        }
      }
      // A row whose scale is not finite is NaN for queries that see it, by its score; to others it must not matter.
      float scales[2] = {};
#pragma unroll
      for (int g = 0; g < latent::groups; ++g) scales[0] += scale[0][g], scales[1] += scale[1][g];
      if (__any_sync(~0u, !is_finite(scales[0]) || !is_finite(scales[1]))) {
        if (!is_finite(scales[0])) hide_row(0);
        if (!is_finite(scales[1])) hide_row(1);
      }
      if (wants_maxima) {
        put_scale_tops(scale, scale_tops);
        put_tops(s, to_log2, tops + warp());
        team_sync();
        follow(tops, scale_tops, unit, m, offsets, o);
        continue;
      }
      weigh(s, to_log2, m, p);
      bool grows = have_grown(p);
#pragma unroll
      for (int g = 0; g < latent::groups; ++g) {
        grows |= scale[0][g] * unit[g] >= largest_ratio || scale[1][g] * unit[g] >= largest_ratio;
      }
      if (!team_any(grows)) break;
    }
    // Weights and the oldest stage are free.
    put_weights(p, scale, unit, weights);
    add_offsets(p, row_constants, offsets);
    publish_operands();
    team_sync();  // the weights are there, and all rows
    accumulate(stage(current) + value_offset, weights, prepare((current + stages - 1) % stages), o);
    commit_copies();
    current = current + 1 == stages ? 0 : current + 1;
  }
  finish(split, splits, unit, offsets, o, results);
}

template <class Spec, class T, int Queries>
__device__ void byte_block<Spec, T, Queries>::finish(int split, int splits, const scale_units& unit,
                                                     const offset_sums& offsets, const sums& o,
                                                     const attend_results& results) const {
  constexpr float ln2 = 0.693147181f;
  const int64 first_row = step.row_indptr[index];
#pragma unroll
  for (int k = 0; k < queries / 16; ++k) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int constant = lane() % 4 * 2 + e % 2;  // offsets of groups, then one
      const int n = 16 * k + e / 2 * 8 + lane() / 4;
      if (constant < latent::groups) result(warp_index, field_offsets + constant)[n] = offsets[k][e];
      if (constant == 4) result(warp_index, field_l)[n] = offsets[k][e];
    }
  }
  wait_copies<0>();
  all_sync();  // results are there, stages are free

  // Shares in units of the largest maximum; who has no rows has none.
  const auto largest = [&](int n) {
    float top = result(0, field_m)[n];
    for (int t = 1; t < teams; ++t) top = fmaxf(top, result(t * team_warps, field_m)[n]);
    return top;
  };
  const auto share_of = [](float m, float top) { return m == lowest ? 0.0f : exp2_of(m - top); };
  const bool direct = is_direct<Spec>(splits);
  if (static_cast<int>(threadIdx.x) < count) {  // what an output takes, but for the sums
    const int n = static_cast<int>(threadIdx.x);
    const int64 row = first_row + (query + n) / group();
    const int query_head = (query + n) % group();
    const int64 at = (row * view.model.query_heads + query_head) * splits + split;
    const float top = largest(n);
    softmax_state state{top == lowest ? -infinity() : top * ln2, 0};
    output_of& of = outputs()[n];
    float sum[latent::groups] = {};
#pragma unroll
    for (int t = 0; t < teams; ++t) {
      const float share = share_of(result(t * team_warps, field_m)[n], top);
#pragma unroll
      for (int w = t * team_warps; w < (t + 1) * team_warps; ++w) {
        state.l += result(w, field_l)[n] * share;
#pragma unroll
        for (int g = 0; g < latent::groups; ++g) sum[g] += result(w, field_offsets + g)[n] * share;
      }
    }
#pragma unroll
    for (int g = 0; g < latent::groups; ++g) of.offsets[g] = sum[g];
    of.to = results.o + at * attend_shape<Spec>::value_pitch;
    of.factor = 1;
    if (direct) {  // no other split, and the stored space is the model's
      of.to = results.out.at(row, query_head);
      float factor = 1;
      if (params.sink_logits != nullptr) state.push(params.sink_logits[query_head], factor);
      of.factor = state.l == 0 ? 0.0f : factor / state.l;
      if (results.lse != nullptr) results.lse[at] = state.lse();
    } else {
      results.states[2 * at] = state.m;
      results.states[2 * at + 1] = state.l;
    }
  }
  float* total = reinterpret_cast<float*>(shared + team_at);
  float* own_total = total + team() * queries * sum_pitch;
  scale_units of_group;
#pragma unroll
  for (int g = 0; g < latent::groups; ++g) of_group[g] = unit[g] == no_unit ? 0.0f : inverse_power(unit[g]) * sum_unit;
#pragma unroll
  for (int j = 0; j < own; ++j) {
    const int n = query_of(j);
    const float share = share_of(result(warp_index, field_m)[n], largest(n));
    float* to = own_total + n * sum_pitch + team_group() * value_products * 64 + lane() / 4 * 4;
#pragma unroll
    for (int p = 0; p < value_products; p += fed_products) {
      const float of_even = share * of_product_group(p, of_group);
      const float of_odd = of_even / 16;
      const float x = o[p][product_at(0, j)] * of_even;
      const float y = o[p][product_at(1, j)] * of_odd;
      if constexpr (splits_nibbles) {
        *reinterpret_cast<float4*>(to + (p * 2 + warp() % 4) * 32) =
            make_float4(x, y, o[p + 1][product_at(0, j)] * of_even, o[p + 1][product_at(1, j)] * of_odd);
      } else {
        *reinterpret_cast<float2*>(to + (p * 2 + warp() % 4 / 2) * 32 + warp() % 2 * 2) = make_float2(x, y);
      }
    }
  }
  all_sync();

  constexpr int quads = first::width / 4;
  for (int i = static_cast<int>(threadIdx.x); i < count * quads; i += threads) {
    const int n = i / quads;
    const int channel = i % quads * 4;
    const output_of& of = outputs()[n];
    const float offset = of.offsets[channel / (32 * latent::group_chunks)];
    float4 x = make_float4(offset, offset, offset, offset);
#pragma unroll
    for (int t = 0; t < teams; ++t) {
      const float4 y = *reinterpret_cast<const float4*>(total + (t * queries + n) * sum_pitch + channel);
      x = make_float4(x.x + y.x, x.y + y.y, x.z + y.z, x.w + y.w);
    }
    x = make_float4(x.x * of.factor, x.y * of.factor, x.z * of.factor, x.w * of.factor);
    float* to = of.to + channel;
    if (reinterpret_cast<size_type>(to) % 16 == 0) {
      *reinterpret_cast<float4*>(to) = x;
    } else {
      to[0] = x.x, to[1] = x.y, to[2] = x.z, to[3] = x.w;
    }
  }
}

/// grid: (sequences x query blocks, splits). Its code exists for sm_90a only (has_bytes_code).
template <class Spec, class T, int Queries>
KVC_KERNEL void __launch_bounds__(byte_block<Spec, T, Queries>::threads, 1)
    attend_bytes_kernel(cache_view<Spec> view, step_view step, step_bounds bounds, int slot, int query_blocks,
                        rows_view<const T> q, attend_params params, attend_results results) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(128) byte stages[];  // not named shared: that has one alignment in all kernels
  __shared__ tile_span spans[most_spans + 1];
  const int block = static_cast<int>(blockIdx.x) % query_blocks;
  const int index = static_cast<int>(blockIdx.x) / query_blocks;
  if (is_attend_out_of_range(view, step, bounds, index, params.window)) return;
  const int64 length = step.seq_lens[index];
  const int64 first_row = step.row_indptr[index];
  const int64 end_row = step.row_indptr[index + 1];
  const int64 left = (end_row - first_row) * view.model.group() - static_cast<int64>(block) * Queries;
  if (left <= 0) return;
  // Through a shuffle: the compiler knows that all lanes of a warp have the same.
  const int warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0);
  const byte_block<Spec, T, Queries> work{
      view,   step,      params, index, slot, block * Queries, static_cast<int>(min_of<int64>(left, Queries)),
      length, first_row, stages, spans, warp};
  work.run(q, static_cast<int>(blockIdx.y), static_cast<int>(gridDim.y), results);
#endif
}

/// Whether the kernel was compiled with its code: it alone has shared memory of a size known beforehand. An error that
/// means more than a kernel without code for this device stays for the next launch to report.
template <class Spec, class T, int Queries>
bool has_bytes_code() {
  cudaFuncAttributes attributes{};
  const cudaError_t found = cudaFuncGetAttributes(&attributes, attend_bytes_kernel<Spec, T, Queries>);
  if (found == cudaErrorInvalidDeviceFunction || found == cudaErrorNoKernelImageForDevice) {
    static_cast<void>(cudaGetLastError());
  }
  return found == cudaSuccess && attributes.sharedSizeBytes > 0;
}

}  // namespace kvc::inline v0_1::cuda::detail
