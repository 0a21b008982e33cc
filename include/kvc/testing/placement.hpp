// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/heads/concept.hpp"
#include "kvc/layers/concept.hpp"
#include "kvc/testing/failures.hpp"
#include "kvc/tokens/concept.hpp"

// Suites for the policies that move no numbers: which slot a layer reads, which row a head reads, which rows stay.

namespace kvc::inline v0_1::testing {

/// Checks a layers policy for a model of `layers` layers; `table` as extents::leaders, where the policy reads one.
template <class Policy>
std::string layers_failures(int layers, const int32* table = nullptr) {
  static_assert(layers::detail::check<Policy>());
  failures f("layers " + std::string(Policy::name.c_str()) + ", " + std::to_string(layers) + " layers");
  f.expect(Policy::name.length > 0, "the name is not empty", "");
  if constexpr (requires { Policy::layer_count; }) {
    f.expect(Policy::layer_count == layers, "layer_count is the number of layers", Policy::layer_count);
  }
  for (int layer = 0; layer < layers; ++layer) {
    const int leader = Policy::leader(layer, table);
    f.expect(leader == Policy::leader(layer, table), "leader is deterministic", "layer ", layer);
    if (!f.expect(leader >= 0 && leader < layers, "a leader is a layer of the model", "layer ", layer, " reads ",
                  leader)) {
      continue;
    }
    f.expect(leader <= layer, "a writer precedes its readers", "layer ", layer, " reads ", leader);
    const int writer = Policy::leader(leader, table);
    f.expect(writer == leader, "a leader reads itself", "layer ", layer, " reads ", leader, ", which reads ", writer);
  }
  return f.lines();
}

/// Checks a heads policy over head counts as models have them.
template <class Policy>
std::string heads_failures() {
  static_assert(heads::detail::check<Policy>());
  failures f("heads " + std::string(Policy::name.c_str()));
  f.expect(Policy::name.length > 0, "the name is not empty", "");
  bool fits_some = false;
  for (int query_heads = 1; query_heads <= 128; ++query_heads) {
    for (int kv_heads = 1; kv_heads <= query_heads; ++kv_heads) {
      if (query_heads % kv_heads != 0) continue;
      const int rows = Policy::stored(query_heads, kv_heads);
      const auto expect = [&](bool holds, const char* property) {
        f.expect(holds, property, query_heads, " query heads, ", kv_heads, " KV heads: ", rows, " rows");
      };
      expect(rows == Policy::stored(query_heads, kv_heads), "stored is deterministic");
      expect(rows >= 0, "stored is not negative");
      if (rows <= 0) continue;
      fits_some = true;
      expect(rows <= kv_heads, "a slot stores no more rows than the model has KV heads");
      expect(query_heads % rows == 0, "the rows divide the query heads");
      if constexpr (!heads::is_latent<Policy>) expect(kv_heads % rows == 0, "the rows divide the KV heads");
      if constexpr (heads::is_latent<Policy>) expect(rows == 1, "a latent is one row");
    }
  }
  f.expect(fits_some, "some model has heads that fit", "stored is 0 for up to 128 query heads");
  return f.lines();
}

/// Checks a tokens policy.
template <class Policy>
std::string tokens_failures() {
  static_assert(tokens::detail::check<Policy>());
  failures f("tokens " + std::string(Policy::name.c_str()));
  f.expect(Policy::name.length > 0, "the name is not empty", "");
  f.expect(Policy::sinks >= 0, "sinks is not negative", Policy::sinks);
  f.expect(Policy::window >= 0, "window is not negative", Policy::window);
  f.expect(Policy::window > 0 || Policy::sinks == 0, "sinks stand beside a window", "window 0 keeps all rows, but ",
           Policy::sinks, " sinks are asked for");
  return f.lines();
}

}  // namespace kvc::inline v0_1::testing
