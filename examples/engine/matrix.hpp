// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "thread_pool.hpp"

namespace engine {

/// A weight of the model: y = W x. Kept as the product reads it, in panels of neighbouring outputs: [panels][inputs]
/// [outputs of a panel], so that every step goes through memory once, in order.
class matrix {
 public:
  matrix() = default;
  /// values: [outputs][inputs].
  matrix(std::size_t outputs, std::size_t inputs, std::span<const float> values);

  bool empty() const { return outputs_ == 0; }
  std::size_t outputs() const { return outputs_; }
  std::size_t inputs() const { return inputs_; }

  /// to[inputs] = one row of W: a token's embedding.
  void copy_row(std::size_t output, float* to) const;

  /// y[rows][outputs] = x[rows][inputs] * W^T. Each thread computes a range of the outputs, so that it reads its part
  /// of W alone. Every element of y is summed in one order, whatever `rows` is.
  void multiply(const float* x, std::size_t rows, float* y, thread_pool& pool) const;

 private:
  struct aligned_delete {
    void operator()(float* p) const;
  };

  std::size_t outputs_ = 0, inputs_ = 0;
  std::unique_ptr<float[], aligned_delete> panels_;  // the last panel is filled up with zeros
};

}  // namespace engine
