// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cuda/row_team.cuh"
#include "kvc/cuda/seal.cuh"

// New rows of a stream, one by one: load, transform, round; then into exact rows and staging, or as codes into the
// page.

namespace kvc::inline v0_1::cuda::detail {

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
  const int64* slot_mapping;  ///< [total_rows]; null: rows go where the step says
  unsigned first_blocks;      ///< of the grid, that treat the first stream
};

/// Where a new row goes; null where it does not.
struct row_place {
  int64 position = -1;      ///< in the sequence; -1: the row is left out
  byte* first = nullptr;    ///< exact first row
  byte* staged = nullptr;   ///< exact row of the step
  byte* segment = nullptr;  ///< segment of a page, where the row is encoded at once
  int in_page = 0;
};

/// Whether there is such a row, so that it can be loaded.
template <bool Slots, class Call>
__device__ bool has_row(const Call& c, int64 row) {
  return row < c.bounds.total_rows && (Slots || row < c.step.row_indptr[c.bounds.sequences]);
}

template <bool Slots, bool First, class Spec, class T, class Params, class Team>
__device__ row_place place_of(const append_call<Spec, T, Params>& c, int64 row, int head, Team team) {
  using stream_type = stream_of<Spec, First>;
  row_place p;
  if constexpr (Slots) {
    const int64 at = c.slot_mapping[row];
    const bool wrong = at < -1 || at >= c.view.blocks * Spec::tokens_per_page;
    if (reports(c.bounds.report, wrong, wrong_table) || at < 0) return p;
    p.position = 0;
    p.segment = c.view.page(c.slot, at / Spec::tokens_per_page) +
                cache_view<Spec>::template segment_offset<First>(head, c.view.model.stored_heads());
    p.in_page = static_cast<int>(at % Spec::tokens_per_page);
  } else {
    const int i = sequence_of(c.step.row_indptr, c.bounds.sequences, row, team);
    const int64 t = c.step.seq_lens[i] + row - c.step.row_indptr[i];
    if (is_out_of_range(c.view, c.step, c.bounds, i, t)) return p;
    const stream_rows<Spec, First> at(c.view, c.step, i, c.slot, head);
    p.position = t;
    if (t < stream_type::first_rows) p.first = at.first + t * stream_type::exact_row_bytes;
    if constexpr (stream_type::has_ring) {
      p.staged = at.staged + (t - at.committed) * stream_type::exact_row_bytes;
    } else if (t >= stream_type::first_rows) {
      p.segment = at.segment_of(t);
      p.in_page = static_cast<int>(t % Spec::tokens_per_page);
    }
  }
  return p;
}

/// The row and stored head of a team. ByHead: the teams of a block then read the same matrices of that head.
template <bool ByHead = false, class Spec>
__device__ int64 row_of(const cache_view<Spec>& view, unsigned item, int& head, int64 rows = 0) {
  if constexpr (ByHead) {
    head = static_cast<int>(item / static_cast<unsigned>(rows));
    return head < view.model.stored_heads() ? item % static_cast<unsigned>(rows) : rows;
  }
  const unsigned heads = static_cast<unsigned>(view.model.stored_heads());
  head = static_cast<int>(item % heads);
  return item / heads;  // 32 bits: launchers refuse more
}

/// A thread's channels of a row: load() sends for them, get() has them. Elements that cannot be read 16 bytes at a
/// time, and heads that are merged, are read by get() alone.
template <class Spec, bool First, class T, class Params>
struct row_loads {
  using shares = row_shares<stream_of<Spec, First>>;
  using team = typename shares::team;
  own_channels<shares::own, T> raw;

