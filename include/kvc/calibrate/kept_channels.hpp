// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "kvc/calibrate/moments.hpp"

namespace kvc::inline v0_1::calibrate {

/// The `kept` channels that matter most to the scores, ascending: by E[q_i^2] E[k_i^2], the squared norm of what
/// channel i adds to Q K^T (ThinK, arXiv 2407.21018, section 3). For values pass the identity as queries.
inline std::vector<int> kept_channels(const Eigen::MatrixXd& keys, const Eigen::MatrixXd& queries, int kept) {
  std::vector<int> order(static_cast<std::size_t>(keys.rows()));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return keys(a, a) * queries(a, a) > keys(b, b) * queries(b, b); });
  order.resize(static_cast<std::size_t>(kept));
  std::sort(order.begin(), order.end());
  return order;
}

}  // namespace kvc::inline v0_1::calibrate
