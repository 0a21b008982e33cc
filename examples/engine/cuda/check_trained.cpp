// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// kvc_engine_trained_check TEXT MODEL...: whether trained models compute through their caches on the GPU what they
// compute through them on the host. What counts as the same: the GPU moves the logits by at most twice what storing the
// rows in the cache's own format moves them by (queries and attention weights are rounded once more there, to 16 or 8
// bit).

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <exception>
#include <fstream>
#include <iterator>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "device.hpp"
#include "generate.hpp"
#include "open_trained.hpp"

namespace {

using namespace engine;

/// Logits after every token, read in steps of `step`.
std::vector<float> read(decoder& model, attention_cache& cache, std::span<const token> text, int step) {
  std::vector<float> all;
  feed(model, cache, text, step,
       [&](std::size_t, std::span<const float> logits) { all.insert(all.end(), logits.begin(), logits.end()); });
  return all;
}

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double out = 0;
  for (std::size_t i = 0; i < a.size(); ++i) out = std::max(out, std::fabs(double{a[i]} - double{b[i]}));
  return out;
}

bool check(const std::string& path, const std::string& text) {
  const opened_trained opened = open_trained(path, static_cast<int>(std::thread::hardware_concurrency()));
  const int context = opened.model->context();
  std::vector<token> tokens = opened.words->encode(text);
  tokens.resize(std::min(tokens.size(), static_cast<std::size_t>(context) / 2));
  const auto as_they_come = opened.make_cache("fp32"), on_host = opened.make_cache("own");
  const std::vector<float> exact = read(*opened.model, *as_they_come, tokens, 64);
  const std::vector<float> stored = read(*opened.model, *on_host, tokens, 64);
  const double storing = largest_difference(exact, stored);
  bool good = true;
  for (const int step : {64, 1}) {
    const auto cache = make_trained_device_cache("own", *opened.config, context);
    const double moved = largest_difference(read(*opened.model, *cache, tokens, step), stored);
    const bool pages = cache->bytes().pages == on_host->bytes().pages;
    const bool same = moved <= 2 * storing && storing > 0 && pages;
    std::printf(
        "%s, %zu tokens in steps of %d: the GPU moves logits by %.2e, storing the rows moved them by %.2e; %s: %s\n",
        opened.block.c_str(), tokens.size(), step, moved, storing, pages ? "as many bytes" : "OTHER BYTES",
        same ? "the same" : "NOT THE SAME");
    good &= same;
  }
  // The check can fail: rows as they come are not the same where the format is 4 bit, and a cache of other rows never
  // is.
  std::vector<token> other = tokens;
  std::reverse(other.begin(), other.end());
  const auto cache = make_trained_device_cache("own", *opened.config, context);
  const double wrong = largest_difference(read(*opened.model, *cache, other, 64), stored);
  std::printf("%s, other tokens: %.2e, %s\n", opened.block.c_str(), wrong, wrong > 2 * storing ? "seen" : "NOT SEEN");
  return good && wrong > 2 * storing;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: kvc_engine_trained_check TEXT MODEL...\n");
    return 2;
  }
  try {
    std::ifstream file(argv[1]);
    const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    if (text.size() < 1000) throw std::runtime_error("the text is too short or cannot be read");
    bool good = true;
    std::printf("%s\n", device_name().c_str());
    for (int i = 2; i < argc; ++i) good &= check(argv[i], text.substr(0, 20000));
    return good ? 0 : 1;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "kvc_engine_trained_check: %s\n", e.what());
    return 1;
  }
}