  __device__ static bool is_wide(const append_call<Spec, T, Params>& c) {
    return c.is_wide && c.view.model.merged() == 1;
  }
  __device__ static const rows_view<const T>& rows(const append_call<Spec, T, Params>& c) {
    return First ? c.first : c.second;
  }
  __device__ void load(const append_call<Spec, T, Params>& c, int64 row, int head) {
    if (is_wide(c)) raw.load(rows(c).at(row, head) + team::rank() * shares::own);
  }
  /// x: [own], zero where there is no row.
  __device__ void get(const append_call<Spec, T, Params>& c, int64 row, int head, bool is_there, const float* weights,
                      float* x) const {
    const int merged = c.view.model.merged();
    if (is_wide(c)) return raw.unpack(x);
#pragma unroll
    for (int k = 0; k < shares::own; ++k) x[k] = 0;
    if (!is_there) return;
    for (int m = 0; m < merged; ++m) {
      const T* source = rows(c).at(row, head * merged + m) + team::rank() * shares::own;
#pragma unroll
      for (int k = 0; k < shares::own; ++k) {
        const float e = to_float(source[k]);
        x[k] = merged == 1 ? e : x[k] + weights[m] * e;
      }
    }
  }
};

/// From the model's row at `position` (-1: none) to the stored one, rounded, in registers; in_shared: for rows that are
/// prepared.
template <class Spec, bool First, class T, class Params>
__device__ void store_row(const append_call<Spec, T, Params>& c, int64 row, int head, int64 position,
                          const kvc::detail::head_constants& constants, float* x, float* in_shared) {
  using stream_type = stream_of<Spec, First>;
  using shares = row_shares<stream_type>;
  if constexpr (Params::prepares) {
    const bool is_loaded = c.view.model.merged() == 1;
    if (is_loaded && kvc::detail::prepares_share<Spec, First, shares::own>(c.params)) {
      kvc::detail::prepare_share<Spec, First>(c.params, max_of<int64>(position, 0), x, typename shares::team{});
    } else {
      const warp_team<shares::lanes> alone;
      shares::team::sync();  // the row before was read
      if (is_loaded) shares::to_shared(x, in_shared);
      if (position >= 0 && is_loaded) {
        kvc::detail::prepare_row<Spec, First>(c.params, position, in_shared, alone);
      } else if (position >= 0) {
        kvc::detail::load_prepared_row<Spec, First>(First ? c.first : c.second, row, head, c.view.model.merged(),
                                                    constants.merge_weights, c.params, position, in_shared, alone);
      }
      shares::from_shared(x, in_shared);
    }
  }
  transform<stream_type>::store_share(x, constants.transform, typename shares::team{});
  if constexpr (stream_type::exact_rows > 0) {
#pragma unroll
    for (int k = 0; k < shares::own; ++k) x[k] = bf16::from(x[k]).value();
  }
}

/// A stored row to its place, from the registers of its team; a team without a row takes part.
template <class Rows, class Team>
__device__ void put_share(const row_place& place, const float* x, Team team) {
  using stream_type = typename Rows::stream_type;
  if (stream_type::first_rows > 0 && place.first != nullptr) Rows::write_exact_share(x, place.first, team);
  if constexpr (stream_type::has_ring) {
    if (place.staged != nullptr) Rows::write_exact_share(x, place.staged, team);
  } else {
    Rows::encode_share_in(place.segment, place.in_page, x, place.segment != nullptr, team);
  }
}

/// The same from memory, for a row that is there. x: [width]
template <class Rows, class Team>
__device__ void put_row(const row_place& place, const float* x, Team team) {
  using stream_type = typename Rows::stream_type;
  if (stream_type::first_rows > 0 && place.first != nullptr) Rows::write_exact(x, place.first, team);
  if constexpr (stream_type::has_ring) {
    Rows::write_exact(x, place.staged, team);
  } else {
    if (place.segment != nullptr) Rows::encode_in(place.segment, place.in_page, x, 1, team);
  }
}

