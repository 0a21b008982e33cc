// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/attention/state.hpp"
#include "kvc/cuda/code_warp.cuh"

// A block of warps that attend over the rows of one stored head, each over its own (code_warp.cuh), and the kernel.

namespace kvc::inline v0_1::cuda::detail {

template <class Spec, class T>
struct code_block {
  using part = code_warp<Spec>;
  using first = typename Spec::first_stream;
  using second = typename Spec::second_stream;
  using key = typename part::key;
  using value = typename part::value;
  static constexpr int queries = part::queries;
  static constexpr int warps = 8;  ///< each folds a query
  static_assert(warps == queries);
  static constexpr int threads = 32 * warps;
  static constexpr int warp_rows = part::rows;
  static constexpr int rows = warp_rows * warps;  ///< of a tile, which each warp has a part of
  static constexpr int per_page = Spec::tokens_per_page;
  static_assert(per_page % warp_rows == 0);

  /// Of a multiprocessor: as many as leave threads the registers that they need.
  static constexpr int blocks = attend_shape<Spec>::code_blocks;

  // Shared memory: the stages of each warp, in whose place queries are folded and sums meet; then what is small.
  static constexpr int most_bytes = device_limits{}.shared_bytes / blocks - 2048;
  static constexpr int stages = min_of(4, (most_bytes - 3072) / (warps * part::stage_bytes));
  static_assert(stages > 1);
  static constexpr int stages_bytes = warps * stages * part::stage_bytes;
  static constexpr int fold_pitch = first::width + 4;
  static constexpr int fold_bytes = queries * (fold_pitch + Spec::query_width) * 4;
  static constexpr int sum_pitch = value::width + 4;
  static constexpr int sums_bytes = warps * queries * sum_pitch * 4;
  enum field { field_m, field_l, field_offsets };
  static constexpr int fields = field_offsets + value::groups;
  static constexpr int result_at = round_up(max_of(stages_bytes, max_of(fold_bytes, sums_bytes)), 128);
  static constexpr int visible_at = result_at + warps * fields * queries * 4;  // [queries]{sinks, newest: begin, end}
  static constexpr int shift_at = visible_at + queries * 16;                   // [queries]
  struct output_of {
    float* to;
    float factor;
    float shares[warps];
    float offsets[value::groups];
  };
  static constexpr int output_at = round_up(shift_at + queries * 4, 16);
  static constexpr int bytes = output_at + queries * static_cast<int>(sizeof(output_of));
  static_assert(bytes <= most_bytes);

  const cache_view<Spec>& view;
  const step_view& step;
  const attend_params& params;
  int index;  ///< of the sequence in the step
  int slot;
  int head;
  int query;        ///< first of the block, counted over query rows x group
  int count;        ///< of queries that exist
  int64 length;     ///< of the sequence, before the step
  int64 first_row;  ///< of the step's rows
  byte* shared;
  tile_span* spans;
  int warp;

  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
  __device__ int group() const { return view.model.group(); }
  __device__ int64 position(int n) const { return length + (query + n) / group(); }
  __device__ byte* stage(int i) const { return shared + (warp * stages + i) * part::stage_bytes; }
  __device__ float* result(int w, int f) const {
    return reinterpret_cast<float*>(shared + result_at) + (w * fields + f) * queries;
  }
  __device__ float* totals(int w) const { return reinterpret_cast<float*>(shared) + w * queries * sum_pitch; }
  __device__ int4* visible() const { return reinterpret_cast<int4*>(shared + visible_at); }
  __device__ float* shifts() const { return reinterpret_cast<float*>(shared + shift_at); }
  __device__ output_of* outputs() const { return reinterpret_cast<output_of*>(shared + output_at); }

