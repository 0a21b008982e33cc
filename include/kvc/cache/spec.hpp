// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cache/extents.hpp"
#include "kvc/cache/storage.hpp"
#include "kvc/cache/stream.hpp"
#include "kvc/dims/dims.hpp"
#include "kvc/heads/concept.hpp"
#include "kvc/quant/quant.hpp"
#include "kvc/rotary/applied.hpp"

namespace kvc::inline v0_1 {

namespace detail {

// The side of a dims or quant policy that serves keys (or the latent) and the one that serves values (or the rotary
// key).
template <class P>
struct sides {
  using first = P;
  using second = P;
};
template <class K, class V>
struct sides<dims::split<K, V>> {
  using first = K;
  using second = V;
};
template <class A, class B>
struct sides<quant::split<A, B>> {
  using first = A;
  using second = B;
};

template <bool IsLatent, class Shape, class Rotary, class Dims, class Quant, class Storage>
struct streams_of {  // keys and values
  using first = stream<typename sides<Dims>::first, typename sides<Quant>::first, Shape::head_dim, Rotary, Storage>;
  using second =
      stream<typename sides<Dims>::second, typename sides<Quant>::second, Shape::head_dim, rotary::applied, Storage>;
};
template <class Shape, class Rotary, class Dims, class Quant, class Storage>
struct streams_of<true, Shape, Rotary, Dims, Quant, Storage> {  // latent and rotary key
  using first = stream<dims::full, typename sides<Quant>::first, Dims::rank, rotary::applied, Storage>;
  using second = stream<dims::full, typename sides<Quant>::second, Dims::rotary, rotary::applied, Storage>;
};

/// The members that exist only where all extents are static.
template <class Spec, bool IsStatic>
struct static_sizes {};
#if !defined(__CUDACC_RTC__)  // NVRTC evaluates them while Spec is not complete; bytes_per_token(extents) is there
template <class Spec>
struct static_sizes<Spec, true> {
  /// Bytes of a sealed token in all slots, with all metadata (scales, offsets, rotary key).
  static constexpr int64 bytes_per_token = Spec::token_bytes(extents<Spec>{});
  /// The same, divided by the model's layers.
  static constexpr double bytes_per_token_per_layer =
      static_cast<double>(bytes_per_token) / static_cast<double>(Spec::shape_type::layers);
  /// Over the bytes of 16-bit keys and values of all query heads (MHA).
  static constexpr double ratio_to_mha16 =
      bytes_per_token_per_layer / (4.0 * Spec::shape_type::query_heads * Spec::shape_type::head_dim);
  /// Over the bytes of the model's own 16-bit cache.
  static constexpr double ratio_to_model16 =
      bytes_per_token_per_layer / (4.0 * Spec::shape_type::kv_heads * Spec::shape_type::head_dim);
  /// Exact rows per sequence: open groups, first and newest rows.
  static constexpr int64 tail_bytes_per_sequence = Spec::tail_bytes(extents<Spec>{});
};
#endif

}  // namespace detail

/// What compose yields: one canonical type per composition, an empty struct that knows everything about the bytes.
/// Users write kvc::compose<shape, policies...>, in any order.
template <class Shape, class Layers, class Heads, class Rotary, class Dims, class Quant, class Tokens, class Storage>
struct cache_spec
    : detail::static_sizes<cache_spec<Shape, Layers, Heads, Rotary, Dims, Quant, Tokens, Storage>, Shape::is_static> {
  using shape_type = Shape;
  using layers_policy = Layers;
  using heads_policy = Heads;
  using rotary_policy = Rotary;
  using dims_policy = Dims;
  using quant_policy = Quant;
  using tokens_policy = Tokens;
  using storage_policy = Storage;

  static constexpr bool is_latent = heads::is_latent<Heads>;
  static constexpr int tokens_per_page = Storage::tokens_per_page;

  // Keys and values; of a latent cache, the latent and the rotary key.
  using first_stream = typename detail::streams_of<is_latent, Shape, Rotary, Dims, Quant, Storage>::first;
  using second_stream = typename detail::streams_of<is_latent, Shape, Rotary, Dims, Quant, Storage>::second;
  /// The stream whose rows are summed into the output: values, or the latent.
  static constexpr bool values_are_first = is_latent;

  /// Channels of a row that append takes for keys; a latent cache takes (latent | rotary key) rows and no values.
  static constexpr int key_width = is_latent ? first_stream::model_width + second_stream::model_width : Shape::head_dim;
  /// Channels of a query head.
  static constexpr int query_width = key_width;
  /// Channels of an output head.
  static constexpr int output_width = is_latent ? first_stream::model_width : second_stream::model_width;

  static constexpr bool has_tail = first_stream::exact_rows + second_stream::exact_rows > 0;
  static constexpr bool has_ring = first_stream::has_ring || second_stream::has_ring;
  static constexpr int calibration_floats = first_stream::calibration_floats + second_stream::calibration_floats;

  static constexpr text name() {
    return named("kvc", Layers::name, Heads::name, Rotary::name, Dims::name, Quant::name, Tokens::name, Storage::name);
  }

  // ---- bytes, from run-time or static extents
  KVC_HD static constexpr int64 page_bytes(int stored_heads) {
    return stored_heads * (first_stream::segment_bytes + second_stream::segment_bytes);
  }
  /// Bytes of one sealed token in all slots; a fraction of a byte counts as one.
  KVC_HD static constexpr int64 token_bytes(const extents<cache_spec>& e) {
    return ceil_div(e.slots() * page_bytes(e.stored_heads()), static_cast<int64>(tokens_per_page));
  }
  /// Exact rows of one sequence in one slot.
  KVC_HD static constexpr int64 tail_slot_bytes(int stored_heads) {
    return stored_heads * (first_stream::exact_rows * first_stream::exact_row_bytes +
                           second_stream::exact_rows * second_stream::exact_row_bytes);
  }
  KVC_HD static constexpr int64 tail_bytes(const extents<cache_spec>& e) {
    return e.slots() * tail_slot_bytes(e.stored_heads());
  }
  /// Rows of a step that are not sealed yet wait here until commit, per slot.
  KVC_HD static constexpr int64 staging_slot_bytes(int stored_heads, int64 rows) {
    return stored_heads * rows *
           ((first_stream::has_ring ? first_stream::exact_row_bytes : 0) +
            (second_stream::has_ring ? second_stream::exact_row_bytes : 0));
  }
};

/// Bytes of one sealed token in all slots, metadata included, for static and dynamic extents alike.
template <class Spec>
KVC_HD constexpr int64 bytes_per_token(const extents<Spec>& e) {
  return Spec::token_bytes(e);
}

}  // namespace kvc::inline v0_1
