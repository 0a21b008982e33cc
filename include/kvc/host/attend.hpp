// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/host/attend_item.hpp"

// Attention of a step's queries over a composed cache, on the host. What a slice does is in attend_item.hpp.

namespace kvc::inline v0_1::host {

namespace detail {

/// Every page that a query of the step sees must be there: the first query of a sequence sees the oldest.
template <class Spec>
status check_visible_pages(const cache_view<Spec>& view, const step_view& step, const attend_params& params) {
  using tokens = typename Spec::tokens_policy;
  constexpr int64 per_page = Spec::tokens_per_page;
  for (int i = 0; i < step.sequences; ++i) {
    if (step.rows(i) == 0) continue;
    const visible_rows v = visible_at(step.seq_lens[i], tokens::sinks, tokens::window, params.window);
    for (int64 p = 0; p * per_page < step.seq_lens[i]; ++p) {
      if (step.block(i, p) >= view.blocks) return status::invalid_argument;
      if (step.block(i, p) >= 0) continue;
      const bool seen = !v.sinks.within(p * per_page, (p + 1) * per_page).empty() ||
                        !v.recent.within(p * per_page, (p + 1) * per_page).empty();
      if (seen) return status::evicted;
    }
  }
  return status::ok;
}

template <class Spec, class T>
status attend_phase(bool merges, const cache_view<Spec>& view, const step_view& step, int layer, rows_view<const T> q,
                    rows_view<float> out, float* lse, const attend_params& params, void* workspace,
                    int64 workspace_bytes, slice part) {
  status s = check_view(view);
  if (s == status::ok) s = check_step(view, step);
  if (s != status::ok) return s;
  if (layer < 0 || layer >= view.model.layers) return status::bad_layer;
  if (part.count < 1 || part.index < 0 || part.index >= part.count) return status::invalid_argument;
  if (!(params.scale > 0) || params.soft_cap < 0 || params.window < 0) return status::invalid_argument;
  if (step.total_rows() == 0) return status::ok;
  if (q.data == nullptr || out.data == nullptr || workspace == nullptr) return status::null_pointer;
  if (reinterpret_cast<size_type>(workspace) % sizeof(float) != 0) return status::misaligned;
  if (workspace_bytes < attend_workspace_bytes<Spec>(view.model, step, part.count)) return status::workspace_too_small;
  if constexpr (Spec::first_stream::is_deferred) {
    if (params.rotary.cos_sin == nullptr) return status::null_pointer;
    if (params.rotary.pairs != Spec::rotary_policy::template pair_count<Spec::shape_type::head_dim>) {
      return status::invalid_argument;
    }
    for (int i = 0; i < step.sequences; ++i) {
      if (step.seq_lens[i] + step.rows(i) > params.rotary.positions) return status::bad_position;
    }
  }
  s = check_visible_pages(view, step, params);
  if (s != status::ok) return s;
  if (merges && !may_cut(view.model, step, part.count)) return status::ok;
  byte* base = static_cast<byte*>(workspace);
  base += (64 - reinterpret_cast<size_type>(base) % 64) % 64;
  const int64 scratch = attend_shape<Spec>::scratch_bytes(view.model.group());
  attend_call<Spec, T> call(view, step, view.model.slot(layer), q, out, lse, params);
  call.partials = reinterpret_cast<float*>(base + part.count * scratch);
  call.most_partials = most_partials(view.model, step);
  call.carve(base + part.index * scratch);
  if (merges) {
    call.merge(part);
  } else {
    call.run(part);
  }
  return status::ok;
}

}  // namespace detail

/// Attends the step's queries over the layer's slot: row i of a sequence sees the rows up to its own position.
/// q: [rows][query_heads][query_width], out: [rows][query_heads][output_width], lse: [rows][query_heads] or null,
/// natural logarithm, -inf where a query sees nothing (its output is zero). workspace: attend_workspace_bytes of this
/// step and part.count, aligned to 4 bytes, one for all slices.
/// Never allocates or throws. Call it once per slice; when all slices have returned, call attend_merge the same way.
/// Answers ok; workspace_too_small; invalid_argument for a scale that is not positive, a negative cap or window, or a
/// rotary table of another number of pairs; bad_position where that table is too short; else as append does.
template <class Spec, class T>
status attend(const cache_view<Spec>& view, const step_view& step, int layer, rows_view<const T> q,
              rows_view<float> out, float* lse, const attend_params& params, void* workspace, int64 workspace_bytes,
              slice part = {}) {
  return detail::attend_phase<Spec, T>(false, view, step, layer, q, out, lse, params, workspace, workspace_bytes, part);
}

/// The second half of attend: joins the splits of long contexts. Returns at once where there is nothing to join.
template <class Spec, class T>
status attend_merge(const cache_view<Spec>& view, const step_view& step, int layer, rows_view<const T> q,
                    rows_view<float> out, float* lse, const attend_params& params, void* workspace,
                    int64 workspace_bytes, slice part = {}) {
  return detail::attend_phase<Spec, T>(true, view, step, layer, q, out, lse, params, workspace, workspace_bytes, part);
}

}  // namespace kvc::inline v0_1::host
