// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "decoder.hpp"
#include "matrix.hpp"
#include "rotary.hpp"
#include "thread_pool.hpp"
#include "trained_cache.hpp"
#include "trained_config.hpp"

namespace engine {

/// A model of examples/train in fp32, on the host: the equations of model.py, with latent blocks in their absorbed
/// form. (h is the normalised layer input, seen what a writer makes of it and of the tokens before, | puts side by
/// side, and a follower reads its leader's c and kr.)
///
///     c | kr = seen W_down + net(seen)                                stored, by the first layer of a slot,
///                                                                     c normalised, kr normalised and rotated
///     qn | qr = rms_norm(h W_q), per head, qr rotated
///     z  = attend((qn W_uk^T | qr), (c | kr)), per head               W_uk has moved to the query,
///     out = (gate(h) z W_uv over all heads) W_o                       W_uv to the output: no key is ever expanded
class trained_model : public decoder {
 public:
  /// context: positions to prepare for; 0: as many as the model was made for.
  trained_model(const safetensors_file& file, int threads, int context = 0);

  /// `cache`: a trained_cache of this model.
  std::span<const float> forward(std::span<const token> tokens, attention_cache& cache, logits_wanted wanted) override;

  const trained_config& config() const override { return config_; }
  int context() const override { return rotary_.positions(); }
  const phase_seconds& seconds() const override { return seconds_; }
  thread_pool& pool() { return pool_; }

 private:
  using floats = std::vector<float>;

  struct layer {
    floats attention_norm;         // [width]
    matrix query;                  // [query_heads * query_width][width]
    floats query_norm;             // [query_width]
    matrix stored;                 // [stored_width][seen]; empty where nothing is stored
    matrix write_up, write_down;   // [2 * writer][seen], [stored_width][writer]: a net beside it, or empty
    floats shift;                  // [width], or empty
    matrix gate;                   // [query_heads][width], or empty
    floats key_norm;               // [head_dim], or of latents [rotary]
    floats latent_norm;            // [latent]
    std::vector<matrix> up_key;    // query_heads x [latent][head_dim], transposed: applied to queries
    std::vector<matrix> up_value;  // query_heads x [head_dim][latent]
    matrix attention_output;       // [width][query_heads * head_dim]
    floats feed_forward_norm;      // [width]
    matrix up;                     // [2 * feed_forward][width], the gate first
    matrix down;                   // [width][feed_forward]
  };

  /// What a step works on, kept from one to the next.
  struct workspace {
    floats stream, normed;  // [rows][width]
    floats mixed;           // [rows][width], shifted
    floats seen;            // [rows][(1 + look_back) * width], this row and those before
    floats query;           // [rows][query_heads][query_width]
    floats stored;          // [rows][stored_width]
    floats k, v;            // [rows][kv_heads][head_dim]; of latents k: [rows][latent | rotary]
    floats absorbed;        // [rows][query_heads][latent | rotary]
    floats attended;        // [rows][query_heads][head_dim], of latents [latent]
    floats heads;           // [rows][query_heads][head_dim]
    floats gates;           // [rows][query_heads]
    floats up, inner;       // [rows][2 * hidden], [rows][hidden], of a SwiGLU net
    floats branch;          // [rows][width]
    floats logits;          // [rows wanted][vocabulary]
  };

  void attention_block(const layer& weights, int index, std::size_t rows, trained_cache& cache);
  const floats& seen_by_writer(const layer& weights, int index, std::size_t rows, trained_cache& cache);
  void append(const layer& weights, int index, std::size_t rows, trained_cache& cache);
  void attend(const layer& weights, int index, std::size_t rows, trained_cache& cache);
  void feed_forward_block(const layer& weights, std::size_t rows);
  std::span<const float> project(std::size_t first_row, std::size_t rows);

  void product(const matrix& w, const floats& x, std::size_t rows, floats& y);
  /// y = (silu(x W_gate) * (x W_up)) W_down
  void net(const matrix& up, const matrix& down, const floats& x, std::size_t rows, floats& y);
  int query_width() const { return config_.head_dim + (config_.is_latent ? config_.rotary : 0); }

  trained_config config_;
  thread_pool pool_;
  rotary_table rotary_;
  matrix embedding_;    // [vocabulary][width], and the output
  floats output_norm_;  // [width]
  std::vector<layer> layers_;
  workspace work_;
  phase_seconds seconds_;
};

}  // namespace engine
