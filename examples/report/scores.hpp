// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "merge.hpp"
#include "thread_pool.hpp"

namespace report {

using engine::token;

/// A row of logits in two numbers: log p[i] = logits[i] - log_sum.
struct row_summary {
  double log_sum = 0;  ///< log of the sum of exponentials
  token top = 0;       ///< the most likely token; the first of equals
};

/// Sums of fp32 exponentials, kept in double: log_sum is right to about 1e-7.
row_summary summarise(std::span<const float> logits);

/// KL(p || q) in nats, for the distributions of two rows of logits. Right to about 1e-6 for one row, where the KL of
/// bf16 is around 4e-5; errors of rows have both signs and average out.
double divergence(std::span<const float> p, const row_summary& of_p, std::span<const float> q, const row_summary& of_q);

/// What was found at each position of a window.
struct position_scores {
  std::vector<float> loss;   ///< [tokens - 1]: -log p of the token that follows, in nats
  std::vector<float> kl;     ///< [tokens]: to the reference
  std::vector<char> agrees;  ///< [tokens]: whether the most likely token is the reference's
};

/// All logits of the reference over one window, against which the other caches are scored. They are kept as they are,
/// in fp32: 192 KiB a token with 49152 words, 403 MB for 2048 tokens. Half of that (log p in fp16) would put an error
/// of up to 0.004 nats on each log p, and none of it (running the reference again beside each cache) would double the
/// time.
class reference_logits {
 public:
  reference_logits(std::span<const token> window, std::size_t vocabulary);

  /// The reference's own step: logits [rows][vocabulary] from position `first` on.
  void record(std::size_t first, std::span<const float> logits, engine::thread_pool& pool);

  /// The scores of the reference itself: its losses, no divergence, full agreement.
  const position_scores& own_scores() const { return own_; }

  /// Another cache's step at the same positions, once the reference's is there.
  void compare(std::size_t first, std::span<const float> logits, engine::thread_pool& pool, position_scores& to) const;

  position_scores empty_scores() const;

 private:
  template <class Row>
  void for_rows(std::size_t first, std::span<const float> logits, engine::thread_pool& pool, Row&& row) const;
  void score_loss(std::size_t position, std::span<const float> row, const row_summary& summary,
                  position_scores& to) const;

  std::span<const token> window_;
  std::size_t vocabulary_;
  std::vector<float> logits_;           // [tokens][vocabulary]
  std::vector<row_summary> summaries_;  // [tokens]
  position_scores own_;
};

}  // namespace report
