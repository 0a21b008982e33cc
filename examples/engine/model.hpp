// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "attention_cache.hpp"
#include "decoder.hpp"
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

/// A Llama-architecture decoder in fp32, on the host. One model serves any number of caches, one step at a time.
class model : public decoder {
 public:
  /// Checks every tensor's name and shape, and dequantizes all of them: four bytes per weight from here on. The file is
  /// not needed afterwards.
  model(const gguf_file& file, const model_options& options);

  std::span<const float> forward(std::span<const token> tokens, attention_cache& cache, logits_wanted wanted) override;

  const model_config& config() const override { return config_; }
  int context() const override { return rotary_.positions(); }
  const rotary_table& rotary() const { return rotary_; }

  /// Throws what forward would, without computing.
  void check_step(std::span<const token> tokens, const attention_cache& cache) const;

  /// The threads that compute, for others who work between the steps and in them.
  thread_pool& pool() { return pool_; }

  const phase_seconds& seconds() const override { return seconds_; }
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
