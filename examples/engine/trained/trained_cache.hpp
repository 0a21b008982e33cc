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
  /// [width]: what the writer in `layer` saw at the newest position, zeros where there is none. For models that look
  /// back: one row per writing layer and sequence, however long that is.
  virtual std::span<float> last_row(int layer) = 0;
};

/// What a trained model's rows may be stored as: "own", the format that it was trained with, and "fp32".
std::vector<cache_entry> list_trained_caches();

/// Throws std::invalid_argument where there is no cache `name`, or none for rows of this width.
std::unique_ptr<trained_cache> make_trained_cache(std::string_view name, const trained_config& config,
                                                  const cache_options& options);

}  // namespace engine
