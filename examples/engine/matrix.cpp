// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "matrix.hpp"

#include <Eigen/Core>
#include <algorithm>
#include <stdexcept>

// Eigen computes y^T = W x^T block by block. What is row-major to us is its own order transposed.

namespace engine {
namespace {

// Outputs of a block: three registers of 16 floats, the height that Eigen's kernel is fastest with; the smaller ones of
// other machines divide it. Small, so that many threads find work in a narrow product.
constexpr std::size_t block = 48;

Eigen::Index index(std::size_t i) {
  return static_cast<Eigen::Index>(i);
}

}  // namespace

matrix::matrix(std::size_t outputs, std::size_t inputs, std::span<const float> values)
    : outputs_(outputs), inputs_(inputs), blocks_(values.size()) {
  if (values.size() != outputs * inputs) throw std::invalid_argument("matrix: not outputs x inputs values");
  for (std::size_t first = 0; first < outputs; first += block) {
    const std::size_t height = std::min(block, outputs - first);
    float* to = blocks_.data() + first * inputs;
    for (std::size_t o = 0; o < height; ++o) {
      for (std::size_t i = 0; i < inputs; ++i) to[i * height + o] = values[(first + o) * inputs + i];
    }
  }
}

void matrix::copy_row(std::size_t output, float* to) const {
  const std::size_t first = output / block * block, height = std::min(block, outputs_ - first);
  const float* from = blocks_.data() + first * inputs_ + (output - first);
  for (std::size_t i = 0; i < inputs_; ++i) to[i] = from[i * height];
}

void matrix::multiply(const float* x, std::size_t rows, float* y, thread_pool& pool) const {
  pool.split(outputs_, block, [&](std::size_t begin, std::size_t end) {
    for (std::size_t first = begin; first < end; first += block) multiply_block(first, x, inputs_, rows, y, outputs_);
  });
}

void matrix::multiply(const float* x, std::size_t x_stride, std::size_t rows, float* y, std::size_t y_stride) const {
  for (std::size_t first = 0; first < outputs_; first += block) multiply_block(first, x, x_stride, rows, y, y_stride);
}

void matrix::multiply_block(std::size_t first, const float* x, std::size_t x_stride, std::size_t rows, float* y,
                            std::size_t y_stride) const {
  using strided = Eigen::OuterStride<>;
  const Eigen::Index height = index(std::min(block, outputs_ - first));
  const Eigen::Map<const Eigen::MatrixXf, 0, strided> x_transposed(x, index(inputs_), index(rows),
                                                                   strided(index(x_stride)));
  const Eigen::Map<const Eigen::MatrixXf> w(blocks_.data() + first * inputs_, height, index(inputs_));
  Eigen::Map<Eigen::MatrixXf, 0, strided> y_transposed(y + first, height, index(rows), strided(index(y_stride)));
  y_transposed.noalias() = w * x_transposed;
}

}  // namespace engine
