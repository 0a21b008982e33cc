// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "trained_cache.hpp"

#include <string>

#include "composed_cache.hpp"
#include "open_trained.hpp"
#include "trained_formats.hpp"

namespace engine {

std::vector<cache_entry> list_trained_caches() {
  return {{"own", "the format that the model was trained with", false, true, ""},
          {"fp32", "rows as they come, for comparison", false, false, ""}};
}

std::unique_ptr<trained_cache> make_trained_cache(std::string_view name, const trained_config& config,
                                                  const cache_options& options) {
  return with_trained_format(name, config, [&]<class Spec>() -> std::unique_ptr<trained_cache> {
    using rows = with_history<composed_cache<Spec, trained_cache>>;
    return std::make_unique<rows>(config, std::string(name), config.attention(), options);
  });
}

}  // namespace engine
