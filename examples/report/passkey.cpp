// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "passkey.hpp"

#include <algorithm>
#include <cmath>
#include <string_view>

#include "generate.hpp"

namespace report {
namespace {

constexpr int answer_tokens = 8;

constexpr std::string_view filler[] = {
    "The grass is green and the sky is blue.",    "A river runs slowly past the old mill.",
    "The train left the station at noon.",        "Most birds return to the north in spring.",
    "She put the kettle on and opened a window.", "The road climbs through a forest of pines.",
    "A baker gets up long before the sun.",       "Rain is expected over the hills tonight.",
    "The library is quiet in the afternoon.",     "Two dogs were sleeping under the table.",
    "The market sells apples, bread and cheese.", "He walked home along the canal."};

passkey_task make_task(const engine::tokenizer& words, std::size_t filler_tokens, double depth,
                       const std::string& digits) {
  std::vector<std::string> sentences;
  std::size_t tokens = 0;
  while (tokens < filler_tokens) {
    sentences.emplace_back(filler[sentences.size() % std::size(filler)]);
    tokens += std::max<std::size_t>(1, words.encode(" " + sentences.back()).size());
  }
  const long before = std::lround(depth * static_cast<double>(sentences.size()));
  sentences.insert(sentences.begin() + before, "The pass key is " + digits + ". Remember it.");
  std::string text;
  for (const std::string& sentence : sentences) text += sentence + " ";
  text += "What is the pass key? The pass key is";
  return {depth, digits, words.prompt(text)};
}

}  // namespace

std::vector<passkey_task> passkey_tasks(const engine::tokenizer& words, std::size_t filler_tokens) {
  return {make_task(words, filler_tokens, 0.1, "71934"), make_task(words, filler_tokens, 0.5, "38206"),
          make_task(words, filler_tokens, 0.9, "94157")};
}

int passkey_context(const std::vector<passkey_task>& tasks) {
  std::size_t longest = 0;
  for (const passkey_task& task : tasks) longest = std::max(longest, task.prompt.size());
  return static_cast<int>(longest) + answer_tokens;
}

bool retrieves(engine::decoder& model, engine::attention_cache& cache, const engine::tokenizer& words,
               const passkey_task& task) {
  engine::token next = engine::greedy(engine::prefill(model, cache, task.prompt));
  std::string answer;
  // One character more than the digits, so that a longer number is told from the right one.
  const auto missing = [&] {
    const std::size_t begin = std::min(answer.find_first_not_of(" \n"), answer.size());
    answer.erase(0, begin);
    return answer.size() <= task.digits.size();
  };
  for (int i = 0; i < answer_tokens && missing() && !words.is_end(next); ++i) {
    answer += words.bytes_of(next);
    next = engine::greedy(model.forward({&next, 1}, cache, engine::logits_wanted::last_row));
  }
  const std::size_t digits = std::min(answer.find_first_not_of("0123456789"), answer.size());
  return answer.compare(0, digits, task.digits) == 0;
}

}  // namespace report
