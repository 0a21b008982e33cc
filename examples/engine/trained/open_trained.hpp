// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "caches.hpp"
#include "decoder.hpp"
#include "tokenizer.hpp"

namespace engine {

struct trained_config;

/// Whether a file is one that examples/train exports, by its name.
inline bool is_trained(const std::string& path) {
  return path.ends_with(".safetensors");
}

/// A model of examples/train, ready to read and write, for programs that need not know more of it.
struct opened_trained {
  std::string block;  ///< "mha", "clla-int4", ...
  std::string run;    ///< JSON: where the model comes from, and what its training's log says of it
  std::unique_ptr<tokenizer> words;
  std::unique_ptr<decoder> model;
  const trained_config* config = nullptr;  ///< the model's
  /// "own": the format that it was trained with, or "fp32". Throws where there is no such cache for it.
  std::function<std::unique_ptr<attention_cache>(const std::string& name)> make_cache;
};

/// Throws where the file is no such model, or the program was built without a JSON parser.
opened_trained open_trained(const std::string& path, int threads);

/// The caches of a trained model by name; empty in a program without a JSON parser.
std::vector<cache_entry> list_trained_caches();

}  // namespace engine
