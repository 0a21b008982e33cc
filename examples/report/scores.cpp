// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "scores.hpp"

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace report {
namespace {

using array = Eigen::Map<const Eigen::ArrayXf>;

/// Calls part(begin, size) for pieces that are short enough to be summed in fp32.
template <class Part>
double sum_of_parts(std::size_t size, Part&& part) {
  constexpr std::size_t longest = 1024;
  double sum = 0;
  for (std::size_t begin = 0; begin < size; begin += longest) {
    sum += static_cast<double>(part(begin, static_cast<Eigen::Index>(std::min(longest, size - begin))));
  }
  return sum;
}

}  // namespace

row_summary summarise(std::span<const float> logits) {
  const float largest = array(logits.data(), static_cast<Eigen::Index>(logits.size())).maxCoeff();
  const double sum = sum_of_parts(logits.size(), [&](std::size_t begin, Eigen::Index size) {
    return (array(logits.data() + begin, size) - largest).exp().sum();
  });
  const auto top = std::find(logits.begin(), logits.end(), largest);
  return {std::log(sum) + static_cast<double>(largest), static_cast<token>(top - logits.begin())};
}

double divergence(std::span<const float> p, const row_summary& of_p, std::span<const float> q,
                  const row_summary& of_q) {
  const float log_sum = static_cast<float>(of_p.log_sum);
  const double expected = sum_of_parts(p.size(), [&](std::size_t begin, Eigen::Index size) {
    const array a(p.data() + begin, size), b(q.data() + begin, size);
    return ((a - log_sum).exp() * (a - b)).sum();
  });
  // log_sum was rounded for the sum, which scaled all its terms alike.
  return expected * std::exp(static_cast<double>(log_sum) - of_p.log_sum) - (of_p.log_sum - of_q.log_sum);
}

reference_logits::reference_logits(std::span<const token> window, std::size_t vocabulary)
    : window_(window), vocabulary_(vocabulary), summaries_(window.size()), own_(empty_scores()) {
  logits_.resize(window.size() * vocabulary);
}

position_scores reference_logits::empty_scores() const {
  const std::size_t tokens = window_.size();
  return {std::vector<float>(tokens - 1), std::vector<float>(tokens), std::vector<char>(tokens, 1)};
}

void reference_logits::record(std::size_t first, std::span<const float> logits, engine::thread_pool& pool) {
  for_rows(first, logits, pool, [&](std::size_t position, std::span<const float> row) {
    std::copy(row.begin(), row.end(), logits_.begin() + static_cast<std::ptrdiff_t>(position * vocabulary_));
    summaries_[position] = summarise(row);
    score_loss(position, row, summaries_[position], own_);
  });
}

void reference_logits::compare(std::size_t first, std::span<const float> logits, engine::thread_pool& pool,
                               position_scores& to) const {
  for_rows(first, logits, pool, [&](std::size_t position, std::span<const float> row) {
    const row_summary summary = summarise(row);
    const std::span<const float> expected(logits_.data() + position * vocabulary_, vocabulary_);
    score_loss(position, row, summary, to);
    to.kl[position] = static_cast<float>(divergence(expected, summaries_[position], row, summary));
    to.agrees[position] = summary.top == summaries_[position].top;
  });
}

template <class Row>
void reference_logits::for_rows(std::size_t first, std::span<const float> logits, engine::thread_pool& pool,
                                Row&& row) const {
  const std::size_t rows = logits.size() / vocabulary_;
  if (first + rows > window_.size()) throw std::logic_error("scores: more rows than the window has tokens");
  pool.split(rows, 1, [&](std::size_t begin, std::size_t end) {
    for (std::size_t r = begin; r < end; ++r) row(first + r, logits.subspan(r * vocabulary_, vocabulary_));
  });
}

void reference_logits::score_loss(std::size_t position, std::span<const float> row, const row_summary& summary,
                                  position_scores& to) const {
  if (position + 1 == window_.size()) return;  // nothing follows the last token
  const float logit = row[static_cast<std::size_t>(window_[position + 1])];
  to.loss[position] = static_cast<float>(summary.log_sum - static_cast<double>(logit));
}

}  // namespace report