/// Rows in the registers of their teams. No thread leaves early: the teams of a warp do everything together.
template <class Spec, bool First, bool Slots, class T, class Params>
__device__ void append_shares(const append_call<Spec, T, Params>& c, unsigned block, float* shared) {
  using stream_type = stream_of<Spec, First>;
  using shares = row_shares<stream_type>;
  using rows_type = stream_rows<Spec, First>;
  const typename shares::team team;
  const warp_team<shares::lanes> alone;
  int head = 0;
  const int64 row = row_of(c.view, block * shares::per_block + threadIdx.x / shares::lanes, head);

  // 1. Loads, and while they are on their way, the place.
  const bool is_there = has_row<Slots>(c, row);
  row_loads<Spec, First, T, Params> loads;
  row_place place;
  if (is_there) {
    loads.load(c, row, head);
    place = place_of<Slots, First>(c, row, head, alone);
  }
  const kvc::detail::head_constants constants = kvc::detail::constants_of<First>(c.view, c.slot, head);
  float x[shares::own];
  loads.get(c, row, head, is_there, constants.merge_weights, x);

  // 2. From the model's row to the stored one.
  float* const in_shared = shares::shared_row(shared);
  store_row<Spec, First>(c, row, head, place.position, constants, x, in_shared);

  // 3. To its place.
  if constexpr (shares::encodes) {
    put_share<rows_type>(place, x, team);
  } else {
    if (stream_type::first_rows > 0 && place.first != nullptr) rows_type::write_exact_share(x, place.first, team);
    shares::to_shared(x, in_shared);
    if (place.segment != nullptr) rows_type::encode_in(place.segment, place.in_page, in_shared, 1, alone);
  }
}

/// Rows in shared memory: other widths, dims and policies that know no shares.
template <class Spec, bool First, bool Slots, class T, class Params>
__device__ void append_rows(const append_call<Spec, T, Params>& c, unsigned block, float* shared) {
  using stream_type = stream_of<Spec, First>;
  using teams = row_teams<stream_type>;
  using rows_type = stream_rows<Spec, First>;
  using wide = wide_row<stream_type::model_width, T, typename teams::team>;
  const typename teams::team team;
  int head = 0;
  const int64 row = row_of<!transform<stream_type>::dims_are_identity>(
      c.view, block * teams::per_block + threadIdx.x / teams::lanes, head, c.bounds.total_rows);
  if (!has_row<Slots>(c, row)) return;

  // 1. Loads, and while they are on their way, the place.
  const rows_view<const T>& rows = First ? c.first : c.second;
  const int merged = c.view.model.merged();
  const bool is_wide = wide::fits && c.is_wide && merged == 1;
  const kvc::detail::head_constants constants = kvc::detail::constants_of<First>(c.view, c.slot, head);
  float* const model = teams::model_row(shared);
  row_place place;
  if (is_wide) {
    wide loads;
    loads.load(rows.at(row, head), team);
    place = place_of<Slots, First>(c, row, head, team);
    if (place.position < 0) return;
    loads.store(model, team);
    team.sync();
    if constexpr (Params::prepares) kvc::detail::prepare_row<Spec, First>(c.params, place.position, model, team);
  } else {
    place = place_of<Slots, First>(c, row, head, team);
    if (place.position < 0) return;
    if constexpr (Params::prepares) {
      kvc::detail::load_prepared_row<Spec, First>(rows, row, head, merged, constants.merge_weights, c.params,
                                                  place.position, model, team);
    } else {
      kvc::detail::load_model_row<stream_type::model_width>(rows, row, head, merged, constants.merge_weights, model,
                                                            team);
      team.sync();
    }
  }

  // 2. From the model's row to the stored one.
  float* const stored = teams::stored_row(shared);
  if constexpr (teams::in_place) {
    transform<stream_type>::store_in_place(stored, constants.transform, team);
  } else {
    transform<stream_type>::store(model, stored, constants.transform, team);
  }
  round_stored<stream_type>(stored, team);

  // 3. To its place.
  put_row<rows_type>(place, stored, team);
}

}  // namespace kvc::inline v0_1::cuda::detail
