// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "thread_pool.hpp"

namespace engine {

/// A weight of the model: y = W x. Kept in blocks of neighbouring outputs, [blocks][inputs][outputs of a block], so
/// that a product goes through memory once, in order.
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

  /// y[rows][outputs] = x[rows][inputs] * W^T. Each thread computes whole blocks, so that it reads its part of W alone,
  /// and so that y is the same to the last bit for any number of threads. The order of its sums depends on `rows`.
  void multiply(const float* x, std::size_t rows, float* y, thread_pool& pool) const;

  /// The same on the caller's thread alone, for rows that lie further apart than they are long: one head of many.
  void multiply(const float* x, std::size_t x_stride, std::size_t rows, float* y, std::size_t y_stride) const;

 private:
  /// One block of outputs, from `first` on.
  void multiply_block(std::size_t first, const float* x, std::size_t x_stride, std::size_t rows, float* y,
                      std::size_t y_stride) const;

  std::size_t outputs_ = 0, inputs_ = 0;
  std::vector<float> blocks_;  // the last block may be lower
};

}  // namespace engine
