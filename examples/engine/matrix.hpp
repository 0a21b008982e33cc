// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cstddef>
#include <vector>

#include "thread_pool.hpp"

namespace engine {

/// A weight of the model: y = W x.
struct matrix {
  std::size_t outputs = 0, inputs = 0;
  std::vector<float> values;  ///< [outputs][inputs]
};

/// y[rows][outputs] = x[rows][inputs] * W^T. Each thread computes a range of the outputs, so that it reads its part of
/// W alone; Eigen does the arithmetic on one thread at a time.
void multiply(const matrix& w, const float* x, std::size_t rows, float* y, thread_pool& pool);

}  // namespace engine
