// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "attention_cache.hpp"
#include "rotary.hpp"
#include "thread_pool.hpp"

namespace engine {

struct sample_data;

/// What a cache may need beside the model's shape.
struct cache_options {
  int context = 0;                       ///< the most tokens that it will hold
  int threads = 1;                       ///< for attend
  thread_pool* pool = nullptr;           ///< the model's instead of `threads` new ones; outlives the cache
  const rotary_table* rotary = nullptr;  ///< of the model, for caches that store keys before rotary; outlives the cache
  bool fp32_products = false;            ///< where 8-bit products with packed codes would do: for checks
  const sample_data* data = nullptr;     ///< for calibrated caches (samples.hpp); outlives the cache
};

struct cache_entry {
  std::string name;
  std::string summary;         ///< one line for people
  bool is_calibrated = false;  ///< needs cache_options::data
  bool is_default = true;      ///< in a report for which no cache was named
  std::string composition;     ///< the kvc type's own name; empty where it is none
};

/// The caches that can be made by name, in the order in which they should be shown.
std::vector<cache_entry> list_caches();

/// Throws std::invalid_argument, listing the names, where there is no cache `name`.
std::unique_ptr<attention_cache> make_cache(std::string_view name, const attention_shape& shape,
                                            const cache_options& options);

}  // namespace engine
