// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <chrono>
#include <cstddef>
#include <span>
#include <vector>

#include "attention_cache.hpp"
#include "merge.hpp"
#include "model_config.hpp"
#include "thread_pool.hpp"

// What every model of the engine is made of, beside matrices and rotary positions.

namespace engine {

/// Adds the time it lives to a sum.
class stopwatch {
 public:
  explicit stopwatch(double& sum) : sum_(sum), start_(clock::now()) {}
  ~stopwatch() { sum_ += std::chrono::duration<double>(clock::now() - start_).count(); }
  stopwatch(const stopwatch&) = delete;
  stopwatch& operator=(const stopwatch&) = delete;

 private:
  using clock = std::chrono::steady_clock;
  double& sum_;
  clock::time_point start_;
};

/// out[width] = x / sqrt(mean(x^2) + epsilon) * weight; width is weight.size(), out may be x.
void rms_norm_row(const float* x, const std::vector<float>& weight, float epsilon, float* out);
/// The same for [rows][width].
void rms_norm(const float* x, std::size_t rows, const std::vector<float>& weight, float epsilon, float* out,
              thread_pool& pool);

/// gate = silu(gate) * up, element by element, silu(x) = x / (1 + e^-x).
void swiglu(float* gate, const float* up, std::size_t count, thread_pool& pool);

/// to += from
void add(std::vector<float>& to, const std::vector<float>& from, thread_pool& pool);

/// Throws where a model of `context` positions cannot compute this step.
void check_step(std::span<const token> tokens, const attention_cache& cache, int context, int vocabulary);

/// The positions to prepare for where `asked` were asked for, 0: as many as the model was made for, at most 131072.
int prepared_context(const model_config& config, int asked);

}  // namespace engine
