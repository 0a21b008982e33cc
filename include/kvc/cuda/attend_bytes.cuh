// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/attention/state.hpp"
#include "kvc/cuda/byte_queries.cuh"
#include "kvc/cuda/byte_scores.cuh"
#include "kvc/cuda/byte_sums.cuh"

// The walks of a block's teams over their tiles, and the kernel.

namespace kvc::inline v0_1::cuda::detail {

/// Where a warp is among its team's tiles.
template <class Spec, class T, int Queries>
struct byte_block<Spec, T, Queries>::walk {
  const byte_block& block;
  cursor now;
  int tile = 0;  ///< of the team's

  __device__ explicit walk(const byte_block& b) : block(b), now(tiles::at_span(b.spans, 0)) {
    tiles::skip(b.spans, now, b.team());
  }
  __device__ bool is_end() const { return now.is_end(); }
  __device__ void next() {
    tiles::skip(block.spans, now, teams);
    ++tile;
  }
  __device__ const byte* rows() const { return block.stage(tile % stages); }
};

/// Which tiles the first warpgroup that sums asks for: each warp 16 of 64 rows.
template <class Spec, class T, int Queries>
struct byte_block<Spec, T, Queries>::row_copies {
  const byte_block& block;
  cursor at[score_groups];
  int tile = 0;

  __device__ explicit row_copies(const walk& w) : block(w.block) {
    for (int i = 0; i < score_groups; ++i) at[i] = w.now;
  }
  /// The next tile, which may be none.
  __device__ void ask() {
#pragma unroll
    for (int i = 0; i < score_groups; ++i) {
      const typename tiles::copies asked = tiles::prepare(at[i], teams, block.view, block.step, block.index, block.slot,
                                                          block.stage(tile % stages), block.warp() + 4 * i, lane());
      tiles::skip(block.spans, at[i], teams);
#pragma unroll
      for (int n = 0; n < tiles::copies::count; ++n) asked.ask(n);
    }
    count_copies(block.arrived(tile % stages));
    ++tile;
  }
};

template <class Spec, class T, int Queries>
__device__ void byte_block<Spec, T, Queries>::run(const rows_view<const T>& q, int split, int splits,
                                                  const attend_results& results) const {
  loaded_queries model_queries;
  load_queries(q, model_queries);
  const span_finder<Spec, rows> find{position(0), position(count - 1), params.window};
  if (threadIdx.x == 0) find.find(split, splits, spans);
  if (warp_index == warps - 1) put_visible();
  begin_counters();
  if (scores_rows() && warp() == 0 && lane() < scale_pitch) result_units()[lane()] = 0;
  __syncthreads();

  walk w(*this);
  row_copies copies(w);
  if (!folds_in_rows && copies_rows()) copies.ask();
  fold(model_queries);
  publish_operands();
  __syncthreads();  // the queries are there; they may have lain where rows will
  if (scores_rows()) {
    if constexpr (score_registers > 0) keep_registers<score_registers>();
    const row_range all = find.seen_by_all();
    score_tiles(w, static_cast<int>(all.begin), static_cast<int>(all.end));
  } else {
    if constexpr (sum_registers > 0) take_registers<sum_registers>();
    sums o = {};
    sum_tiles(w, copies, o);
    sum_sync();  // the team's rows and weights are no longer needed
    put_totals(o);
  }
  __syncthreads();  // totals and results are there
  end_counters();
  put_outputs(split, splits, results);
  if (scores_rows()) {
    team_sync();  // racecheck follows a barrier of all only after these
  } else {
    sum_sync();
  }
  __syncthreads();
  write_outputs();
}

template <class Spec, class T, int Queries>
__device__ void byte_block<Spec, T, Queries>::score_tiles(walk& w, int seen_begin, int seen_end) const {
  const float minus_infinity = -infinity();
  offset_sums offsets = {};
  scale_units unit;
#pragma unroll
  for (int g = 0; g < latent::groups; ++g) unit[g] = no_unit;
  for (int n = lane(); n < queries; n += 32) result(result_warp(), field_m)[n] = lowest;
  __syncwarp();
  float* tops = reinterpret_cast<float*>(team_memory() + tops_at);
  uint32* scale_tops = reinterpret_cast<uint32*>(team_memory() + scale_tops_at);
  // Matrices are loaded by rows: two blocks of rows of two chunks.
  const int score_offset = (warp() * 16 + lane() % 16) * pitch + lane() / 16 * 16;

#pragma unroll 1
  for (; !w.is_end(); w.next()) {
    const cursor& c = w.now;
    wait_for_count(arrived(w.tile % stages), w.tile / stages);
    const byte* staged = w.rows();
    unit_change& change = *changes(w.tile % stages);
    const bool whole = c.begin >= seen_begin && c.begin + rows <= seen_end && c.is_whole();
    row_scales scale;
    uint32 row_constants[4];
    packed_weights p;
    bool changes_units = false;
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
        const float2 of_both = *reinterpret_cast<const float2*>(result(result_warp(), field_m) + query_of(j));
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
        follow(tops, scale_tops, change, unit, offsets);
        changes_units = true;
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
    if (warp() == 0 && lane() == 0) change.exists = changes_units;
    const int buffer = w.tile % buffers;
    if (w.tile >= buffers) wait_for_count(summed(buffer), w.tile / buffers - 1);
    put_weights(p, scale, unit, weights(buffer));
    add_offsets(p, row_constants, offsets);
    publish_operands();
    count_warp(filled(buffer));
  }

#pragma unroll
  for (int k = 0; k < queries / 16; ++k) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int constant = lane() % 4 * 2 + e % 2;  // offsets of groups, then one
      const int n = 16 * k + e / 2 * 8 + lane() / 4;
      if (constant < latent::groups) result(result_warp(), field_offsets + constant)[n] = offsets[k][e];
      if (constant == 4) result(result_warp(), field_l)[n] = offsets[k][e];
    }
  }
}

