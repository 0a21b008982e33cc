// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// link: kvc_engine_core
#include "caches.hpp"

#include <doctest/doctest.h>

#include <set>
#include <stdexcept>
#include <string>

using namespace engine;

TEST_CASE("caches are made by name") {
  constexpr attention_shape shape = {.layers = 2, .query_heads = 6, .kv_heads = 2, .head_dim = 64};
  std::set<std::string> names;
  for (const auto& entry : list_caches()) {
    CAPTURE(entry.name);
    CHECK_FALSE(entry.summary.empty());
    CHECK(names.insert(entry.name).second);
    if (entry.is_calibrated) continue;  // these need samples of a model
    const auto cache = make_cache(entry.name, shape, {.context = 64, .threads = 1});
    REQUIRE(cache != nullptr);
    CHECK(cache->length() == 0);
    CHECK(cache->max_step_rows() > 0);
  }
  CHECK(names.contains("exact"));
  CHECK_THROWS_AS(make_cache("none of these", shape, {}), std::invalid_argument);
}
