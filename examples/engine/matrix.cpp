// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "matrix.hpp"

#include <Eigen/Core>

namespace engine {
namespace {

using row_major = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using column = Eigen::VectorXf;

Eigen::Index index(std::size_t n) {
  return static_cast<Eigen::Index>(n);
}

}  // namespace

void multiply(const matrix& w, const float* x, std::size_t rows, float* y, thread_pool& pool) {
  const Eigen::Map<const row_major> weights(w.values.data(), index(w.outputs), index(w.inputs));
  constexpr std::size_t grain = 16;  // outputs: one SIMD register of any machine
  pool.split(w.outputs, grain, [&](std::size_t begin, std::size_t end) {
    const auto part = weights.middleRows(index(begin), index(end - begin));  // [end - begin][inputs]
    if (rows == 1) {  // decoding: bound by reading W, which Eigen's matrix-vector product does in order
      const Eigen::Map<const column> input(x, index(w.inputs));
      Eigen::Map<column>(y + begin, index(end - begin)).noalias() = part * input;
    } else {
      const Eigen::Map<const row_major> input(x, index(rows), index(w.inputs));
      Eigen::Map<row_major> output(y, index(rows), index(w.outputs));
      output.middleCols(index(begin), index(end - begin)).noalias() = input * part.transpose();
    }
  });
}

}  // namespace engine
