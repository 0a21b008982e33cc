// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <vector>

#include "attention_cache.hpp"
#include "gguf.hpp"

namespace engine {

/// What the metadata says of a Llama-architecture model, checked to be something that the engine can compute.
struct model_config {
  int layers = 0;
  int width = 0;         ///< of the residual stream
  int feed_forward = 0;  ///< inner width of the SwiGLU block
  int query_heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int vocabulary = 0;
  int context = 0;  ///< the most positions that the model was made for
  float norm_epsilon = 0;
  std::vector<double> rotary_frequencies;  ///< radians per position, one per pair

  attention_shape attention() const { return {layers, query_heads, kv_heads, head_dim}; }
};

/// Errors name the key, the architecture, the head dimension or the tensor that is not served.
model_config read_model_config(const gguf_file& file);

}  // namespace engine