  __device__ void run(const rows_view<const T>& q, int split, int splits, const attend_results& results) const;
  __device__ void fold(const rows_view<const T>& q) const;
  struct row_copies;
  __device__ void attend_span(part& mine, row_range span, row_range seen_by_all) const;
  __device__ void hide(float (&s)[2][2], int row, row_range span) const;
  __device__ void put_results(const part& mine) const;
  __device__ void put_outputs(int split, int splits, const attend_results& results) const;
  __device__ void write_outputs() const;
};

/// A query to each warp, into the stored space, and the rows that it sees.
template <class Spec, class T>
__device__ void code_block<Spec, T>::fold(const rows_view<const T>& q) const {
  using of_first = transform<first>;
  using tokens = typename Spec::tokens_policy;
  const warp_team<> lanes;
  const int n = warp;
  float* folded = reinterpret_cast<float*>(shared) + n * fold_pitch;
  float* model = reinterpret_cast<float*>(shared) + queries * fold_pitch + n * Spec::query_width;
  const float unit = params.soft_cap > 0 ? params.scale : params.scale * 1.44269504f;
  for (int c = lane(); c < first::width; c += 32) folded[c] = 0;
  float shift = 0;
  if (n < count) {
    const T* from = q.at(first_row + (query + n) / group(), head * group() + (query + n) % group());
    for (int c = lane(); c < Spec::query_width; c += 32) model[c] = to_float(from[c]) * unit;
    lanes.sync();
    shift = of_first::fold_query(model, folded, view.calibration.first(slot, head), lanes);
  }
  if (lane() == 0) {
    shifts()[n] = shift;
    const visible_rows v =
        kvc::visible_at(position(min_of(n, count - 1)), tokens::sinks, tokens::window, params.window);
    visible()[n] = make_int4(static_cast<int>(v.sinks.begin), static_cast<int>(v.sinks.end),
                             static_cast<int>(v.recent.begin), static_cast<int>(v.recent.end));
  }
}

/// The warp's rows of a span: 16 of each tile, which lie in one page; and where they are copied from.
template <class Spec, class T>
struct code_block<Spec, T>::row_copies {
  const code_block& block;
  row_range span;
  int first;         ///< row of the warp
  int count;         ///< of such pieces
  const byte* keys;  ///< of the slot's first page
  int64 values;      ///< from keys on
  int32 blocks = 0;  ///< of the pages: lane l knows that of the piece l further than the last that is a multiple of 32

  __device__ row_copies(const code_block& b, row_range s) : block(b), span(s) {
    const int heads = b.view.model.stored_heads();
    first = static_cast<int>(s.begin) / rows * rows + b.warp * warp_rows;
    if (first + warp_rows <= s.begin) first += rows;
    count = first < s.end ? ceil_div(static_cast<int>(s.end) - first, rows) : 0;
    keys = b.view.page(b.slot, 0) + b.head * first_stream_bytes;
    values = heads * first_stream_bytes + b.head * (second::segment_bytes - first_stream_bytes);
  }
  static constexpr int64 first_stream_bytes = code_block::first::segment_bytes;

  __device__ int row(int i) const { return first + i * rows; }
  /// Asks for piece i, one after the other.
  __device__ void ask(int i, byte* to) {
    if (i < count) {
      const int lane = code_block::lane();
      if (i % 32 == 0) {
        const int of_lane = row(i + lane);
        blocks = of_lane < span.end ? block.step.block(block.index, of_lane / per_page) : 0;
      }
      const byte* page = keys + __shfl_sync(~0u, blocks, i % 32) * block.view.block_stride;
      const int in_page = (rows % per_page == 0 ? first : row(i)) % per_page;
      const int low = static_cast<int>(span.begin) - row(i);
      const int high = static_cast<int>(span.end) - row(i);
      if (low <= 0 && high >= warp_rows) {
        for_each(page, in_page, to, [&](auto copy, const byte* from, byte* into) {
#pragma unroll
          for (int n = 0; n < copy.lane_pieces; ++n) copy.piece(true, n, from, into, lane);
        });
      } else {
        for_each(page, in_page, to,
                 [&](auto copy, const byte* from, byte* into) { copy.some(low, high, from, into, lane); });
      }
    }
    commit_copies();
  }
  template <class Function>
  __device__ void for_each(const byte* page, int in_page, byte* to, const Function& f) const {
    f(rows_copy<key::row_bytes, part::key_pitch>{}, page + in_page * key::row_bytes, to);
    f(rows_copy<value::row_bytes, part::value_pitch>{}, page + values + in_page * value::row_bytes,
      to + part::values_at);
    f(rows_copy<key::group_bytes, key::group_bytes>{},
      page + code_block::first::codes_bytes + in_page * key::group_bytes, to + part::key_constants_at);
    f(rows_copy<value::group_bytes, value::group_bytes>{},
      page + values + second::codes_bytes + in_page * value::group_bytes, to + part::value_constants_at);
  }
};

/// Scores of rows that are not in the span, or that queries do not see.
template <class Spec, class T>
__device__ void code_block<Spec, T>::hide(float (&s)[2][2], int row, row_range span) const {
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    const int4 v = visible()[part::query_of(e)];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int t = row + part::row_of(r);
      const bool sees = (t >= v.x && t < v.y) || (t >= v.z && t < v.w);
      if (t < span.begin || t >= span.end || !sees) s[r][e] = -infinity();
    }
  }
}

