// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "parts.hpp"

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace engine {

void rms_norm_row(const float* x, const std::vector<float>& weight, float epsilon, float* out) {
  const auto width = static_cast<Eigen::Index>(weight.size());
  const Eigen::Map<const Eigen::ArrayXf> in(x, width), w(weight.data(), width);
  const float scale = 1.0f / std::sqrt(in.square().mean() + epsilon);
  Eigen::Map<Eigen::ArrayXf>(out, width) = in * scale * w;
}

void rms_norm(const float* x, std::size_t rows, const std::vector<float>& weight, float epsilon, float* out,
              thread_pool& pool) {
  pool.split(rows, 1, [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; ++row) {
      rms_norm_row(x + row * weight.size(), weight, epsilon, out + row * weight.size());
    }
  });
}

// Not by Eigen: at the ends of a range it takes another exp than in the middle, so that the last bits would depend on
// where ranges begin and how buffers lie.
void swiglu(float* gate, const float* up, std::size_t count, thread_pool& pool) {
  pool.split(count, 64, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) gate[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
  });
}

void add(std::vector<float>& to, const std::vector<float>& from, thread_pool& pool) {
  pool.split(to.size(), 64, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) to[i] += from[i];
  });
}

void check_step(std::span<const token> tokens, const attention_cache& cache, int context, int vocabulary) {
  const auto rows = static_cast<std::int64_t>(tokens.size());
  if (rows == 0) throw std::runtime_error("a step without tokens");
  if (rows > cache.max_step_rows()) {
    throw std::runtime_error("a step of " + std::to_string(rows) + " tokens, where the cache '" + cache.name() +
                             "' takes " + std::to_string(cache.max_step_rows()));
  }
  if (cache.length() + rows > context) {
    throw std::runtime_error("position " + std::to_string(cache.length() + rows - 1) + " is outside the context of " +
                             std::to_string(context) + " tokens");
  }
  for (const token id : tokens) {
    if (id < 0 || id >= vocabulary) {
      throw std::runtime_error("token " + std::to_string(id) + " is outside the model's vocabulary of " +
                               std::to_string(vocabulary));
    }
  }
}

int prepared_context(const model_config& config, int asked) {
  if (asked < 0 || asked > config.context) {
    throw std::runtime_error("a context of " + std::to_string(asked) + " tokens was asked of a model made for " +
                             std::to_string(config.context));
  }
  // A file may claim any context: the rotary table is not sized by a claim alone.
  constexpr int most_unasked = 131072;
  return asked > 0 ? asked : std::min(config.context, most_unasked);
}

}  // namespace engine
