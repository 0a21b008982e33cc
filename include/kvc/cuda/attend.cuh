// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cuda_runtime_api.h>

#include "kvc/attention/state.hpp"
#include "kvc/cuda/attend_kernel.cuh"

namespace kvc::inline v0_1::cuda {

namespace detail {

/// Joins the splits of one query row and head, takes the sink in, and turns the sum into the model's space: one warp.
template <class Spec>
__global__ void __launch_bounds__(threads)
    merge_kernel(cache_view<Spec> view, const int64* row_indptr, int sequences, int slot, int splits,
                 const float* partial_o, const float* partial_state, const float* sink_logits, rows_view<float> out,
                 float* lse) {
  using shape = attend_shape<Spec>;
  using value_stream = stream_of<Spec, Spec::values_are_first>;
  extern __shared__ __align__(16) byte shared[];
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64 item = static_cast<int64>(blockIdx.x) * warps + warp;
  const int64 row = item / view.model.query_heads;
  const int query_head = static_cast<int>(item % view.model.query_heads);
  if (row >= row_indptr[sequences]) return;
  const int head = query_head / view.model.group();

  float* sum = reinterpret_cast<float*>(shared) + warp * (shape::value_pitch + Spec::output_width);
  float* output = sum + shape::value_pitch;
  const float minus_infinity = -infinity();

  const float* states = partial_state + 2 * item * splits;
  softmax_state rows;  // of the rows alone
  for (int s = lane; s < splits; s += 32) rows.m = fmaxf(rows.m, states[2 * s]);
  for (int x = 16; x > 0; x /= 2) rows.m = fmaxf(rows.m, __shfl_xor_sync(~0u, rows.m, x));
  softmax_state total = rows;
  if (sink_logits != nullptr) total.m = fmaxf(rows.m, sink_logits[query_head]);
  const float top = total.m == minus_infinity ? 0.0f : total.m;
  const auto weight = [&](int s) {
    const float m = states[2 * s];
    return m == minus_infinity && states[2 * s + 1] == 0 ? 0.0f : m == top ? 1.0f : exp_of(m - top);
  };
  for (int s = lane; s < splits; s += 32) rows.l += states[2 * s + 1] * weight(s);
  for (int x = 16; x > 0; x /= 2) rows.l += __shfl_xor_sync(~0u, rows.l, x);
  total.l = rows.l;
  if (sink_logits != nullptr) total.l += exp_of(sink_logits[query_head] - top);

  const float inverse = total.l == 0 ? 0.0f : 1.0f / total.l;
  const float* parts = partial_o + item * splits * shape::value_pitch;
  for (int c = lane; c < shape::value_pitch; c += 32) {
    float x = 0;
    for (int s = 0; s < splits; ++s) {
      const float w = weight(s);
      if (states[2 * s + 1] != 0) x += w * parts[static_cast<int64>(s) * shape::value_pitch + c];
    }
    sum[c] = x * inverse;
  }
  __syncwarp();

  const float* constants = nullptr;
  if (view.calibration.data != nullptr) {
    constants = Spec::values_are_first ? view.calibration.first(slot, head) : view.calibration.second(slot, head);
  }
  if (lane == 0) transform<value_stream>::unfold_output(sum, rows.l * inverse, output, constants);
  __syncwarp();
  for (int c = lane; c < Spec::output_width; c += 32) out.at(row, query_head)[c] = output[c];
  if (lse != nullptr && lane == 0) lse[item] = total.l == 0 ? minus_infinity : total.m + log_of(total.l);
}

template <class Spec, class T, int Queries>
status launch_attend(const cache_view<Spec>& view, const step_view& step, const attend_plan& plan, int slot,
                     rows_view<const T> q, const attend_params& params, float* partial_o, float* partial_state,
                     cudaStream_t stream) {
  constexpr int bytes = attend_layout<Spec, Queries>::bytes;
  const auto kernel = attend_kernel<Spec, T, Queries>;
  if constexpr (bytes > 48 * 1024) {
    if (cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes) != cudaSuccess) {
      return status::unsupported;
    }
  }
  const dim3 grid(static_cast<unsigned>(step.sequences * view.model.stored_heads() * plan.query_blocks),
                  static_cast<unsigned>(plan.splits));
  kernel<<<grid, threads, bytes, stream>>>(view, step, slot, plan.query_blocks, q, params, partial_o, partial_state);
  return cudaPeekAtLastError() == cudaSuccess ? status::ok : status::unsupported;
}

}  // namespace detail