template <class Spec, class T, int Queries>
__device__ void byte_block<Spec, T, Queries>::sum_tiles(walk& w, row_copies& copies, sums& o) const {
  // Matrices are loaded by rows: four blocks of rows.
  const int value_offset = lane() * pitch + warp() / (splits_nibbles ? 1 : 2) * 16 + sum_group() * value_products * 32;
  if (copies_rows()) {
#pragma unroll 1
    while (copies.tile < stages - 1) copies.ask();
  }
#pragma unroll 1
  for (; !w.is_end(); w.next()) {
    const int buffer = w.tile % buffers;
    wait_for_count(filled(buffer), w.tile / buffers);
    const unit_change& change = *changes(w.tile % stages);
    if (copies_rows()) {
      if (w.tile > 0) wait_for_count(summed((w.tile - 1) % buffers), (w.tile - 1) / buffers);  // its stage is free
      copies.ask();
    }
    if (change.exists) change_units(change, o);
    accumulate(w.rows() + value_offset, weights(buffer), o);
    count_warp(summed(buffer));
  }
  wait_copies<0>();
}

/// The largest unit of the teams' sums of query n, as log 2.
template <class Spec, class T, int Queries>
__device__ float byte_block<Spec, T, Queries>::largest_unit(int n) const {
  float top = result(0, field_m)[n];
  for (int t = 1; t < teams; ++t) top = fmaxf(top, result(t * score_warps, field_m)[n]);
  return top;
}

/// What an output takes, but for the sums.
template <class Spec, class T, int Queries>
__device__ void byte_block<Spec, T, Queries>::put_outputs(int split, int splits, const attend_results& results) const {
  constexpr float ln2 = 0.693147181f;
  const int n = static_cast<int>(threadIdx.x);
  if (n >= count) return;
  const int64 row = first_row + (query + n) / group();
  const int query_head = (query + n) % group();
  const int64 at = (row * view.model.query_heads + query_head) * splits + split;
  const float top = largest_unit(n);
  softmax_state state{top == lowest ? -infinity() : top * ln2, 0};
  output_of& of = outputs()[n];
  float sum[latent::groups] = {};
#pragma unroll
  for (int w = 0; w < teams * score_warps; ++w) {
    const float share = share_of(result(w, field_m)[n], top);
    state.l += result(w, field_l)[n] * share;
#pragma unroll
    for (int g = 0; g < latent::groups; ++g) sum[g] += result(w, field_offsets + g)[n] * share;
  }
#pragma unroll
  for (int g = 0; g < latent::groups; ++g) of.offsets[g] = sum[g];
  of.to = results.o + at * attend_shape<Spec>::value_pitch;
  of.factor = 1;
  if (is_direct<Spec>(splits)) {  // no other split, and the stored space is the model's
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

/// A team's sums, less the units of scales: those of m are left.
template <class Spec, class T, int Queries>
__device__ void byte_block<Spec, T, Queries>::put_totals(const sums& o) const {
#pragma unroll
  for (int j = 0; j < own; ++j) {
    float* to = totals(team()) + query_of(j) * sum_pitch + sum_group() * value_products * 64 + lane() / 4 * 4;
#pragma unroll
    for (int p = 0; p < value_products; p += fed_products) {
      const float of_even = result_units()[group_of_product(sum_group() * value_products + p)];
      const float of_odd = of_even / 16;
      const float x = o[p][product_at(0, j)] * of_even;
      const float y = o[p][product_at(1, j)] * of_odd;
      if constexpr (splits_nibbles) {
        *reinterpret_cast<float4*>(to + (p * 2 + warp()) * 32) =
            make_float4(x, y, o[p + 1][product_at(0, j)] * of_even, o[p + 1][product_at(1, j)] * of_odd);
      } else {
        *reinterpret_cast<float2*>(to + (p * 2 + warp() / 2) * 32 + warp() % 2 * 2) = make_float2(x, y);
      }
    }
  }
}

template <class Spec, class T, int Queries>
__device__ void byte_block<Spec, T, Queries>::write_outputs() const {
  constexpr int quads = first::width / 4;
  for (int i = static_cast<int>(threadIdx.x); i < count * quads; i += threads) {
    const int n = i / quads;
    const int channel = i % quads * 4;
    const output_of& of = outputs()[n];
    const float offset = of.offsets[channel / (32 * latent::group_chunks)];
    float4 x = make_float4(offset, offset, offset, offset);
#pragma unroll
    for (int t = 0; t < teams; ++t) {
      const float4 y = *reinterpret_cast<const float4*>(totals(t) + n * sum_pitch + channel);
      const float share = teams == 1 ? 1 : share_of(result(t * score_warps, field_m)[n], largest_unit(n));
      x = make_float4(x.x + share * y.x, x.y + share * y.y, x.z + share * y.z, x.w + share * y.w);
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
