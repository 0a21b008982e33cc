// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "evaluate.hpp"

#include <algorithm>
#include <numeric>
#include <vector>

namespace report {
namespace {

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace

window_reading read_window(engine::decoder& model, engine::attention_cache& cache, std::span<const token> window,
                           const std::function<void(std::size_t, std::span<const float>)>& visit) {
  const std::size_t most = static_cast<std::size_t>(std::min(step_rows, cache.max_step_rows()));
  window_reading out;
  out.times.bulk_tokens = window.size() - decoded(window.size());
  std::vector<double> appends, attends;
  for (std::size_t first = 0; first < window.size();) {
    const bool is_bulk = first < out.times.bulk_tokens;
    const std::size_t rows = is_bulk ? std::min(most, out.times.bulk_tokens - first) : 1;
    const engine::phase_seconds before = model.seconds();
    const auto logits = model.forward(window.subspan(first, rows), cache, engine::logits_wanted::all_rows);
    const double append = model.seconds().append - before.append, attend = model.seconds().attend - before.attend;
    if (is_bulk) {
      out.times.append += append;
      out.times.attend += attend;
    } else {
      appends.push_back(append);
      attends.push_back(attend);
    }
    visit(first, logits);
    first += rows;
  }
  out.times.decode_append = median(std::move(appends));
  out.times.decode_attend = median(std::move(attends));
  out.bytes = cache.bytes();
  return out;
}

void evaluation::add(const position_scores& scores, const window_reading& reading) {
  const auto sum_into = [](std::vector<double>& at, const std::vector<float>& values) {
    at.resize(std::max(at.size(), values.size()));
    double sum = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      at[i] += static_cast<double>(values[i]);
      sum += static_cast<double>(values[i]);
    }
    return sum;
  };
  const double window_loss = sum_into(loss_at, scores.loss), window_kl = sum_into(kl_at, scores.kl);
  ++windows;
  loss += window_loss;
  kl += window_kl;
  losses += scores.loss.size();
  positions += scores.kl.size();
  agreeing += static_cast<std::size_t>(std::count(scores.agrees.begin(), scores.agrees.end(), 1));
  window_losses.push_back(window_loss / static_cast<double>(scores.loss.size()));
  window_kls.push_back(window_kl / static_cast<double>(scores.kl.size()));
  bytes = reading.bytes;
  times.bulk_tokens += reading.times.bulk_tokens;
  times.append += reading.times.append;
  times.attend += reading.times.attend;
  times.decode_append += reading.times.decode_append;
  times.decode_attend += reading.times.decode_attend;
}

}  // namespace report
