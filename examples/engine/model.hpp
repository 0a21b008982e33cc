// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "attention_cache.hpp"
#include "gguf.hpp"
#include "matrix.hpp"
#include "merge.hpp"
#include "model_config.hpp"
#include "rotary.hpp"
#include "thread_pool.hpp"

namespace engine {

struct model_options {
  int threads = 1;
  int context = 0;  ///< positions to prepare for; 0: as many as the model was made for, at most 131072
};

enum class logits_wanted { none, last_row, all_rows };

/// Where the time of the steps so far went.
struct phase_seconds {
  double products = 0;  ///< matrix products with weights
  double append = 0;    ///< the cache's append
  double attend = 0;    ///< the cache's attend
  double rest = 0;      ///< norms, rotary, SwiGLU, the cache's reserve and commit
  double total() const { return products + append + attend + rest; }
};

/// A Llama-architecture decoder in fp32. It keeps no history of its own: what a token may see of the others goes
/// through an attention_cache. One model serves any number of caches, one step at a time.
class model {
 public:
  /// Checks every tensor's name and shape, and dequantizes all of them: four bytes per weight from here on. The file is
  /// not needed afterwards.
  model(const gguf_file& file, const model_options& options);

  /// Computes one step: the tokens at positions cache.length() and on, at most cache.max_step_rows() of them; longer
  /// prompts take several steps. Returns [all tokens | the last one | none][vocabulary] logits, valid until the next
  /// step.
  std::span<const float> forward(std::span<const token> tokens, attention_cache& cache, logits_wanted wanted);

  const model_config& config() const { return config_; }
  int context() const { return rotary_.positions(); }
  const rotary_table& rotary() const { return rotary_; }

  /// The threads that compute, for others who work between the steps and in them.
  thread_pool& pool() { return pool_; }

  const phase_seconds& seconds() const { return seconds_; }
  void reset_seconds() { seconds_ = {}; }

 private:
  struct layer {
    std::vector<float> attention_norm;     // [width]
    matrix q;                              // [query_heads * head_dim][width]
    matrix k, v;                           // [kv_heads * head_dim][width]
    matrix attention_output;               // [width][query_heads * head_dim]
    std::vector<float> feed_forward_norm;  // [width]
    matrix gate, up;                       // [feed_forward][width]
    matrix down;                           // [width][feed_forward]
  };

  /// What a step works on, kept from one to the next.
  struct workspace {
    std::vector<float> stream;    // [rows][width], the residual stream
    std::vector<float> normed;    // [rows][width]
    std::vector<float> q;         // [rows][query_heads][head_dim]
    std::vector<float> k, v;      // [rows][kv_heads][head_dim]
    std::vector<float> attended;  // [rows][query_heads][head_dim]
    std::vector<float> gate, up;  // [rows][feed_forward]
    std::vector<float> branch;    // [rows][width], what a block adds to the stream
    std::vector<float> logits;    // [rows wanted][vocabulary]
    void resize(std::size_t rows, const model_config& config);
  };

  void check_step(std::span<const token> tokens, const attention_cache& cache) const;
  void embed(std::span<const token> tokens);
  void attention_block(const layer& weights, int index, std::size_t rows, attention_cache& cache);
  void feed_forward_block(const layer& weights, std::size_t rows);
  std::span<const float> project(std::size_t first_row, std::size_t rows);

  void product(const matrix& w, const float* x, std::size_t rows, float* y);
  void rotate(float* rows, std::size_t count, int heads, int first_position);

  model_config config_;
  thread_pool pool_;
  rotary_table rotary_;
  matrix embedding_;                // [vocabulary][width]
  matrix output_;                   // [vocabulary][width]; empty where tied to the embedding
  std::vector<float> output_norm_;  // [width]
  std::vector<layer> layers_;
  workspace work_;
  phase_seconds seconds_;
};

}  // namespace engine
