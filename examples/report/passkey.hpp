// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "attention_cache.hpp"
#include "decoder.hpp"
#include "tokenizer.hpp"

namespace report {

/// A number hidden in filler, and a question for it at the end.
struct passkey_task {
  double depth = 0;  ///< share of the filler before the number
  std::string digits;
  std::vector<engine::token> prompt;
};

/// Three depths: 10, 50 and 90 % of a filler of about so many tokens.
std::vector<passkey_task> passkey_tasks(const engine::tokenizer& words, std::size_t filler_tokens = 1000);

/// Tokens that a cache must hold for any of them.
int passkey_context(const std::vector<passkey_task>& tasks);

/// Whether the model, reading through an empty cache, answers greedily with exactly the digits.
bool retrieves(engine::decoder& model, engine::attention_cache& cache, const engine::tokenizer& words,
               const passkey_task& task);

}  // namespace report
