// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/core/shape.hpp"
#include "kvc/core/status.hpp"
#include "kvc/layers/concept.hpp"

namespace kvc::inline v0_1 {

/// Layer and head counts of a cache, static or known at run time, and what follows from them. A POD, passed by value.
template <class Spec>
struct extents {
  int layers = Spec::shape_type::layers;
  int query_heads = Spec::shape_type::query_heads;
  int kv_heads = Spec::shape_type::kv_heads;
  const int32* leaders = nullptr;  ///< [layers], for layers::mapped<kvc::dynamic> alone

  using layers_policy = typename Spec::layers_policy;
  using shape_type = typename Spec::shape_type;
  static constexpr bool heads_are_static = shape_type::query_heads != dynamic && shape_type::kv_heads != dynamic;

  KVC_HD constexpr int leader(int layer) const { return layers_policy::leader(layer, leaders); }
  KVC_HD constexpr bool writes(int layer) const { return leader(layer) == layer; }
  /// The slot that `layer` reads.
  KVC_HD constexpr int slot(int layer) const { return layers::leaders_before<layers_policy>(leader(layer), leaders); }
  KVC_HD constexpr int slots() const { return layers::leaders_before<layers_policy>(layers, leaders); }
  /// Rows that a slot stores per token; a constant where the shape has both counts.
  KVC_HD constexpr int stored_heads() const {
    if constexpr (heads_are_static) return Spec::heads_policy::stored(shape_type::query_heads, shape_type::kv_heads);
    return Spec::heads_policy::stored(query_heads, kv_heads);
  }
  /// Query heads that share a stored row.
  KVC_HD constexpr int group() const { return query_heads / stored_heads(); }
  /// KV heads of the model that are merged into a stored row.
  KVC_HD constexpr int merged() const {
    return Spec::is_latent ? 1 : (heads_are_static ? shape_type::kv_heads : kv_heads) / stored_heads();
  }

  /// Whether the counts agree with the composition.
  KVC_HD constexpr status validate() const {
    if (layers < 1 || query_heads < 1 || kv_heads < 1 || query_heads % kv_heads != 0) return status::bad_extents;
    if (shape_type::layers != dynamic && shape_type::layers != layers) return status::bad_extents;
    if (shape_type::query_heads != dynamic && shape_type::query_heads != query_heads) return status::bad_extents;
    if (shape_type::kv_heads != dynamic && shape_type::kv_heads != kv_heads) return status::bad_extents;
    if (stored_heads() < 1) return status::bad_extents;
    if constexpr (requires { layers_policy::needs_table; }) {
      if (leaders == nullptr) return status::null_pointer;
    }
    if constexpr (requires { layers_policy::layer_count; }) {
      if (layers_policy::layer_count != layers) return status::bad_extents;
    }
    if (!layers::map_is_valid<layers_policy>(layers, leaders)) return status::bad_layer_map;
    return status::ok;
  }
};

}  // namespace kvc::inline v0_1
