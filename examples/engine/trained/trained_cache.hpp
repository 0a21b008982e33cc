// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "attention_cache.hpp"
#include "caches.hpp"
#include "trained_config.hpp"

namespace engine {

/// The cache of one sequence of a trained model. In latent blocks append takes k = [rows][latent | rotary key] and no
/// v, attend takes q = [rows][query_heads][latent | rotary], absorbed, and gives [rows][query_heads][latent].
class trained_cache : public attention_cache {
 public:
  /// [history][width]: what the writer in `layer` keeps of the tokens before, zeros where there are none. It is as long
  /// as the model looks back, however long the sequence is.
  virtual std::span<float> history(int layer) = 0;
};

/// A cache of list_trained_caches() by its name. Throws std::invalid_argument where there is none, or none for rows of
/// this width.
std::unique_ptr<trained_cache> make_trained_cache(std::string_view name, const trained_config& config,
                                                  const cache_options& options);

}  // namespace engine
