// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <functional>
#include <span>

#include "attention_cache.hpp"
#include "decoder.hpp"
#include "scores.hpp"

namespace report {

/// Tokens per step, and how many steps of one token end every window: these show what decoding costs.
constexpr int step_rows = 256;
constexpr int decode_steps = 16;

/// How many tokens of a window come one at a time.
constexpr std::size_t decoded(std::size_t window) {
  return window / 4 < decode_steps ? window / 4 : decode_steps;
}

/// Where one cache's time went in one window, all layers together.
struct window_times {
  std::size_t bulk_tokens = 0;    ///< those that came in steps of step_rows
  double append = 0, attend = 0;  ///< seconds, of the bulk
  double decode_append = 0;       ///< median seconds per single token at the end of the window
  double decode_attend = 0;
  double decode_step = 0;  ///< the same, of whole steps

  window_times& operator+=(const window_times& other);
};

struct window_reading {
  engine::cache_bytes bytes;  ///< at the end of the window
  window_times times;
};

/// Lets the model read a window through an empty cache, so that every token is attended through it. `visit(first,
/// logits)` sees all logits, step by step.
window_reading read_window(engine::decoder& model, engine::attention_cache& cache, std::span<const token> window,
                           const std::function<void(std::size_t, std::span<const float>)>& visit);

/// What one cache made of all windows.
struct evaluation {
  int windows = 0;
  double loss = 0;  ///< nats, the sum over all positions that have a next token
  double kl = 0;    ///< nats, the sum over all positions
  std::size_t losses = 0, positions = 0, agreeing = 0;
  std::vector<double> loss_at, kl_at;             ///< per position, sums over the windows
  std::vector<double> window_losses, window_kls;  ///< means per window
  engine::cache_bytes bytes;                      ///< at the end of a window
  window_times times;                             ///< sums

  void add(const position_scores& scores, const window_reading& reading);

  double mean_loss() const { return loss / static_cast<double>(losses); }
  double mean_kl() const { return kl / static_cast<double>(positions); }
  double top1() const { return static_cast<double>(agreeing) / static_cast<double>(positions); }
};

}  // namespace report
