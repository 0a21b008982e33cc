// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cuda/append_groups.cuh"
#include "kvc/cuda/append_product.cuh"

// Appending a step's rows to a composed cache, on the device:
//
//   rows    (append_rows.cuh) a team per new row, stored head and stream: load, transform, round; then into exact rows
//           and staging, or as codes into the page at once. In registers where width and policies allow it, else in
//           shared memory
//   groups  (append_groups.cuh) a block per group of tokens of a per-channel codec that the step touches: the same for
//           its new rows, and with them in registers, the group's codes if it is sealed now
//   seals   (seal.cuh, only where another stream has a ring) a second kernel, as such a group is made of rows that
//   other
//           teams write: staged ones of this step, and older ones of the ring

namespace kvc::inline v0_1::cuda {

namespace detail {

/// Blocks and shared memory of a stream.
template <class Stream, class Params>
struct append_teams {
  using shares = row_shares<Stream>;
  using groups = group_shares<Stream>;
  using teams = row_teams<Stream>;
  static constexpr int threads = teams::threads;
  static constexpr int lanes = shares::exists ? shares::lanes : teams::lanes;
  static constexpr int shared_bytes = !shares::exists
                                          ? teams::shared_bytes
                                          : max_of(!shares::encodes || Params::prepares ? shares::shared_bytes : 0,
                                                   groups::exists ? groups::shared_bytes : 0);

  /// Blocks for a step, or -1 for more than there may be.
  static int64 blocks(const step_bounds& bounds, int heads) {
    const int64 items = groups::exists ? bounds.sequences * groups::most(bounds) * heads : bounds.total_rows * heads;
    if (items > most_items) return -1;
    return groups::exists ? items : ceil_div<int64>(items, threads / lanes);
  }
};

/// Both streams of a composition in one launch: the first blocks treat the first one.
template <class Spec, class Params>
struct append_grid {
  using first = append_teams<typename Spec::first_stream, Params>;
  using second = append_teams<typename Spec::second_stream, Params>;
  static constexpr int threads = first::threads;
  static constexpr int shared_bytes = max_of(first::shared_bytes, second::shared_bytes);
};

template <class Spec, bool First, bool Slots, class T, class Params>
__device__ void append_stream(const append_call<Spec, T, Params>& c, unsigned block, float* shared) {
  using stream_type = stream_of<Spec, First>;
  if constexpr (group_shares<stream_type>::exists) {
    append_group<Spec, First>(c, block, shared);
  } else if constexpr (row_shares<stream_type>::exists) {
    append_shares<Spec, First, Slots>(c, block, shared);
  } else {
    append_rows<Spec, First, Slots>(c, block, shared);
  }
}

template <class Spec, class T, row_preparation Params, bool Slots = false>
KVC_KERNEL void __launch_bounds__(append_grid<Spec, Params>::threads)
    append_kernel(const __grid_constant__ append_call<Spec, T, Params> c) {
  extern __shared__ __align__(16) byte shared[];
  float* const floats = reinterpret_cast<float*>(shared);
  if (blockIdx.x < c.first_blocks) {
    append_stream<Spec, true, Slots>(c, blockIdx.x, floats);
  } else {
    append_stream<Spec, false, Slots>(c, blockIdx.x - c.first_blocks, floats);
  }
}

/// Whether no head's rows are ever merged, which a product's operands do not wait for.
template <class Spec>
consteval bool never_merges() {
  if constexpr (extents<Spec>::heads_are_static) return extents<Spec>{}.merged() == 1;
  return false;
}

/// Launches them over c.bounds.total_rows rows: the products, and the kernel for all other streams.
template <bool Slots, class Spec, class T, row_preparation Params>
status launch_append(append_call<Spec, T, Params> c, const char* call, cudaStream_t stream) {
  using grid = append_grid<Spec, Params>;
  using products = product_grid<Spec, T, Params>;
  constexpr bool only_products = products::is_all && never_merges<Spec>();
  const bool multiplies = products::exists && c.view.model.merged() == 1;
  if constexpr (products::exists) {
    status s = status::ok;
    if constexpr (!only_products) s = allow_shared(append_kernel<Spec, T, Params, Slots>, grid::shared_bytes, call);
    if (s != status::ok) return s;  // before any row is written
    s = multiplies ? launch_products<Slots>(c, call, stream) : status::ok;
    if (s != status::ok) return s;
  }
  if constexpr (only_products) {
    return status::ok;
  } else {
    const int heads = c.view.model.stored_heads();
    const int64 first = multiplies && products::template has<true> ? 0 : grid::first::blocks(c.bounds, heads);
    const int64 second = multiplies && products::template has<false> ? 0 : grid::second::blocks(c.bounds, heads);
    if (first < 0 || second < 0 || first + second > most_items) return status::invalid_argument;
    c.first_blocks = static_cast<unsigned>(first);
    return launch(append_kernel<Spec, T, Params, Slots>, dim3(static_cast<unsigned>(first + second)), grid::threads,
                  grid::shared_bytes, stream, call, c);
  }
}

template <class Spec, class T, row_preparation Params>
status append(const append_call<Spec, T, Params>& c, cudaStream_t stream) {
  status s = kvc::detail::check_prepare<Spec>(c.params);
  if (s == status::ok && !kvc::detail::reaches(c.params, c.bounds.max_length)) s = status::bad_position;
  if (s != status::ok || c.bounds.total_rows == 0 || c.bounds.sequences == 0) return s;
  if (c.first.data == nullptr || c.second.data == nullptr) return status::null_pointer;
  if (!is_aligned(c.first) || !is_aligned(c.second)) return status::misaligned;
  s = allow_seal<Spec>();
  if (s != status::ok) return s;
  const status launched = launch_append<false>(c, "append", stream);
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
/// host::append, the same bytes; everything that step points to lies on the device and is read there; rows are aligned
/// to their elements, and faster to 16 bytes. A refused step leaves the cache as it was. Rows become
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
  return detail::append<Spec, T, Params>(
      {view, step, detail::within(bounds, step), view.model.slot(layer), k, v, is_wide, params, nullptr, 0}, stream);
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
  return detail::append<Spec, T, Params>(
      {view, step, detail::within(bounds, step), view.model.slot(layer), rows, rotary, is_wide, params, nullptr, 0},
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
    if (rows < 0) return status::invalid_argument;
    rows_view<const T> second = v;
    if constexpr (Spec::is_latent) second = detail::after_latent<Spec>(k);
    if (k.data == nullptr || slot_mapping == nullptr || second.data == nullptr) return status::null_pointer;
    if (!detail::is_aligned(k) || !detail::is_aligned(second)) return status::misaligned;
    const bool is_wide = detail::is_wide(k) && detail::is_wide(second);
    bounds.total_rows = rows;
    return detail::launch_append<true, Spec, T, rows_as_given>(
        {view, {}, bounds, view.model.slot(layer), k, second, is_wide, {}, slot_mapping, 0}, "append_slots", stream);
  }
}

}  // namespace kvc::inline v0_1::cuda
