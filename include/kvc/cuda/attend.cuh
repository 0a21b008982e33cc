// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/attention/state.hpp"
#include "kvc/cuda/attend_bytes.cuh"
#include "kvc/cuda/attend_codes.cuh"
#include "kvc/cuda/attend_kernel.cuh"

namespace kvc::inline v0_1::cuda {

namespace detail {

inline constexpr int merge_threads = 512;

/// Blocks that share the channels of an output: several where channels do not mix on the way to the model's space.
template <class Spec>
constexpr int merge_slices = is_direct<Spec>(1) && attend_shape<Spec>::value_pitch % 128 == 0
                                 ? attend_shape<Spec>::value_pitch / 128
                                 : 1;

/// Joins the splits of one query row and head, takes the sink in, and turns the sum into the model's space.
/// grid: (rows x query heads, slices).
template <class Spec>
KVC_KERNEL void __launch_bounds__(merge_threads)
    merge_kernel(cache_view<Spec> view, const int64* row_indptr, int sequences, int slot, int splits,
                 const float* partial_o, const float* partial_state, const float* sink_logits, rows_view<float> out,
                 float* lse) {
  using shape = attend_shape<Spec>;
  using value_stream = stream_of<Spec, Spec::values_are_first>;
  const block_team<merge_threads> team;
  constexpr int slices = merge_slices<Spec>;
  constexpr int width = shape::value_pitch / slices;
  constexpr int lanes = width / 4;  // a thread takes 4 channels of every parts-th split
  constexpr int parts = merge_threads / lanes;
  static_assert(parts > 0, "kvc: rows of more than 2048 values cannot be merged");
  __shared__ __align__(16) float sum[parts][width];
  __shared__ float output[slices > 1 ? 1 : Spec::output_width];
  const int64 item = blockIdx.x;
  const int64 row = item / view.model.query_heads;
  const int query_head = static_cast<int>(item % view.model.query_heads);
  const int head = query_head / view.model.group();
  const int begin = static_cast<int>(blockIdx.y) * width;  // of the channels
  const float minus_infinity = -infinity();

  // Memory is far, and splits are many: loads are asked for before the first is needed.
  constexpr int batch = 8;
  const int channel = team.rank() % lanes * 4;
  const int own_split = team.rank() / lanes;
  const bool is_idle = own_split >= parts;
  const float* from = partial_o + item * splits * shape::value_pitch + begin + channel;
  float4 some[batch];
  const auto load = [&](int split) {
#pragma unroll
    for (int b = 0; b < batch; ++b) {
      const int s = min_of(split + b * parts, splits - 1);
      some[b] = *reinterpret_cast<const float4*>(from + static_cast<int64>(s) * shape::value_pitch);
    }
  };
  load(own_split);
  const float* states = partial_state + 2 * item * splits;
  const auto state_of = [&](int split) { return *reinterpret_cast<const float2*>(states + 2 * split); };
  constexpr int lane_states = most_splits / 32;
  float2 of_lane[lane_states];  // every warp has them all: no warp waits for another
  const warp_team<> warp;
#pragma unroll
  for (int i = 0; i < lane_states; ++i) {
    const int s = warp.rank() + 32 * i;
    of_lane[i] = s < splits ? state_of(s) : make_float2(minus_infinity, 0);
  }
  if (row >= row_indptr[sequences]) return;

  // A split without rows has m = -inf and l = 0; where all scores are -inf, m is that as well.
  float m = minus_infinity;
#pragma unroll
  for (int i = 0; i < lane_states; ++i) m = fmaxf(m, of_lane[i].x);
  m = warp.largest(m);
  if (sink_logits != nullptr) m = fmaxf(m, sink_logits[query_head]);
  const float top = m == minus_infinity ? 0.0f : m;
  // Not inf - inf, which the states of one split do not meet either.
  const auto weight_of = [&](float2 state) {
    return state.y == 0 ? 0.0f : state.x == top ? 1.0f : exp_of(state.x - top);
  };
  float l = 0;
#pragma unroll
  for (int i = 0; i < lane_states; ++i) l += of_lane[i].y * weight_of(of_lane[i]);
  l = warp.sum(l);
  const float total = sink_logits == nullptr ? l : l + exp_of(sink_logits[query_head] - top);
  const float inverse = total == 0 ? 0.0f : 1.0f / total;

  float4 x = make_float4(0, 0, 0, 0);
  for (int split = own_split; split < splits; split += batch * parts) {
    if (split != own_split) load(split);
#pragma unroll
    for (int b = 0; b < batch; ++b) {
      const int s = split + b * parts;
      const float w = s < splits ? weight_of(state_of(s)) : 0.0f;
      if (w != 0) {  // else the part may be anything
        x = make_float4(x.x + w * some[b].x, x.y + w * some[b].y, x.z + w * some[b].z, x.w + w * some[b].w);
      }
    }
  }
  if (!is_idle) *reinterpret_cast<float4*>(sum[own_split] + channel) = x;
  team.sync();
  for (int c = team.rank(); c < width; c += team.size()) {
    float x = sum[0][c];
#pragma unroll
    for (int p = 1; p < parts; ++p) x += sum[p][c];
    sum[0][c] = x * inverse;
  }
  float* to = out.at(row, query_head);
  if constexpr (slices > 1) {
    for (int c = team.rank(); c < width; c += team.size()) to[begin + c] = sum[0][c];  // its own
  } else {
    team.sync();
    const float* constants = view.calibration.template of<Spec::values_are_first>(slot, head);
    transform<value_stream>::unfold_output(sum[0], l * inverse, output, constants, team);
    team.sync();
    for (int c = team.rank(); c < Spec::output_width; c += team.size()) to[c] = output[c];
  }
  if (lse != nullptr && team.rank() == 0 && begin == 0) lse[item] = total == 0 ? minus_infinity : m + log_of(total);
}

/// Whether queries are attended with products of bytes, by code for sm_90a.
template <class Spec>
constexpr bool takes_bytes(const device_limits& device) {
  if constexpr (byte_shape<Spec>::exists) {
    using largest = byte_block<Spec, float, 16>;  // has more teams than those of more queries
    return device.has_warpgroups && largest::bytes + largest::fixed_bytes <= device.shared_bytes;
  }
  return false;
}

/// Whether few queries are attended by warps of their own, with codes as operands.
template <class Spec>
constexpr bool takes_codes(const device_limits& device) {
  if constexpr (attend_shape<Spec>::has_codes) return code_block<Spec, float>::bytes + 2048 <= device.shared_bytes;
  return false;
}

template <class Spec, class T, int Queries>
status launch_attend(const cache_view<Spec>& view, const step_view& step, const step_bounds& bounds,
                     const attend_plan& plan, int slot, rows_view<const T> q, const attend_params& params,
                     const attend_results& results, cudaStream_t stream) {
  const int64 blocks = static_cast<int64>(bounds.sequences) * view.model.stored_heads() * plan.query_blocks;
  return launch(attend_kernel<Spec, T, Queries>,
                dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(plan.splits)), attend_shape<Spec>::threads,
                attend_layout<Spec, Queries>::bytes, stream, "attend", view, step, bounds, slot, plan.query_blocks, q,
                params, results);
}

/// The same with products of bytes. Answers unsupported where it was compiled without their code.
template <class Spec, class T, int Queries>
status launch_bytes(const cache_view<Spec>& view, const step_view& step, const step_bounds& bounds,
                    const attend_plan& plan, int slot, rows_view<const T> q, const attend_params& params,
                    const attend_results& results, cudaStream_t stream) {
  using block = byte_block<Spec, T, Queries>;
  if (!has_bytes_code<Spec, T, Queries>()) return status::unsupported;
  const int query_blocks = static_cast<int>(ceil_div<int64>(bounds.max_rows * view.model.group(), Queries));
  return launch(attend_bytes_kernel<Spec, T, Queries>,
                dim3(static_cast<unsigned>(bounds.sequences * query_blocks), static_cast<unsigned>(plan.splits)),
                block::threads, block::bytes, stream, "attend", view, step, bounds, slot, query_blocks, q, params,
                results);
}

/// The same by warps of their own, for few queries.
template <class Spec, class T>
status launch_codes(const cache_view<Spec>& view, const step_view& step, const step_bounds& bounds,
                    const attend_plan& plan, int slot, rows_view<const T> q, const attend_params& params,
                    const attend_results& results, cudaStream_t stream) {
  using block = code_block<Spec, T>;
  static_assert(block::queries == attend_shape<Spec>::few);
  const int64 blocks = static_cast<int64>(bounds.sequences) * view.model.stored_heads() * plan.query_blocks;
  return launch(attend_codes_kernel<Spec, T>, dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(plan.splits)),
                block::threads, block::bytes, stream, "attend", view, step, bounds, slot, plan.query_blocks, q, params,
                results);
}

}  // namespace detail

