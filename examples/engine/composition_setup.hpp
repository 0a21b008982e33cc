// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "caches.hpp"
#include "fitted.hpp"
#include "kvc/kvc.hpp"

// What a composition needs before it can serve a model, on the host as on a GPU.

namespace engine {

template <class Spec>
kvc::extents<Spec> extents_of(const attention_shape& shape, const cache_options& options) {
  kvc::extents<Spec> e{shape.layers, shape.query_heads, shape.kv_heads};
  if constexpr (requires { Spec::layers_policy::needs_table; }) {
    if (options.data == nullptr) throw std::runtime_error("this cache needs a layer map, found on sample text");
    e.leaders = leaders_of(*options.data).data();
  }
  return e;
}

/// Means, bases and channels from the model's own rows; nothing where the composition has none.
template <class Spec>
std::unique_ptr<kvc::calibration<Spec>> constants_of(const std::string& name, const attention_shape& shape,
                                                     const cache_options& options) {
  auto of_spec = std::make_unique<kvc::calibration<Spec>>(extents_of<Spec>(shape, options));
  if constexpr (Spec::calibration_floats > 0) {
    if (options.data == nullptr) throw std::runtime_error("this cache is calibrated: it needs sample text");
    of_spec->load(fitted_constants(name, shape, *options.data));
  }
  return of_spec;
}

/// [positions][pairs]{cos, sin}, as kvc reads angles; empty without a table.
inline std::vector<float> interleave(const rotary_table* table) {
  std::vector<float> out;
  if (table == nullptr) return out;
  const std::size_t count = static_cast<std::size_t>(table->positions()) * static_cast<std::size_t>(table->pairs());
  out.reserve(2 * count);
  for (std::size_t i = 0; i < count; ++i) {
    out.push_back(table->cos()[i]);
    out.push_back(table->sin()[i]);
  }
  return out;
}

}  // namespace engine
