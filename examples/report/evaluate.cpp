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

window_times& window_times::operator+=(const window_times& other) {
  bulk_tokens += other.bulk_tokens;
  append += other.append;
  attend += other.attend;
  decode_append += other.decode_append;
  decode_attend += other.decode_attend;
  decode_step += other.decode_step;
  return *this;
}

window_reading read_window(engine::decoder& model, engine::attention_cache& cache, std::span<const token> window,
                           const std::function<void(std::size_t, std::span<const float>)>& visit) {
  const std::size_t most = static_cast<std::size_t>(std::min(step_rows, cache.max_step_rows()));
  window_reading out;
  out.times.bulk_tokens = window.size() - decoded(window.size());
  std::vector<double> appends, attends, steps;
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
      steps.push_back(model.seconds().total() - before.total());
    }
    visit(first, logits);
    first += rows;
  }
  out.times.decode_append = median(std::move(appends));
  out.times.decode_attend = median(std::move(attends));
  out.times.decode_step = median(std::move(steps));
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
  times += reading.times;
}

}  // namespace report