/// Attends the step's queries over the layer's slot: row i of a sequence sees the rows up to its own position. Enqueues
/// two kernels on `stream`; never allocates or synchronizes, and reads lengths and tables on the device only, so that a
/// captured graph replays with others within `bounds`.
/// q: [rows][query_heads][query_width], out: [rows][query_heads][output_width], lse: [rows][query_heads] or null,
/// natural logarithm, -inf where a query sees nothing (its output is zero). All pointers are the device's; workspace:
/// attend_workspace_bytes of these bounds and this device, aligned to 16 bytes.
/// Products are bf16 with fp32 sums; where rows are stored in fp32, two bf16 for each factor.
template <class Spec, class T>
status attend(const cache_view<Spec>& view, const step_view& step, const step_bounds& bounds, int layer,
              rows_view<const T> q, rows_view<float> out, float* lse, const attend_params& params, void* workspace,
              int64 workspace_bytes, cudaStream_t stream, const device_limits& device = {}) {
  using shape = detail::attend_shape<Spec>;
  const status s = kvc::detail::check_view(view);
  if (s != status::ok) return s;
  if (layer < 0 || layer >= view.model.layers) return status::bad_layer;
  if (!(params.scale > 0) || params.soft_cap < 0 || params.window < 0) return status::invalid_argument;
  if (step.sequences != bounds.sequences || bounds.total_rows < 0 || bounds.max_rows < 0 || bounds.max_length < 0) {
    return status::invalid_argument;
  }
  if (bounds.total_rows == 0 || bounds.sequences == 0) return status::ok;
  if (q.data == nullptr || out.data == nullptr || workspace == nullptr) return status::null_pointer;
  if (step.seq_lens == nullptr || step.row_indptr == nullptr || step.block_table == nullptr)
    return status::null_pointer;
  if (reinterpret_cast<size_type>(workspace) % 16 != 0) return status::misaligned;
  if (workspace_bytes < attend_workspace_bytes<Spec>(view.model, bounds, device)) return status::workspace_too_small;
  if constexpr (Spec::first_stream::is_deferred) {
    if (params.rotary.cos_sin == nullptr) return status::null_pointer;
    if (params.rotary.pairs != Spec::rotary_policy::template pair_count<Spec::shape_type::head_dim>) {
      return status::invalid_argument;
    }
    if (bounds.max_length > params.rotary.positions) return status::bad_position;
  }

  const detail::attend_plan plan = detail::plan_attend<Spec>(view.model, bounds, device);
  const int slot = view.model.slot(layer);
  const int64 items = bounds.total_rows * view.model.query_heads;
  float* partial_o = static_cast<float*>(workspace);
  float* partial_state = partial_o + items * plan.splits * shape::value_pitch;
  const auto launch = [&]<int Queries>() {
    return detail::launch_attend<Spec, T, Queries>(view, step, plan, slot, q, params, partial_o, partial_state, stream);
  };
  status launched = status::unsupported;
  if (plan.queries == shape::few) {
    launched = launch.template operator()<shape::few>();
  } else {
    launched = launch.template operator()<shape::many>();
  }
  if (launched != status::ok) return launched;
  constexpr int bytes = detail::warps * (shape::value_pitch + Spec::output_width) * static_cast<int>(sizeof(float));
  detail::merge_kernel<Spec>
      <<<static_cast<unsigned>(ceil_div<int64>(items, detail::warps)), detail::threads, bytes, stream>>>(
          view, step.row_indptr, step.sequences, slot, plan.splits, partial_o, partial_state, params.sink_logits, out,
          lse);
  return cudaPeekAtLastError() == cudaSuccess ? status::ok : status::unsupported;
}

}  // namespace kvc::inline v0_1::cuda
