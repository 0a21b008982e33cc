// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// link: kvc_report_core

// kvc's own fp32 cache against attention that was written without kvc, on the real model, where it is there.

#include "../engine/real_model.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "caches.hpp"
#include "evaluate.hpp"
#include "model.hpp"
#include "passkey.hpp"

using namespace report;

namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr std::size_t tokens = 40;  // instrumented code is slow
#else
constexpr std::size_t tokens = 300;
#endif

std::vector<float> logits_of(engine::model& model, const char* cache, std::span<const token> text) {
  const auto made =
      engine::make_cache(cache, model.config().attention(),
                         {.context = static_cast<int>(text.size()), .threads = 2, .rotary = &model.rotary()});
  std::vector<float> out;
  read_window(model, *made, text,
              [&](std::size_t, std::span<const float> rows) { out.insert(out.end(), rows.begin(), rows.end()); });
  return out;
}

}  // namespace

TEST_CASE("the fp32 cache gives the logits of plain attention, and bf16 nearly so") {
  const auto path = engine_test::fetched_model();
  if (!path) {
    MESSAGE(engine_test::no_model);
    return;
  }
  const auto file = engine::gguf_file::read(*path);
  const engine::tokenizer words(file);
  engine::model model(file, {.threads = 2});
  // English text of some length that needs no file: the passkeys' own.
  const std::vector<token> text = passkey_tasks(words).front().prompt;
  REQUIRE(text.size() > tokens);
  const std::span<const token> window(text.data(), tokens);

  const std::vector<float> exact = logits_of(model, "exact", window), fp32 = logits_of(model, "fp32", window);
  REQUIRE(exact.size() == fp32.size());
  float largest = 0, difference = 0;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    largest = std::max(largest, std::abs(exact[i]));
    difference = std::max(difference, std::abs(exact[i] - fp32[i]));
  }
  MESSAGE("largest logit ", largest, ", largest difference ", difference);
  CHECK(largest > 10);
  // Sums in another order, through 30 layers: ten times what was seen (machines differ in theirs).
  CHECK(difference < 1e-3f);

  engine::thread_pool pool(2);
  reference_logits expected(window, static_cast<std::size_t>(model.config().vocabulary));
  expected.record(0, exact, pool);
  position_scores scores = expected.empty_scores();
  expected.compare(0, logits_of(model, "bf16", window), pool, scores);
  double kl = 0;
  for (const float x : scores.kl) kl += static_cast<double>(x) / static_cast<double>(tokens);
  MESSAGE("KL of bf16 ", kl);
  CHECK(kl > 1e-6);
  CHECK(kl < 5e-4);
}

TEST_CASE("passkeys are about 1,000 tokens, with the number where it should be") {
  const auto path = engine_test::fetched_model();
  if (!path) {
    MESSAGE(engine_test::no_model);
    return;
  }
  const auto file = engine::gguf_file::read(*path);
  const engine::tokenizer words(file);
  const auto tasks = passkey_tasks(words);
  REQUIRE(tasks.size() == 3);
  for (const passkey_task& task : tasks) {
    CHECK(task.prompt.size() > 1000);
    CHECK(task.prompt.size() < 1060);
    const std::string text = words.decode(task.prompt);
    const double at = static_cast<double>(text.find(task.digits)) / static_cast<double>(text.size());
    CHECK(std::abs(at - task.depth) < 0.03);
    CHECK(text.find(task.digits) == text.rfind(task.digits));
    CHECK(text.ends_with("The pass key is"));
  }
}
