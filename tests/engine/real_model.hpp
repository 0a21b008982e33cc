// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>

namespace engine_test {

/// Where the environment variable says, or else where fetch_model.sh and fetch_text.sh put their file by default;
/// nothing where there is no such file.
inline std::optional<std::string> fetched(const char* variable, const char* name) {
  const auto value = [](const char* key) {
    const char* text = std::getenv(key);
    return std::string(text != nullptr ? text : "");
  };
  std::filesystem::path path = value(variable);
  if (path.empty()) {
    const std::filesystem::path cache = value("XDG_CACHE_HOME");
    path = (cache.empty() ? std::filesystem::path(value("HOME")) / ".cache" : cache) / "kvc" / name;
  }
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) return {};
  return path.string();
}

inline std::optional<std::string> fetched_model() {
  return fetched("KVC_MODEL", "SmolLM2-135M-Instruct.Q4_1.gguf");
}

/// For MESSAGE, where the model is not there.
inline constexpr const char* no_model =
    "SKIPPED: no model (examples/engine/fetch_model.sh gets it; KVC_MODEL names another place)";

}  // namespace engine_test
