// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cmath>
#include <limits>
#include <vector>

// The oracle: attention of one query over rows, in double, two passes, straight from the definition. It shares nothing
// with the library, on purpose: no policies, no tiles, no headers of ours.

namespace kvc::reference {

struct attention_input {
  std::vector<double> query;                // [d]
  std::vector<std::vector<double>> keys;    // [rows][d]
  std::vector<std::vector<double>> values;  // [rows][e]
  std::vector<bool> visible;                // [rows]; empty: all
  double scale = 1;
  double soft_cap = 0;  // 0: none
  bool has_sink = false;
  double sink = 0;
};

struct attention_output {
  std::vector<double> out;  // [e]
  double lse = -std::numeric_limits<double>::infinity();
};

inline attention_output attention(const attention_input& in) {
  const std::size_t rows = in.keys.size();
  attention_output result;
  result.out.assign(in.values.empty() ? 0 : in.values[0].size(), 0.0);

  // First pass: scores and their maximum.
  std::vector<double> score(rows, -std::numeric_limits<double>::infinity());
  double top = in.has_sink ? in.sink : -std::numeric_limits<double>::infinity();
  for (std::size_t t = 0; t < rows; ++t) {
    if (!in.visible.empty() && !in.visible[t]) continue;
    double s = 0;
    for (std::size_t i = 0; i < in.query.size(); ++i) s += in.query[i] * in.keys[t][i];
    s *= in.scale;
    if (in.soft_cap > 0) s = in.soft_cap * std::tanh(s / in.soft_cap);
    score[t] = s;
    if (std::isnan(s) || s > top) top = s;
  }
  if (top == -std::numeric_limits<double>::infinity()) return result;

  // Second pass: weights and their sum.
  double total = in.has_sink ? std::exp(in.sink - top) : 0.0;
  for (std::size_t t = 0; t < rows; ++t) {
    if (!in.visible.empty() && !in.visible[t]) continue;
    const double weight = std::exp(score[t] - top);
    total += weight;
    for (std::size_t i = 0; i < result.out.size(); ++i) result.out[i] += weight * in.values[t][i];
  }
  for (double& o : result.out) o /= total;
  result.lse = top + std::log(total);
  return result;
}

}  // namespace kvc::reference