/// Attends the step's queries over the layer's slot: row i of a sequence sees the rows up to its own position. Enqueues
/// a kernel on `stream`, and one that joins splits where there are any or outputs are to be unfolded; never allocates
/// or synchronizes, and reads lengths and tables on the device only, so that a captured graph replays with others
/// within `bounds`; a sequence that bounds.report calls out of range is left out, and its outputs mean nothing. q:
/// [rows][query_heads][query_width], out: [rows][query_heads][output_width], lse: [rows][query_heads] or null, natural
/// logarithm, -inf where a query sees nothing (its output is zero). All pointers are the device's; workspace:
/// attend_workspace_bytes of these bounds and this device; it and a table of angles are aligned to 16 bytes, q,
/// out, lse and sinks to their elements, else the answer is misaligned. Products are bf16 with fp32 sums; where rows
/// are stored in fp32, two bf16 for each factor. Latents in 4-bit codes meet queries in bytes on Hopper, keys and
/// values in codes of 2, 4 or 8 bits few queries in two bytes and weights in fp16 (route tells), unless
/// params.fp32_products.
template <class Spec, class T>
status attend(const cache_view<Spec>& view, const step_view& step, const step_bounds& bounds, int layer,
              rows_view<const T> q, rows_view<float> out, float* lse, const attend_params& params, void* workspace,
              int64 workspace_bytes, cudaStream_t stream, const device_limits& device = {}) {
  using shape = detail::attend_shape<Spec>;
  const status s = detail::check_step(view, step, bounds);
  if (s != status::ok) return s;
  if (layer < 0 || layer >= view.model.layers) return status::bad_layer;
  if (!(params.scale > 0) || params.soft_cap < 0 || params.window < 0) return status::invalid_argument;
  const step_bounds present = detail::within(bounds, step);
  if (bounds.total_rows == 0 || present.sequences == 0) return status::ok;
  if (q.data == nullptr || out.data == nullptr || workspace == nullptr) return status::null_pointer;
  if (reinterpret_cast<size_type>(workspace) % 16 != 0) return status::misaligned;
  const size_type floats = reinterpret_cast<size_type>(out.data) | reinterpret_cast<size_type>(lse) |
                           reinterpret_cast<size_type>(params.sink_logits);
  if (reinterpret_cast<size_type>(q.data) % alignof(T) != 0 || floats % alignof(float) != 0) return status::misaligned;
  if (workspace_bytes < attend_workspace_bytes<Spec>(view.model, bounds, device)) return status::workspace_too_small;
  if constexpr (Spec::first_stream::is_deferred) {
    if (params.rotary.cos_sin == nullptr) return status::null_pointer;
    if (reinterpret_cast<size_type>(params.rotary.cos_sin) % 16 != 0) return status::misaligned;
    if (params.rotary.pairs != Spec::rotary_policy::template pair_count<Spec::shape_type::head_dim>) {
      return status::invalid_argument;
    }
    if (bounds.max_length > params.rotary.positions) return status::bad_position;
  }

  const detail::attend_plan plan = detail::plan_attend<Spec>(view.model, bounds, device);
  const int slot = view.model.slot(layer);
  const int64 items = bounds.total_rows * view.model.query_heads;
  float* partial_o = static_cast<float*>(workspace);
  const detail::attend_results results{partial_o, partial_o + items * plan.splits * shape::value_pitch, out, lse};
  status launched = status::unsupported;
  if constexpr (detail::byte_shape<Spec>::exists) {
    const auto launch = [&]<int Queries>() {
      return detail::launch_bytes<Spec, T, Queries>(view, step, present, plan, slot, q, params, results, stream);
    };
    if (detail::takes_bytes<Spec>(device) && !params.fp32_products) {
      const int queries = shape::byte_queries(bounds.max_rows * view.model.group());
      if (queries == 16) launched = launch.template operator()<16>();
      if (queries == 32) launched = launch.template operator()<32>();
      if constexpr (shape::most_byte_queries > 32) {
        if (queries > 32) launched = launch.template operator()<shape::most_byte_queries>();
      }
    }
  }
  if constexpr (shape::has_codes) {
    if (detail::takes_codes<Spec>(device) && plan.queries == shape::few && !params.fp32_products) {
      launched = detail::launch_codes<Spec, T>(view, step, present, plan, slot, q, params, results, stream);
    }
  }
  if (launched == status::unsupported) {
    const auto launch = [&]<int Queries>() {
      return detail::launch_attend<Spec, T, Queries>(view, step, present, plan, slot, q, params, results, stream);
    };
    launched = plan.queries == shape::few ? launch.template operator()<shape::few>()
                                          : launch.template operator()<shape::many>();
  }
  if (launched != status::ok || detail::is_direct<Spec>(plan.splits)) return launched;
  return detail::launch(detail::merge_kernel<Spec>, dim3(static_cast<unsigned>(items), detail::merge_slices<Spec>),
                        detail::merge_threads, 0, stream, "attend", view, step.row_indptr, present.sequences, slot,
                        plan.splits, results.o, results.states, params.sink_logits, out, lse);
}

}  // namespace kvc::inline v0_1::cuda
