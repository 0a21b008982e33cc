// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "siblings.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <numeric>
#include <random>
#include <stdexcept>

#include "evaluate.hpp"
#include "files.hpp"
#include "generate.hpp"
#include "open_trained.hpp"
#include "passkey.hpp"
#include "scores.hpp"

namespace report {
namespace {

using engine::opened_trained;

constexpr std::size_t sample_tokens = 48;

/// Windows from the text's begin to its end, each from an empty cache.
void read_windows(const opened_trained& model, std::span<const token> tokens, progress& progress, sibling& out) {
  const auto window = static_cast<std::size_t>(out.context);
  const auto vocabulary = static_cast<std::size_t>(model.words->vocabulary());
  double loss = 0, bytes = 0;
  window_times times;  // sums
  for (std::size_t w = 0; w < sibling_windows; ++w) {
    const auto part = tokens.subspan(w * (tokens.size() - window) / (sibling_windows - 1), window);
    const auto cache = model.make_cache("own");
    const window_reading reading =
        read_window(*model.model, *cache, part, [&](std::size_t first, std::span<const float> logits) {
          for (std::size_t row = 0; row < logits.size() / vocabulary; ++row) {
            if (first + row + 1 == part.size()) break;  // nothing follows
            const auto of_row = logits.subspan(row * vocabulary, vocabulary);
            loss += summarise(of_row).log_sum - double{of_row[static_cast<std::size_t>(part[first + row + 1])]};
          }
          progress.advance(logits.size() / vocabulary);
        });
    bytes += static_cast<double>(reading.bytes.pages);
    times += reading.times;
  }
  constexpr auto windows = static_cast<double>(sibling_windows);
  out.loss = loss / (windows * static_cast<double>(window - 1));
  out.bytes_per_token = bytes / (windows * static_cast<double>(window));
  out.decode_attend_seconds = times.decode_attend / windows;
  out.step_seconds = times.decode_step / windows;
  out.share_of_mha = out.bytes_per_token / (4.0 * out.layers * out.query_heads * out.head_dim);
}

/// A span of 32 random tokens somewhere in the text comes again at the end of the window: which of its last 24 tokens
/// the model expects. Averages of the loss hide what a cache cannot recall; this does not.
void copy_spans(const opened_trained& model, std::span<const token> tokens, sibling& out) {
  constexpr std::size_t span = 32, cue = 8;
  const auto window = static_cast<std::size_t>(out.context);
  const auto vocabulary = static_cast<std::size_t>(model.words->vocabulary());
  std::mt19937 generator(1);
  std::uniform_int_distribution<token> any(1, static_cast<token>(vocabulary) - 1);
  std::size_t right = 0, asked = 0;
  for (const double depth : {0.02, 0.25, 0.5, 0.75, 0.9}) {
    std::vector<token> row(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(window));
    const auto first = std::min(static_cast<std::size_t>(depth * static_cast<double>(window)), window - 2 * span);
    for (std::size_t i = 0; i < span; ++i) row[first + i] = row[window - span + i] = any(generator);
    const auto cache = model.make_cache("own");
    engine::prefill(*model.model, *cache, std::span(row).first(window - span + cue - 1));
    const auto logits = model.model->forward(std::span(row).subspan(window - span + cue - 1, span - cue), *cache,
                                             engine::logits_wanted::all_rows);
    for (std::size_t i = 0; i < span - cue; ++i, ++asked) {
      right += engine::greedy(logits.subspan(i * vocabulary, vocabulary)) == row[window - span + cue + i] ? 1 : 0;
    }
  }
  out.copied = static_cast<double>(right) / static_cast<double>(asked);
}

/// A token drawn from the distribution, sharpened: greedy text of models this small runs in circles.
token draw(std::span<const float> logits, std::mt19937& generator) {
  constexpr double temperature = 0.6;
  const float most = *std::max_element(logits.begin(), logits.end());
  std::vector<double> weights;
  for (const float logit : logits) weights.push_back(std::exp((double{logit} - double{most}) / temperature));
  double left = std::generate_canonical<double, 53>(generator) * std::accumulate(weights.begin(), weights.end(), 0.0);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    left -= weights[i];
    if (left < 0) return static_cast<token>(i);
  }
  return engine::greedy(logits);
}

void write_sample(const opened_trained& model, sibling& out) {
  std::mt19937 generator(1);
  const auto cache = model.make_cache("own");
  token next = draw(engine::prefill(*model.model, *cache, model.words->prompt(sample_prompt)), generator);
  for (std::size_t i = 0; i < sample_tokens && !model.words->is_end(next); ++i) {
    out.sample += model.words->bytes_of(next);
    next = draw(model.model->forward({&next, 1}, *cache, engine::logits_wanted::last_row), generator);
  }
}

sibling read_sibling(const std::string& path, const std::string& text, int threads, progress& progress) {
  const opened_trained model = engine::open_trained(path, threads);
  const auto& config = model.model->config();
  sibling out;
  out.name = std::filesystem::path(path).stem().string();
  out.block = model.block;
  out.run = model.run;
  out.file_bytes = file_bytes(path);
  out.layers = config.layers;
  out.query_heads = config.query_heads;
  out.head_dim = config.head_dim;
  out.context = model.model->context();

  const auto needed = sibling_windows * static_cast<std::size_t>(out.context);
  progress.begin(out.name, needed);
  const std::vector<token> tokens = model.words->encode(text);
  if (tokens.size() < needed) {
    throw std::runtime_error("the text is too short for " + out.name + ": it has " + std::to_string(tokens.size()) +
                             " of its tokens, and " + std::to_string(needed) + " are needed");
  }
  read_windows(model, tokens, progress, out);
  copy_spans(model, tokens, out);
  const auto tasks = passkey_tasks(*model.words, static_cast<std::size_t>(out.context) * 4 / 5);
  for (const passkey_task& task : tasks) {
    const auto cache = model.make_cache("own");
    out.passkeys.push_back(passkey_context(tasks) <= out.context &&
                           retrieves(*model.model, *cache, *model.words, task));
  }
  write_sample(model, out);
  char said[96];
  std::snprintf(said, sizeof said, "%.2f %% of MHA's bytes, loss %.4f", 100 * out.share_of_mha, out.loss);
  progress.end(said);
  return out;
}

}  // namespace

