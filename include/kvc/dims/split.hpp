// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/dims/concept.hpp"

namespace kvc::inline v0_1::dims {

/// One dims policy for keys, another for values.
template <class Key, class Value>
struct split {
  static_assert(is_on_axis<Key, dims_axis> && is_on_axis<Value, dims_axis>,
                "kvc: dims::split<K, V> takes two dims policies");
  static_assert(!is_latent<Key> && !is_latent<Value>,
                "kvc: dims::split<K, V>: a latent serves keys and values together; use dims::latent alone");

  using axis = dims_axis;
  static constexpr auto name = named("split", Key::name, Value::name);
  using key_policy = Key;
  using value_policy = Value;
};

}  // namespace kvc::inline v0_1::dims
