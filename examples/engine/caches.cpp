// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "caches.hpp"

#include <stdexcept>

#include "exact_cache.hpp"

namespace engine {
namespace {

struct registered_cache {
  cache_entry entry;
  std::unique_ptr<attention_cache> (*make)(const attention_shape&, const cache_options&);
};

const std::vector<registered_cache>& registry() {
  static const std::vector<registered_cache> caches = {
      {{"exact", "fp32 keys and values, written without kvc: the yardstick"},
       [](const attention_shape& shape, const cache_options& options) -> std::unique_ptr<attention_cache> {
         return std::make_unique<exact_cache>(shape, options.context, options.threads);
       }},
  };
  return caches;
}

}  // namespace

std::vector<cache_entry> list_caches() {
  std::vector<cache_entry> out;
  for (const auto& cache : registry()) out.push_back(cache.entry);
  return out;
}

std::unique_ptr<attention_cache> make_cache(std::string_view name, const attention_shape& shape,
                                            const cache_options& options) {
  std::string names;
  for (const auto& cache : registry()) {
    if (cache.entry.name == name) return cache.make(shape, options);
    names += (names.empty() ? "" : ", ") + cache.entry.name;
  }
  throw std::invalid_argument("there is no cache '" + std::string(name) + "' (there are: " + names + ")");
}

}  // namespace engine
