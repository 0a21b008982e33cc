// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "passkey.hpp"

#include <algorithm>
#include <cmath>
#include <string_view>

#include "generate.hpp"

namespace report {
namespace {

constexpr std::size_t filler_tokens = 930;
constexpr int answer_tokens = 8;

constexpr std::string_view filler[] = {" The grass is green.", " The sky is blue.", " The sun is yellow.",
                                       " Here we go.", " There and back again."};

passkey_task make_task(const engine::tokenizer& words, double depth, const std::string& digits) {
  std::vector<std::string_view> sentences;
  std::size_t tokens = 0;
  for (std::size_t i = 0; tokens < filler_tokens; ++i) {
    sentences.push_back(filler[i % std::size(filler)]);
    tokens += words.encode(sentences.back()).size();
  }
  const auto before = static_cast<std::size_t>(std::lround(depth * static_cast<double>(sentences.size())));
  std::string text =
      "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. I will quiz you "
      "about the important information there.\n\n";
  for (std::size_t i = 0; i < sentences.size(); ++i) {
    if (i == before) text += " The pass key is " + digits + ". Remember it. " + digits + " is the pass key.";
    text += sentences[i];
  }
  text += "\n\nWhat is the pass key? The pass key is";
  return {depth, digits, words.prompt(text)};
}

}  // namespace

std::vector<passkey_task> passkey_tasks(const engine::tokenizer& words) {
  return {make_task(words, 0.1, "71934"), make_task(words, 0.5, "38206"), make_task(words, 0.9, "94157")};
}

int passkey_context(const std::vector<passkey_task>& tasks) {
  std::size_t longest = 0;
  for (const passkey_task& task : tasks) longest = std::max(longest, task.prompt.size());
  return static_cast<int>(longest) + answer_tokens;
}

bool retrieves(engine::model& model, engine::attention_cache& cache, const engine::tokenizer& words,
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
