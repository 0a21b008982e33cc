// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cache/append.hpp"
#include "kvc/host/simd/compiled.hpp"
#include "kvc/quant/integer.hpp"
#include "kvc/quant/rotated.hpp"

// Appending a step's rows to a composed cache, on the host. A work item is one page of one stream of one stored head.

namespace kvc::inline v0_1::host {

namespace detail {

/// Whether a stream's rows are encoded by the kernels of host/simd: integers with fp16 constants per row.
template <class Stream, class Codec = typename Stream::codec>
struct encodes_rows {
  static constexpr bool value = false;
};
template <class Stream, int Bits, int Group, quant::grid Grid>
struct encodes_rows<Stream, quant::integer<Bits, Group, Grid, quant::per_token, quant::scale_type::fp16>> {
  using codec = typename Stream::codec;
  static constexpr int bits = Bits;
  static constexpr quant::grid grid = Grid;
  static constexpr int group = codec::template group_length<Stream::width>;
  static constexpr bool value = Stream::exact_rows == 0 && group % 16 == 0 && Stream::width % group == 0;
};

/// The signs of a rotation.
template <int Width>
struct rotation_signs {
  float value[Width];
  constexpr rotation_signs() : value() {
    for (int i = 0; i < Width; ++i) value[i] = quant::hadamard_sign(i);
  }
};
template <int Width>
inline constexpr rotation_signs<Width> signs_of{};

/// from[Width], rotated, to x[Width].
template <int Width, int Block>
void rotate_row(const float* from, float* x) {
  const rotate_call call{from, x, signs_of<Width>.value, Width, Block, 1.0f / sqrt_of(static_cast<float>(Block))};
  kernels().rotate(call);
}

/// Whether a stored row is the model's row, rotated, and nothing else.
template <class Stream, class Quant = typename Stream::quant_policy>
struct only_rotates {
  static constexpr bool value = false;
};
template <class Stream, class Codec>
struct only_rotates<Stream, quant::rotated<Codec>> {
  static constexpr int block = quant::rotated<Codec>::template block<Stream::width>;
  static constexpr bool value = transform<Stream>::dims_are_identity && !quant::is_wrapper<Codec> && block % 16 == 0;
};

/// One thread that rotates rows by the kernels of host/simd.
struct kernel_team : serial_team {
#if !defined(__CUDACC__)  // for nvcc, what calls it may run on a device
  template <int Width, int Block>
  requires(Block % 16 == 0) void rotate(float* x) const {
    rotate_row<Width, Block>(x, x);
  }
#endif
};

/// A row of a step: its head, its place, and where its input is.
struct coded_row {
  int64 input;
  int64 position;
  int64 block;
  int64 in_page;
  int head;
};

/// Rows into the stored space. x[i]: where row i is.
template <class Spec, bool First, class T, row_preparation Params>
void transform_rows(const cache_view<Spec>& view, int slot, const rows_view<const T>& rows, const Params& params,
                    const coded_row* at, int count, float* stored, const float** x, const byte* const* ahead) {
  using stream_type = stream_of<Spec, First>;
  compiled([&] {
    for (int i = 0; i < count; ++i) {
      if (ahead[i] != nullptr) prefetch_bytes<3>(ahead[i], stream_type::model_width * sizeof(T));
      float* to = stored + i * stream_type::width;
      x[i] = to;
#if !defined(__CUDACC__)
      if constexpr (only_rotates<stream_type>::value && __is_same(T, float) && !Params::prepares) {
        if (view.model.merged() == 1) {
          rotate_row<stream_type::width, only_rotates<stream_type>::block>(rows.at(at[i].input, at[i].head), to);
          continue;
        }
      }
#endif
      const kvc::detail::head_constants constants = kvc::detail::constants_of<First>(view, slot, at[i].head);
      const auto load = [&](float* row) {
        kvc::detail::load_row<Spec, First>(rows, at[i].input, at[i].head, view.model.merged(), constants.merge_weights,
                                           params, at[i].position, row);
      };
      if constexpr (transform<stream_type>::dims_are_identity) {
        load(to);
        transform<stream_type>::store_in_place(to, constants.transform, kernel_team{});
      } else {
        float model_row[stream_type::model_width];
        load(model_row);
        transform<stream_type>::store(model_row, to, constants.transform, kernel_team{});
      }
    }
  });
}

/// append_page for such a stream, of the rows row_at(0) to row_at(count - 1): transformed and encoded some at a time.
/// Input is asked for ahead, up to row `known`: machines do not foresee it.
template <class Spec, bool First, class T, row_preparation Params, class RowAt>
void append_coded_rows(const cache_view<Spec>& view, int slot, const rows_view<const T>& rows, const Params& params,
                       int count, int64 known, const RowAt& row_at) {
  using stream_type = stream_of<Spec, First>;
  using encoder = encodes_rows<stream_type>;
  constexpr int width = stream_type::width;
  constexpr bool is_as_given = __is_same(T, float) && !Params::prepares && transform<stream_type>::is_identity;
  constexpr int most = is_as_given ? 64 : 16;
  const int heads = view.model.stored_heads();
  const bool is_plain = view.model.merged() == 1;
  const bool is_ready = is_as_given && is_plain;
  const int at_once = is_ready ? most : 16;
  const int distance = is_ready ? 64 : 16;  // rows until what is asked for
  alignas(64) float stored[16 * width];
  coded_row at[most];
  const float* x[most];
  byte* codes[most];
  byte* constants[most];
  const byte* ahead[most];
  for (int first = 0; first < count; first += at_once) {
    const int n = min_of(at_once, count - first);
    for (int i = 0; i < n; ++i) {
      at[i] = row_at(first + i);
      byte* segment =
          view.page(slot, at[i].block) + cache_view<Spec>::template segment_offset<First>(at[i].head, heads);
      codes[i] = segment + at[i].in_page * stream_type::row_bytes;
      constants[i] = segment + stream_type::codes_bytes + at[i].in_page * stream_type::group_bytes;
      if constexpr (is_as_given) x[i] = rows.at(at[i].input, at[i].head);
      ahead[i] = nullptr;
      if (!is_plain || first + i + distance >= known) continue;
      const coded_row next = row_at(first + i + distance);
      ahead[i] = reinterpret_cast<const byte*>(rows.at(next.input, next.head));
    }
    if (!is_ready) transform_rows<Spec, First>(view, slot, rows, params, at, n, stored, x, ahead);
    kernels().encode(
        {x, is_ready ? ahead : nullptr, codes, constants, n, width, encoder::group, encoder::bits, encoder::grid});
  }
}

/// The rows of all heads of one page. A token's heads lie side by side in the input, and so they are read.
template <class Spec, bool First, class T, row_preparation Params>
void append_coded_page(const cache_view<Spec>& view, const step_view& step, int index, int slot,
                       const rows_view<const T>& rows, int64 page, const Params& params) {
  const int heads = view.model.stored_heads();
  const int64 committed = step.seq_lens[index];
  const int64 begin = max_of(page * Spec::tokens_per_page, committed);
  const int64 end = committed + step.rows(index);
  const int64 block = step.block(index, page);
  const int64 tokens = min_of((page + 1) * Spec::tokens_per_page, end) - begin;
  append_coded_rows<Spec, First>(view, slot, rows, params, static_cast<int>(tokens) * heads, (end - begin) * heads,
                                 [&](int n) {
                                   const int64 t = begin + n / heads;
                                   return coded_row{t - committed, t, block, t % Spec::tokens_per_page, n % heads};
                                 });
}

template <class Spec, bool First, class T, row_preparation Params>
void append_stream(const cache_view<Spec>& view, const step_view& step, int slot, const rows_view<const T>& rows,
                   const Params& params, slice part, int64& item) {
  for (int i = 0; i < step.sequences; ++i) {
    const rows_view<const T> own = rows.from(step.row_indptr[i]);
    int64 begin = 0;
    int64 end = 0;
    touched_pages<Spec>(step, i, begin, end);
    if constexpr (encodes_rows<stream_of<Spec, First>>::value) {
      for (int64 page = begin; page < end; ++page) {
        if (item++ % part.count != part.index) continue;
        append_coded_page<Spec, First>(view, step, i, slot, own, page, params);
      }
    } else {
      for (int head = 0; head < view.model.stored_heads(); ++head) {
        for (int64 page = begin; page < end; ++page) {
          if (item++ % part.count != part.index) continue;
          const stream_rows<Spec, First> at(view, step, i, slot, head);
          compiled([&] { append_page<Spec, First>(at, own, page, params); });
        }
      }
    }
  }
}

/// Row r of the input at a slot of its own: a step of one row of a sequence whose table names its block.
template <class Spec, bool First, class T>
void append_slot(const cache_view<Spec>& view, int slot, const rows_view<const T>& rows, int64 r, int64 at) {
  const int heads = view.model.stored_heads();
  const int64 offset = at % Spec::tokens_per_page;
  const int64 place = at / Spec::tokens_per_page;
  if constexpr (encodes_rows<stream_of<Spec, First>>::value) {
    append_coded_rows<Spec, First>(view, slot, rows, rows_as_given{}, heads, heads, [&](int n) {
      return coded_row{r, offset, place, offset, n};
    });
  } else {
    const int32 block = static_cast<int32>(place);
    const int64 indptr[2] = {0, 1};
    const step_view one{1, nullptr, &offset, indptr, &block, 1};
    compiled([&] {
      for (int head = 0; head < heads; ++head) {
        append_page<Spec, First>(stream_rows<Spec, First>(view, one, 0, slot, head), rows.from(r), 0);
      }
    });
  }
}

template <class Spec, class T, row_preparation Params>
void append_streams(const cache_view<Spec>& view, const step_view& step, int slot, const rows_view<const T>& first,
                    const rows_view<const T>& second, const Params& params, slice part) {
  int64 item = 0;
  append_stream<Spec, true>(view, step, slot, first, params, part, item);
  append_stream<Spec, false>(view, step, slot, second, params, part, item);
}

template <class Spec>
status check_append(const cache_view<Spec>& view, const step_view& step, int layer, slice part) {
  status s = kvc::detail::check_view(view);
  if (s == status::ok) s = kvc::detail::check_step(view, step);
  if (s != status::ok) return s;
  if (layer < 0 || layer >= view.model.layers) return status::bad_layer;
  if (!view.model.writes(layer)) return status::follower_layer;
  if (part.count < 1 || part.index < 0 || part.index >= part.count) return status::invalid_argument;
  return status::ok;
}
/// The same, and what prepares the rows.
template <class Spec, row_preparation Params>
status check_append(const cache_view<Spec>& view, const step_view& step, int layer, slice part, const Params& params) {
  status s = check_append(view, step, layer, part);
  if (s == status::ok) s = kvc::detail::check_prepare<Spec>(params);
  for (int i = 0; s == status::ok && i < step.sequences; ++i) {
    if (step.rows(i) > 0 && !kvc::detail::reaches(params, step.seq_lens[i] + step.rows(i))) s = status::bad_position;
  }
  return s;
}

}  // namespace detail

/// Appends the step's rows to the slot that `layer` writes. k, v: [rows][kv_heads][head_dim], keys after their rotary
/// embedding (before it with rotary::deferred, and with append_params that turn them). Rows become visible to attend of
/// the same step at once, and to later steps when the caller advances seq_lens; a step that is given up leaves no
/// trace. Never allocates or throws. Call it once per slice, with the same arguments; `part` says which share this call
/// does. Answers ok; follower_layer where another layer writes the slot that `layer` reads; bad_layer; out_of_capacity
/// where the block table lacks a block that the step writes to, or the step has more rows than staging; bad_sequence,
/// bad_extents, bad_layer_map, null_pointer, misaligned, invalid_argument; with params, deferred_rotary where keys are
/// not to be turned, and bad_position where the rotary table is too short. All slices give the same answer, and write
/// nothing unless it is ok.
template <class Spec, class T, row_preparation Params = rows_as_given>
status append(const cache_view<Spec>& view, const step_view& step, int layer, rows_view<const T> k,
              rows_view<const T> v, slice part = {}, const Params& params = {}) {
  static_assert(!Spec::is_latent, "kvc: a latent cache appends one array of (latent | rotary key) rows, and no values");
  const status s = detail::check_append(view, step, layer, part, params);
  if (s != status::ok || step.total_rows() == 0) return s;
  if (k.data == nullptr || v.data == nullptr) return status::null_pointer;
  detail::append_streams(view, step, view.model.slot(layer), k, v, params, part);
  return status::ok;
}

/// The same for a latent cache. rows: [rows][1][rank + rotary].
template <class Spec, class T, row_preparation Params = rows_as_given>
status append(const cache_view<Spec>& view, const step_view& step, int layer, rows_view<const T> rows, slice part = {},
              const Params& params = {}) {
  static_assert(Spec::is_latent, "kvc: append takes keys and values; only a latent cache takes joint rows");
  const status s = detail::check_append(view, step, layer, part, params);
  if (s != status::ok || step.total_rows() == 0) return s;
  if (rows.data == nullptr) return status::null_pointer;
  rows_view<const T> rotary = rows;
  rotary.data += Spec::first_stream::model_width;
  detail::append_streams(view, step, view.model.slot(layer), rows, rotary, params, part);
  return status::ok;
}

/// Appends by slot mapping: row r goes to slot_mapping[r] = block * tokens_per_page + offset; -1 skips it. For engines
/// that place every token themselves. Only compositions without exact rows support it: sealing a group of tokens needs
/// the sequence. k, v: [rows][kv_heads][head_dim]; a latent cache takes k: [rows][1][rank + rotary] and ignores v.
/// Answers unsupported where Spec::has_tail, bad_position for a slot beyond view.blocks, else as append does.
template <class Spec, class T>
status append_slots(const cache_view<Spec>& view, int layer, rows_view<const T> k, rows_view<const T> v,
                    const int64* slot_mapping, int64 rows, slice part = {}) {
  if constexpr (Spec::has_tail) {
    return status::unsupported;
  } else {
    status s = detail::check_append(view, step_view{}, layer, part);
    if (s != status::ok || rows == 0) return s;
    if (k.data == nullptr || slot_mapping == nullptr || (!Spec::is_latent && v.data == nullptr))
      return status::null_pointer;
    for (int64 r = 0; r < rows; ++r) {
      if (slot_mapping[r] < -1 || slot_mapping[r] >= view.blocks * Spec::tokens_per_page) return status::bad_position;
    }
    rows_view<const T> second = v;
    if constexpr (Spec::is_latent) {
      second = k;
      second.data += Spec::first_stream::model_width;
    }
    const int slot = view.model.slot(layer);
    for (int64 r = part.index; r < rows; r += part.count) {
      if (slot_mapping[r] < 0) continue;
      detail::append_slot<Spec, true>(view, slot, k, r, slot_mapping[r]);
      detail::append_slot<Spec, false>(view, slot, second, r, slot_mapping[r]);
    }
    return status::ok;
  }
}

}  // namespace kvc::inline v0_1::host
