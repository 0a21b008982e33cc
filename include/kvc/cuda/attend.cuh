// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/attention/state.hpp"
#include "kvc/cuda/attend_bytes.cuh"
#include "kvc/cuda/attend_kernel.cuh"

namespace kvc::inline v0_1::cuda {

namespace detail {

inline constexpr int merge_threads = 128;

/// Joins the splits of one query row and head, takes the sink in, and turns the sum into the model's space: one block.
template <class Spec>
KVC_KERNEL void __launch_bounds__(merge_threads)
    merge_kernel(cache_view<Spec> view, const int64* row_indptr, int sequences, int slot, int splits,
                 const float* partial_o, const float* partial_state, const float* sink_logits, rows_view<float> out,
                 float* lse) {
  using shape = attend_shape<Spec>;
  using value_stream = stream_of<Spec, Spec::values_are_first>;
  const block_team<merge_threads> team;
  __shared__ float sum[shape::value_pitch];
  __shared__ float output[Spec::output_width];
  __shared__ float weights[most_splits];
  const int64 item = blockIdx.x;
  const int64 row = item / view.model.query_heads;
  const int query_head = static_cast<int>(item % view.model.query_heads);
  if (row >= row_indptr[sequences]) return;
  const int head = query_head / view.model.group();
  const float minus_infinity = -infinity();

  // A split without rows has m = -inf and l = 0; where all scores are -inf, m is that as well.
  const float* states = partial_state + 2 * item * splits;
  float m = minus_infinity;
  for (int s = team.rank(); s < splits; s += team.size()) m = fmaxf(m, states[2 * s]);
  m = team.largest(m);
  if (sink_logits != nullptr) m = fmaxf(m, sink_logits[query_head]);
  const float top = m == minus_infinity ? 0.0f : m;
  float l = 0;
  for (int s = team.rank(); s < splits; s += team.size()) {
    const float2 state = *reinterpret_cast<const float2*>(states + 2 * s);
    // Not inf - inf, which the states of one split do not meet either.
    weights[s] = state.y == 0 ? 0.0f : state.x == top ? 1.0f : exp_of(state.x - top);
    l += state.y * weights[s];
  }
  l = team.sum(l);
  team.sync();
  const float total = sink_logits == nullptr ? l : l + exp_of(sink_logits[query_head] - top);

  const float inverse = total == 0 ? 0.0f : 1.0f / total;
  const float* parts = partial_o + item * splits * shape::value_pitch;
  for (int c = team.rank(); c < shape::value_pitch; c += team.size()) {
    float x = 0;
#pragma unroll 8
    for (int s = 0; s < splits; ++s) {
      const float w = weights[s];
      if (w != 0) x += w * parts[static_cast<int64>(s) * shape::value_pitch + c];
    }
    sum[c] = x * inverse;
  }
  team.sync();

  const float* constants = view.calibration.template of<Spec::values_are_first>(slot, head);
  transform<value_stream>::unfold_output(sum, l * inverse, output, constants, team);
  team.sync();
  for (int c = team.rank(); c < Spec::output_width; c += team.size()) out.at(row, query_head)[c] = output[c];
  if (lse != nullptr && team.rank() == 0) lse[item] = total == 0 ? minus_infinity : m + log_of(total);
}

/// Whether few queries are attended with products of bytes.
template <class Spec>
constexpr bool takes_bytes(const device_limits& device) {
  if constexpr (byte_shape<Spec>::exists) return byte_block<Spec, float>::bytes + 1024 <= device.shared_bytes;
  return false;
}

template <class Spec, class T, int Queries>
status launch_attend(const cache_view<Spec>& view, const step_view& step, const attend_plan& plan, int slot,
                     rows_view<const T> q, const attend_params& params, const attend_results& results,
                     cudaStream_t stream, const device_limits& device = {}) {
  const dim3 grid(static_cast<unsigned>(step.sequences * view.model.stored_heads() * plan.query_blocks),
                  static_cast<unsigned>(plan.splits));
  if constexpr (byte_shape<Spec>::exists && Queries == attend_shape<Spec>::few) {
    using block = byte_block<Spec, T>;
    static_assert(block::queries == Queries);
    if (takes_bytes<Spec>(device) && !params.fp32_products) {
      return launch(attend_bytes_kernel<Spec, T>, grid, block::threads, block::bytes, stream, "attend", view, step,
                    slot, plan.query_blocks, q, params, results);
    }
  }
  return launch(attend_kernel<Spec, T, Queries>, grid, attend_shape<Spec>::threads, attend_layout<Spec, Queries>::bytes,
                stream, "attend", view, step, slot, plan.query_blocks, q, params, results);
}

}  // namespace detail

/// Attends the step's queries over the layer's slot: row i of a sequence sees the rows up to its own position. Enqueues
/// a kernel on `stream`, and one that joins splits where there are any or outputs are to be unfolded; never allocates
/// or synchronizes, and reads lengths and tables on the device only, so that a captured graph replays with others
/// within `bounds`. q: [rows][query_heads][query_width], out: [rows][query_heads][output_width], lse:
/// [rows][query_heads] or null, natural logarithm, -inf where a query sees nothing (its output is zero). All pointers
/// are the device's; workspace: attend_workspace_bytes of these bounds and this device; it and a table of angles are
/// aligned to 16 bytes. Products are bf16 with fp32 sums; where rows are stored in fp32, two bf16 for each factor. Few
/// queries meet a latent in 4-bit codes in bytes (route tells), unless params.fp32_products.
template <class Spec, class T>
status attend(const cache_view<Spec>& view, const step_view& step, const step_bounds& bounds, int layer,
              rows_view<const T> q, rows_view<float> out, float* lse, const attend_params& params, void* workspace,
              int64 workspace_bytes, cudaStream_t stream, const device_limits& device = {}) {
  using shape = detail::attend_shape<Spec>;
  const status s = detail::check_step(view, step, bounds);
  if (s != status::ok) return s;
  if (layer < 0 || layer >= view.model.layers) return status::bad_layer;
  if (!(params.scale > 0) || params.soft_cap < 0 || params.window < 0) return status::invalid_argument;
  if (step.sequences != bounds.sequences) return status::invalid_argument;
  if (bounds.total_rows == 0 || bounds.sequences == 0) return status::ok;
  if (q.data == nullptr || out.data == nullptr || workspace == nullptr) return status::null_pointer;
  if (reinterpret_cast<size_type>(workspace) % 16 != 0) return status::misaligned;
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
  const auto launch = [&]<int Queries>() {
    return detail::launch_attend<Spec, T, Queries>(view, step, plan, slot, q, params, results, stream, device);
  };
  status launched = status::unsupported;
  if (plan.queries == shape::few) {
    launched = launch.template operator()<shape::few>();
  } else {
    launched = launch.template operator()<shape::many>();
  }
  if (launched != status::ok || detail::is_direct<Spec>(plan.splits)) return launched;
  return detail::launch(detail::merge_kernel<Spec>, dim3(static_cast<unsigned>(items)), detail::merge_threads, 0,
                        stream, "attend", view, step.row_indptr, step.sequences, slot, plan.splits, results.o,
                        results.states, params.sink_logits, out, lse);
}

}  // namespace kvc::inline v0_1::cuda