template <class Spec, class T>
__device__ void code_block<Spec, T>::attend_span(part& mine, row_range span, row_range seen_by_all) const {
  row_copies copies(*this, span);
  const row_range whole = seen_by_all.within(span.begin, span.end);
  const int whole_begin = static_cast<int>(whole.begin);
  const int whole_end = static_cast<int>(whole.end);
  for (int i = 0; i < stages - 1; ++i) copies.ask(i, stage(i));
#pragma unroll 1
  for (int i = 0; i < copies.count; ++i) {
    wait_copies<stages - 2>();
    __syncwarp();  // the rows are there; the oldest stage is free
    copies.ask(i + stages - 1, stage((i + stages - 1) % stages));
    const byte* staged = stage(i % stages);
    float s[2][2];
    mine.score(staged, s);
    if (params.soft_cap > 0) {  // tanh x = 1 - 2 / (e^2x + 1)
      const float to_exponent = 2 * 1.44269504f / params.soft_cap;
      const float cap = params.soft_cap * 1.44269504f;
      for (int e = 0; e < 4; ++e) {
        float& x = s[e / 2][e % 2];
        x = cap - 2 * cap * reciprocal_of(exp2_of(x * to_exponent) + 1);
      }
    }
    const int row = copies.row(i);
    if (row < whole_begin || row + warp_rows > whole_end) hide(s, row, span);
    mine.sum(staged, s);
  }
  wait_copies<0>();
  __syncwarp();
}

template <class Spec, class T>
__device__ void code_block<Spec, T>::run(const rows_view<const T>& q, int split, int splits,
                                         const attend_results& results) const {
  const span_finder<Spec, rows> find{position(0), position(count - 1), params.window};
  if (threadIdx.x == 0) find.find(split, splits, spans);
  fold(q);
  __syncthreads();
  part mine;
  mine.take_queries(reinterpret_cast<const float*>(shared), fold_pitch, shifts());
  __syncthreads();  // rows will lie where queries were
  const row_range all = find.seen_by_all();
#pragma unroll 1
  for (const tile_span* span = spans; span->begin < span->end; ++span) {
    attend_span(mine, {span->begin, span->end}, all);
  }
  __syncthreads();  // sums will lie where rows were
  put_results(mine);
  __syncthreads();
  put_outputs(split, splits, results);
  __syncthreads();
  write_outputs();
}

/// The warp's m, and sums over its lanes and in one unit.
template <class Spec, class T>
__device__ void code_block<Spec, T>::put_results(const part& mine) const {
  const auto over_rows = [](float x) {
    for (int lanes = 4; lanes < 32; lanes *= 2) x += __shfl_xor_sync(~0u, x, lanes);
    return x;
  };
  constexpr float code_unit = 0x1p24f;  // codes are denormal fp16 numbers
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    const int n = part::query_of(e);
    result(warp, field_m)[n] = mine.m[e];  // lanes that have the same write the same
    const float l = over_rows(mine.l[e]);
    result(warp, field_l)[n] = l;
#pragma unroll
    for (int g = 0; g < value::groups; ++g) result(warp, field_offsets + g)[n] = over_rows(mine.offsets[g][e]);
    float* to = totals(warp) + n * sum_pitch;
#pragma unroll
    for (int p = 0; p < value::chunks * 2; ++p) {
      const float ones = mine.ones[value::group_of_sum(p)][e];
      const int place = p % value::per_byte;
      const float x = mine.o[p][e] * (1.0f / static_cast<float>(value::sum_unit(place, 0))) - ones;
      const float y = mine.o[p][2 + e] * (1.0f / static_cast<float>(value::sum_unit(place, 1))) - ones;
      *reinterpret_cast<float2*>(to + value::channel_of_sum(p, lane() / 4)) = make_float2(x * code_unit, y * code_unit);
    }
  }
}

