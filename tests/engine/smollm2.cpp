// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// link: kvc_engine_model

// The real model, where it is there. Expected numbers come from a float64 implementation in numpy, written apart.

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <string>
#include <vector>

#include "exact_cache.hpp"
#include "generate.hpp"
#include "model.hpp"
#include "real_model.hpp"
#include "tokenizer.hpp"

using namespace engine;
using namespace engine_test;

TEST_CASE("SmolLM2 reads and writes as it should") {
  const auto path = fetched_model();
  if (!path) {
    MESSAGE(no_model);
    return;
  }
  const auto file = gguf_file::read(*path);
  const tokenizer words(file);
  model transformer(file, {.threads = 2, .context = 256});
  CHECK(transformer.config().layers == 30);
  CHECK(transformer.config().query_heads == 9);
  CHECK(transformer.config().kv_heads == 3);
  CHECK(transformer.config().head_dim == 64);
  CHECK(transformer.config().context == 8192);
  const attention_shape shape = transformer.config().attention();

  const std::vector<token> text = words.encode(
      "The Jargon File is a comprehensive compendium of hacker slang illuminating many aspects of hackish tradition, "
      "folklore, and humor. It was last revised in 2003.");
  exact_cache prompt_cache(shape, 256, 2);
  double nats = 0;
  feed(transformer, prompt_cache, text, 10, [&](std::size_t first, std::span<const float> logits) {
    const auto vocabulary = static_cast<std::size_t>(transformer.config().vocabulary);
    for (std::size_t row = 0; row * vocabulary < logits.size(); ++row) {
      if (first + row + 1 == text.size()) break;  // nothing follows the last token
      const auto line = logits.subspan(row * vocabulary, vocabulary);
      const double largest = *std::max_element(line.begin(), line.end());
      double sum = 0;
      for (const float logit : line) sum += std::exp(logit - largest);
      nats += std::log(sum) + largest - line[static_cast<std::size_t>(text[first + row + 1])];
    }
  });
  CHECK(text.size() == 36);
  CHECK(nats == doctest::Approx(149.60003).epsilon(1e-5));

  exact_cache cache(shape, 256, 2);
  std::vector<token> written = words.prompt("The capital of France is");
  token next = greedy(prefill(transformer, cache, written));
  for (int i = 0; i < 5; ++i) {
    written.push_back(next);
    next = greedy(transformer.forward({&next, 1}, cache, logits_wanted::last_row));
  }
  CHECK(words.decode(written) == "The capital of France is Paris.\n\nThe");
}
