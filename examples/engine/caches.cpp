// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "caches.hpp"

#include <stdexcept>

#include "compositions.hpp"
#include "exact_cache.hpp"

namespace engine {

template <int D>
std::unique_ptr<attention_cache> make_composed(std::string_view, const attention_shape&, const cache_options&);

std::vector<cache_entry> list_caches() {
  std::vector<cache_entry> out;
  out.push_back({"exact", "fp32 keys and values, written without kvc: the check on kvc's own fp32", false, ""});
  compositions<64>::for_each([&]<class Spec>(const char* name, const char* summary) {
    const bool has_map = requires {
      Spec::layers_policy::needs_table;
    };
    out.push_back({name, summary, Spec::calibration_floats > 0 || has_map, Spec::name().c_str()});
  });
  return out;
}

std::unique_ptr<attention_cache> make_cache(std::string_view name, const attention_shape& shape,
                                            const cache_options& options) {
  if (name == "exact") return std::make_unique<exact_cache>(shape, options.context, options.threads);
  std::unique_ptr<attention_cache> made;
  switch (shape.head_dim) {
    case 64:
      made = make_composed<64>(name, shape, options);
      break;
    case 80:
      made = make_composed<80>(name, shape, options);
      break;
    case 96:
      made = make_composed<96>(name, shape, options);
      break;
    case 128:
      made = make_composed<128>(name, shape, options);
      break;
    case 256:
      made = make_composed<256>(name, shape, options);
      break;
    default:
      throw std::invalid_argument("no cache is built for heads of " + std::to_string(shape.head_dim) +
                                  " channels (64, 80, 96, 128, 256)");
  }
  if (made != nullptr) return made;
  std::string names;
  for (const cache_entry& cache : list_caches()) {
    if (cache.name == name) {
      throw std::invalid_argument("the cache '" + cache.name +
                                  "' is calibrated, and built for heads of 64 and 128 channels");
    }
    names += (names.empty() ? "" : ", ") + cache.name;
  }
  throw std::invalid_argument("there is no cache '" + std::string(name) + "' (there are: " + names + ")");
}

}  // namespace engine
