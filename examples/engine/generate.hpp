// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <stdexcept>

#include "attention_cache.hpp"
#include "decoder.hpp"

namespace engine {

/// Feeds a text of any length in steps that the cache takes, at most `step_rows` tokens each. After every step
/// `visit(first, logits)` sees the logits [rows][vocabulary] of the tokens from the `first` on. (All logits of 2048
/// tokens and 49152 words are 400 MB: smaller steps keep less of them at a time, and give the same ones.)
template <class Visit>
void feed(decoder& transformer, attention_cache& cache, std::span<const token> tokens, int step_rows, Visit&& visit) {
  const auto most = static_cast<std::size_t>(std::max(1, std::min(step_rows, cache.max_step_rows())));
  for (std::size_t first = 0; first < tokens.size(); first += most) {
    const auto step = tokens.subspan(first, std::min(most, tokens.size() - first));
    visit(first, transformer.forward(step, cache, logits_wanted::all_rows));
  }
}

/// The same where only the last token's logits [vocabulary] matter: a prompt.
inline std::span<const float> prefill(decoder& transformer, attention_cache& cache, std::span<const token> tokens) {
  if (tokens.empty()) throw std::runtime_error("the prompt is empty");
  const auto most = static_cast<std::size_t>(std::max(1, cache.max_step_rows()));
  while (tokens.size() > most) {
    transformer.forward(tokens.first(most), cache, logits_wanted::none);
    tokens = tokens.subspan(most);
  }
  return transformer.forward(tokens, cache, logits_wanted::last_row);
}

/// The most likely token; the first of equals.
inline token greedy(std::span<const float> logits) {
  return static_cast<token>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

}  // namespace engine
