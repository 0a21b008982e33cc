// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "caches.hpp"
#include "decoder.hpp"
#include "gguf.hpp"
#include "model.hpp"

// The engine on a GPU, for programs that know nothing of CUDA. A build without CUDA has these functions as well.

namespace engine {

/// The name of the GPU that is used. Throws std::runtime_error, one sentence, where there is none or the build lacks
/// CUDA.
std::string device_name();

/// A model whose weights, caches and steps are on a GPU. A step of one token is one captured graph.
class device_model : public decoder {
 public:
  /// The caches of the host by the same names (caches.hpp), in the GPU's memory; for this model's steps alone. Throws
  /// std::invalid_argument where there is none.
  virtual std::unique_ptr<attention_cache> make_cache(std::string_view name, const cache_options& options) = 0;

  /// The `count` tokens that greedily follow `first` (not among them), one captured step each: every token goes to the
  /// next step in device memory.
  virtual std::vector<token> continue_greedily(attention_cache& cache, token first, int count) = 0;
};

struct device_options {
  bool timed = false;  ///< whether seconds() counts; a step is slower with the marks that it takes
};

/// host: the same model, whose configuration and angles are used; outlives the result.
std::unique_ptr<device_model> make_device_model(const gguf_file& file, const model& host,
                                                const device_options& options);

struct trained_config;

/// The cache of a trained model (with_trained_format) in the GPU's memory; the model stays on the host, so that rows,
/// queries and outputs travel in every layer: to check the caches there, not for speed. Throws as the host's do.
std::unique_ptr<attention_cache> make_trained_device_cache(std::string_view name, const trained_config& config,
                                                           int context);

}  // namespace engine
