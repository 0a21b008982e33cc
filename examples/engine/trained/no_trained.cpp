// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// What stands in for open_trained.cpp in a build without nlohmann-json.
#include <stdexcept>

#include "open_trained.hpp"

namespace engine {

opened_trained open_trained(const std::string& path, int) {
  throw std::runtime_error("cannot read '" + path + "': this program was built without nlohmann-json");
}

std::vector<cache_entry> list_trained_caches() {
  return {};
}

}  // namespace engine
