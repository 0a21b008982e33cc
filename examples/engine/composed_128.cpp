// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "composed_cache.hpp"

namespace engine {

template <>
std::unique_ptr<attention_cache> make_composed<128>(std::string_view name, const attention_shape& shape,
                                                    const cache_options& options) {
  return find_composed<128>(name, shape, options);
}

}  // namespace engine
