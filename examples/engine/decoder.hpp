// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <span>

#include "attention_cache.hpp"
#include "merge.hpp"
#include "model_config.hpp"

namespace engine {

enum class logits_wanted { none, last_row, all_rows };

/// Where the time of the steps so far went.
struct phase_seconds {
  double products = 0;  ///< matrix products with weights; on a GPU they are part of the rest
  double append = 0;    ///< the cache's append
  double attend = 0;    ///< the cache's attend
  double rest = 0;      ///< norms, rotary, SwiGLU, the cache's reserve and commit
  double total() const { return products + append + attend + rest; }
};

/// What computes a model's steps: engine::model on the host, device_model on a GPU. It keeps no history of its own:
/// what a token may see of the others goes through an attention_cache.
class decoder {
 public:
  virtual ~decoder() = default;

  /// Computes one step: the tokens at positions cache.length() and on, at most cache.max_step_rows() of them; longer
  /// prompts take several steps. Returns [all tokens | the last one | none][vocabulary] logits in host memory, valid
  /// until the next step.
  virtual std::span<const float> forward(std::span<const token> tokens, attention_cache& cache,
                                         logits_wanted wanted) = 0;

  virtual const model_config& config() const = 0;
  /// Positions that it is prepared for.
  virtual int context() const = 0;
  virtual const phase_seconds& seconds() const = 0;
};

}  // namespace engine
