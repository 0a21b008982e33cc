// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Compiled for this machine's own CPU, unlike all else here: Eigen chooses its instructions when it is compiled.
#include "host_products.hpp"

#include <Eigen/Core>
#include <algorithm>

namespace kvc_bench {

double eigen_products(const float* q, int queries, const float* k, const float* v, int rows, float* out) {
  constexpr int width = 64;
  constexpr int query_block = 192;
  constexpr int row_block = 1024;
  using tile = Eigen::Matrix<float, Eigen::Dynamic, width, Eigen::RowMajor>;
  using square = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  static square scores(query_block, row_block);
  for (int i = 0; i < queries; i += query_block) {
    const int n = std::min(query_block, queries - i);
    Eigen::Map<tile> o(out + static_cast<long>(i) * width, n, width);
    const Eigen::Map<const tile> x(q + static_cast<long>(i) * width, n, width);
    o.setZero();
    for (int r = 0; r < rows; r += row_block) {
      const int m = std::min(row_block, rows - r);
      const Eigen::Map<const tile> keys(k + static_cast<long>(r) * width, m, width);
      const Eigen::Map<const tile> values(v + static_cast<long>(r) * width, m, width);
      auto s = scores.topLeftCorner(n, m);
      s.noalias() = x * keys.transpose();
      o.noalias() += s * values;
    }
  }
  return 2.0 * queries * rows * width * 2;
}

}  // namespace kvc_bench
