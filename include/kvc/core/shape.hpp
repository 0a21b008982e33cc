// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/core/config.hpp"

namespace kvc::inline v0_1 {

/// An extent that is known only at run time, as in mdspan.
inline constexpr int dynamic = -1;

/// The attention geometry of a model. KvHeads is what the model's key and value projections produce.
/// Layers, QueryHeads and KvHeads may be kvc::dynamic; HeadDim is static.
template <int Layers, int QueryHeads, int KvHeads, int HeadDim>
struct shape {
  static constexpr int layers = Layers;
  static constexpr int query_heads = QueryHeads;
  static constexpr int kv_heads = KvHeads;
  static constexpr int head_dim = HeadDim;
  static constexpr bool is_static = Layers != dynamic && QueryHeads != dynamic && KvHeads != dynamic;

  static_assert(Layers == dynamic || Layers > 0, "kvc: shape needs at least one layer (or kvc::dynamic)");
  static_assert(QueryHeads == dynamic || QueryHeads > 0, "kvc: shape needs at least one query head (or kvc::dynamic)");
  static_assert(KvHeads == dynamic || KvHeads > 0, "kvc: shape needs at least one KV head (or kvc::dynamic)");
  static_assert(HeadDim > 0 && HeadDim % 2 == 0, "kvc: shape needs a positive even head dim, known at compile time");
  static_assert(QueryHeads == dynamic || KvHeads == dynamic || QueryHeads % KvHeads == 0,
                "kvc: shape: query heads must be a multiple of KV heads");
};

template <class T>
inline constexpr bool is_shape = false;
template <int L, int Q, int K, int D>
inline constexpr bool is_shape<shape<L, Q, K, D>> = true;

}  // namespace kvc::inline v0_1
