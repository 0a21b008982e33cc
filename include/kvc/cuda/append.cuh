// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cuda/row_team.cuh"
#include "kvc/cuda/seal.cuh"

// Appending a step's rows to a composed cache, on the device:
//
//   rows    a team per new row, stored head and stream: load, transform, round; then into exact rows and staging,
//           or as codes into the page at once
//   seals   (seal.cuh, only where a stream has a ring) a team per group of tokens that the step completes
//
// Two kernels, because a group is made of rows that other teams write: staged ones of this step, and older ones of the
// ring. Where every row is encoded at once there is only the first.

namespace kvc::inline v0_1::cuda {

namespace detail {

template <class Spec, class T, row_preparation Params>
struct append_call {
  cache_view<Spec> view;
  step_view step;
  step_bounds bounds;
  int slot;
  rows_view<const T> first;   ///< [rows][kv_heads][model_width]
  rows_view<const T> second;  ///< the same of the second stream
  bool is_wide;               ///< both can be read 16 bytes at a time
  Params params;
};

/// The model row of a stored head into shared memory, prepared; find() answers its position, and runs while the loads
/// are on their way.
template <class Spec, bool First, class T, row_preparation Params, class Find>
__device__ int64 load_row(const append_call<Spec, T, Params>& c, int64 row, int head, const float* weights, float* x,
                          const Find& find) {
  using stream_type = stream_of<Spec, First>;
  using team = typename row_teams<stream_type>::team;
  using wide = wide_row<stream_type::model_width, T, team>;
  const rows_view<const T>& rows = First ? c.first : c.second;
  const int merged = c.view.model.merged();
  if constexpr (wide::fits) {
    if (c.is_wide && merged == 1) {
      wide registers;
      registers.load(rows.at(row, head), team{});
      const int64 t = find();
      registers.store(x, team{});
      team::sync();
      if constexpr (Params::prepares) {
        if (t >= 0) kvc::detail::prepare_row<Spec, First>(c.params, t, x, team{});
      }
      return t;
    }
  }
  const int64 t = find();
  if constexpr (Params::prepares) {
    if (t >= 0) kvc::detail::load_prepared_row<Spec, First>(rows, row, head, merged, weights, c.params, t, x, team{});
  } else {
    kvc::detail::load_model_row<stream_type::model_width>(rows, row, head, merged, weights, x, team{});
    team::sync();
  }
  return t;
}

/// From the model's row in shared memory to the stored row, rounded; returns where that is.
template <class Stream>
__device__ float* store_row(float* shared, const float* constants) {
  using teams = row_teams<Stream>;
  using team = typename teams::team;
  float* model = teams::model_row(shared);
  float* stored = teams::stored_row(shared);
  if constexpr (teams::in_place) {
    transform<Stream>::store_in_place(stored, constants, team{});
  } else {
    transform<Stream>::store(model, stored, constants, team{});
  }
  round_stored<Stream>(stored, team{});
  return stored;
}

template <class Spec, bool First, class T, row_preparation Params>
__device__ void append_rows(const append_call<Spec, T, Params>& c, float* shared) {
  using stream_type = stream_of<Spec, First>;
  using teams = row_teams<stream_type>;
  const typename teams::team team;
  const int heads = c.view.model.stored_heads();
  const unsigned item = blockIdx.x * teams::per_block + threadIdx.x / teams::lanes;
  const int64 row = item / static_cast<unsigned>(heads);  // 32 bits: launchers refuse more
  const int head = static_cast<int>(item % static_cast<unsigned>(heads));
  if (row >= c.bounds.total_rows || row >= c.step.row_indptr[c.bounds.sequences]) return;

  int i = 0;
  const kvc::detail::head_constants constants = kvc::detail::constants_of<First>(c.view, c.slot, head);
  const int64 t = load_row<Spec, First>(c, row, head, constants.merge_weights, teams::model_row(shared), [&] {
    i = sequence_of(c.step.row_indptr, c.bounds.sequences, row, team);
    const int64 position = c.step.seq_lens[i] + row - c.step.row_indptr[i];
    return is_out_of_range(c.view, c.step, c.bounds, i, position) ? int64{-1} : position;
  });
  if (t < 0) return;

  const stream_rows<Spec, First> at(c.view, c.step, i, c.slot, head);
  place_row(at, store_row<stream_type>(shared, constants.transform), t, team);
}

template <class Spec, class T, row_preparation Params>
KVC_KERNEL void __launch_bounds__(row_grid<Spec>::threads)
    append_kernel(const __grid_constant__ append_call<Spec, T, Params> c) {
  extern __shared__ __align__(16) byte shared[];
  float* const floats = reinterpret_cast<float*>(shared);
  if (blockIdx.y == 0) {
    append_rows<Spec, true>(c, floats);
  } else {
    append_rows<Spec, false>(c, floats);
  }
}

template <class Spec, bool First, class T>
__device__ void append_slot_rows(const append_call<Spec, T, rows_as_given>& c, const int64* slot_mapping, int64 rows,
                                 float* shared) {
  using stream_type = stream_of<Spec, First>;
  using teams = row_teams<stream_type>;
  const int heads = c.view.model.stored_heads();
  const unsigned item = blockIdx.x * teams::per_block + threadIdx.x / teams::lanes;
  const int64 row = item / static_cast<unsigned>(heads);  // 32 bits: launchers refuse more
  const int head = static_cast<int>(item % static_cast<unsigned>(heads));
  if (row >= rows) return;
  const int64 place = slot_mapping[row];
  if (reports(c.bounds.report, place < -1 || place >= c.view.blocks * Spec::tokens_per_page, wrong_table)) return;
  if (place < 0) return;

  const kvc::detail::head_constants constants = kvc::detail::constants_of<First>(c.view, c.slot, head);
  load_row<Spec, First>(c, row, head, constants.merge_weights, teams::model_row(shared), [&] { return place; });
  const float* stored = store_row<stream_type>(shared, constants.transform);
  byte* segment = c.view.page(c.slot, place / Spec::tokens_per_page) +
                  cache_view<Spec>::template segment_offset<First>(head, heads);
  stream_rows<Spec, First>::encode_in(segment, static_cast<int>(place % Spec::tokens_per_page), stored, 1,
                                      typename teams::team{});
}

template <class Spec, class T>
KVC_KERNEL void __launch_bounds__(row_grid<Spec>::threads)
    append_slots_kernel(const __grid_constant__ append_call<Spec, T, rows_as_given> c, const int64* slot_mapping,
                        int64 rows) {
  extern __shared__ __align__(16) byte shared[];
  float* const floats = reinterpret_cast<float*>(shared);
  if (blockIdx.y == 0) {
    append_slot_rows<Spec, true>(c, slot_mapping, rows, floats);
  } else {
    append_slot_rows<Spec, false>(c, slot_mapping, rows, floats);
  }
}

template <class Spec, class T, row_preparation Params>
status append(const append_call<Spec, T, Params>& c, cudaStream_t stream) {
  status s = seal_is_supported<Spec>();
  if (s == status::ok) s = kvc::detail::check_prepare<Spec>(c.params);
  if (s == status::ok && !kvc::detail::reaches(c.params, c.bounds.max_length)) s = status::bad_position;
  if (s != status::ok || c.bounds.total_rows == 0 || c.bounds.sequences == 0) return s;
  if (c.first.data == nullptr || c.second.data == nullptr) return status::null_pointer;
  using grid = row_grid<Spec>;
  const int64 items = c.bounds.total_rows * c.view.model.stored_heads();
  if (items > most_items) return status::invalid_argument;
  const status launched = launch(append_kernel<Spec, T, Params>, dim3(blocks_for(items, grid::per_block), 2),
                                 grid::threads, grid::shared_bytes, stream, "append", c);
  if (launched != status::ok) return launched;
  return seal<Spec>(c.view, c.step, c.bounds, c.slot, stream);
}

/// The rotary keys of joint rows [rank + rotary].
template <class Spec, class T>
rows_view<const T> after_latent(rows_view<const T> rows) {
  if (rows.data != nullptr) rows.data += Spec::first_stream::model_width;
  return rows;
}

}  // namespace detail

/// Appends the step's rows to the slot that `layer` writes. k, v: [rows][kv_heads][head_dim] in device memory, keys
/// after their rotary embedding (before it with rotary::deferred, and with append_params that turn them). As
/// host::append, the same bytes; everything that step points to lies on the device and is read there. Rows become
/// visible to attend on the same stream at once, and to later steps when seq_lens advances. Safe under graph capture:
/// never allocates, synchronizes or throws. Answers follower_layer, bad_layer, out_of_capacity where the bounds exceed
/// the block table or staging, unsupported where a group of tokens does not fit into shared memory, null_pointer,
/// misaligned, invalid_argument, device_error; with params, what host::append answers to them.
template <class Spec, class T, row_preparation Params = rows_as_given>
status append(const cache_view<Spec>& view, const step_view& step, const step_bounds& bounds, int layer,
              rows_view<const T> k, rows_view<const T> v, cudaStream_t stream, const Params& params = {}) {
  static_assert(!Spec::is_latent, "kvc: a latent cache appends one array of (latent | rotary key) rows, and no values");
  const status s = detail::check_append(view, step, bounds, layer);
  if (s != status::ok) return s;
  const bool is_wide = detail::is_wide(k) && detail::is_wide(v);
  return detail::append<Spec, T, Params>({view, step, bounds, view.model.slot(layer), k, v, is_wide, params}, stream);
}

/// The same for a latent cache. rows: [rows][1][rank + rotary].
template <class Spec, class T, row_preparation Params = rows_as_given>
status append(const cache_view<Spec>& view, const step_view& step, const step_bounds& bounds, int layer,
              rows_view<const T> rows, cudaStream_t stream, const Params& params = {}) {
  static_assert(Spec::is_latent, "kvc: append takes keys and values; only a latent cache takes joint rows");
  const status s = detail::check_append(view, step, bounds, layer);
  if (s != status::ok) return s;
  const rows_view<const T> rotary = detail::after_latent<Spec>(rows);
  const bool is_wide = detail::is_wide(rows) && detail::is_wide(rotary);
  return detail::append<Spec, T, Params>({view, step, bounds, view.model.slot(layer), rows, rotary, is_wide, params},
                                         stream);
}

/// Appends by slot mapping: row r goes to slot_mapping[r] = block * tokens_per_page + offset; -1 skips it. For engines
/// that place every token themselves. Only compositions without exact rows support it: sealing a group of tokens needs
/// the sequence. slot_mapping: [rows] in device memory; `report` as step_bounds::report. k, v:
/// [rows][kv_heads][head_dim]; a latent cache takes k: [rows][1][rank + rotary] and ignores v.
template <class Spec, class T>
status append_slots(const cache_view<Spec>& view, int layer, rows_view<const T> k, rows_view<const T> v,
                    const int64* slot_mapping, int64 rows, cudaStream_t stream, uint32* report = nullptr) {
  if constexpr (Spec::has_tail) {
    return status::unsupported;
  } else {
    step_bounds bounds;
    bounds.report = report;
    const status s = detail::check_append(view, step_view{}, bounds, layer);
    if (s != status::ok || rows == 0) return s;
    if (rows < 0 || rows * view.model.stored_heads() > detail::most_items) return status::invalid_argument;
    rows_view<const T> second = v;
    if constexpr (Spec::is_latent) second = detail::after_latent<Spec>(k);
    if (k.data == nullptr || slot_mapping == nullptr || second.data == nullptr) return status::null_pointer;
    using grid = detail::row_grid<Spec>;
    const bool is_wide = detail::is_wide(k) && detail::is_wide(second);
    const detail::append_call<Spec, T, rows_as_given> call{view, {},     bounds,  view.model.slot(layer),
                                                           k,    second, is_wide, {}};
    return detail::launch(detail::append_slots_kernel<Spec, T>,
                          dim3(detail::blocks_for(rows * view.model.stored_heads(), grid::per_block), 2), grid::threads,
                          grid::shared_bytes, stream, "append_slots", call, slot_mapping, rows);
  }
}

}  // namespace kvc::inline v0_1::cuda