std::vector<std::string> find_siblings(const std::string& directory) {
  std::vector<std::string> out;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    if (engine::is_trained(entry.path().string())) out.push_back(entry.path().string());
  }
  if (out.empty()) throw std::runtime_error("there are no models (*.safetensors) in '" + directory + "'");
  std::sort(out.begin(), out.end());
  return out;
}

std::vector<sibling> read_siblings(const std::vector<std::string>& paths, const std::string& text, int threads,
                                   progress& progress) {
  std::vector<sibling> out;
  for (const std::string& path : paths) out.push_back(read_sibling(path, text, threads, progress));
  std::stable_sort(out.begin(), out.end(),
                   [](const sibling& a, const sibling& b) { return a.bytes_per_token > b.bytes_per_token; });
  return out;
}

std::string sibling_table(const std::vector<sibling>& siblings) {
  std::size_t width = 7;
  for (const sibling& s : siblings) width = std::max(width, s.name.size());
  const int w = static_cast<int>(width);
  char line[256];
  std::snprintf(line, sizeof line, "%-*s   bytes/token    of MHA     loss   copied  passkey  decode   step\n", w,
                "trained");
  std::string out = line;
  std::snprintf(line, sizeof line, "%-*s   and layer               nats                    us/tok   us/tok\n", w, "");
  out += line;
  for (const sibling& s : siblings) {
    const auto found = std::count(s.passkeys.begin(), s.passkeys.end(), true);
    std::snprintf(line, sizeof line, "%-*s  %12.1f  %7.2f%%  %7.4f  %6.1f%%  %5d/%zu  %6.0f  %6.0f\n", w,
                  s.name.c_str(), s.bytes_per_token / s.layers, 100 * s.share_of_mha, s.loss, 100 * s.copied,
                  static_cast<int>(found), s.passkeys.size(), 1e6 * s.decode_attend_seconds, 1e6 * s.step_seconds);
    out += line;
  }
  out +=
      "\nModels of the same size, trained on the same text, each read through the cache that it was trained with.\n\n";
  for (const sibling& s : siblings) {
    std::string text = s.sample;
    std::replace(text.begin(), text.end(), '\n', ' ');
    out += s.name + " writes: " + std::string(sample_prompt) + text + "\n";
  }
  return out;
}

}  // namespace report