/// What an output takes, but for the sums.
template <class Spec, class T>
__device__ void code_block<Spec, T>::put_outputs(int split, int splits, const attend_results& results) const {
  constexpr float ln2 = 0.693147181f;
  const int n = static_cast<int>(threadIdx.x);
  if (n >= count) return;
  const int64 row = first_row + (query + n) / group();
  const int query_head = head * group() + (query + n) % group();
  const int64 at = (row * view.model.query_heads + query_head) * splits + split;
  float top = part::lowest;
  for (int w = 0; w < warps; ++w) top = fmaxf(top, result(w, field_m)[n]);
  softmax_state state{top == part::lowest ? -infinity() : top * ln2, 0};
  output_of& of = outputs()[n];
  float sum[value::groups] = {};
  for (int w = 0; w < warps; ++w) {
    const float m = result(w, field_m)[n];
    // A warp that saw no row has m = lowest; one that met what is not finite alone has that too, and must show it.
    const float share =
        m == part::lowest && top != part::lowest && result(w, field_l)[n] == 0 ? 0.0f : exp2_of(m - top);
    of.shares[w] = share;
    state.l += result(w, field_l)[n] * share;
#pragma unroll
    for (int g = 0; g < value::groups; ++g) sum[g] += result(w, field_offsets + g)[n] * share;
  }
#pragma unroll
  for (int g = 0; g < value::groups; ++g) of.offsets[g] = sum[g];
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

template <class Spec, class T>
__device__ void code_block<Spec, T>::write_outputs() const {
  constexpr int quads = value::width / 4;
  for (int i = static_cast<int>(threadIdx.x); i < count * quads; i += threads) {
    const int n = i / quads;
    const int channel = i % quads * 4;
    const output_of& of = outputs()[n];
    const float offset = of.offsets[channel / (32 * value::group_chunks)];
    float4 x = make_float4(offset, offset, offset, offset);
#pragma unroll
    for (int w = 0; w < warps; ++w) {
      const float4 y = *reinterpret_cast<const float4*>(totals(w) + n * sum_pitch + channel);
      const float share = of.shares[w];
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

/// grid: (sequences x stored heads x query blocks, splits).
template <class Spec, class T>
KVC_KERNEL void __launch_bounds__(code_block<Spec, T>::threads, code_block<Spec, T>::blocks)
    attend_codes_kernel(cache_view<Spec> view, step_view step, step_bounds bounds, int slot, int query_blocks,
                        rows_view<const T> q, attend_params params, attend_results results) {
  using block_type = code_block<Spec, T>;
  extern __shared__ __align__(128) byte code_stages[];
  __shared__ tile_span spans[most_spans + 1];
  const int heads = view.model.stored_heads();
  const int block = static_cast<int>(blockIdx.x) % query_blocks;
  const int head = static_cast<int>(blockIdx.x) / query_blocks % heads;
  const int index = static_cast<int>(blockIdx.x) / query_blocks / heads;
  if (is_attend_out_of_range(view, step, bounds, index, params.window)) return;
  const int64 queries = step.rows(index) * view.model.group() - static_cast<int64>(block) * block_type::queries;
  if (queries <= 0) return;
  // Through a shuffle: the compiler knows that all lanes of a warp have the same.
  const int warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0);
  const block_type work{view,
                        step,
                        params,
                        index,
                        slot,
                        head,
                        block * block_type::queries,
                        static_cast<int>(min_of<int64>(queries, block_type::queries)),
                        step.seq_lens[index],
                        step.row_indptr[index],
                        code_stages,
                        spans,
                        warp};
  work.run(q, static_cast<int>(blockIdx.y), static_cast<int>(gridDim.y), results);
}

}  // namespace kvc::inline v0_1::cuda::detail
