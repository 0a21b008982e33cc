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
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "device.hpp"
#include "generate.hpp"
#include "open_trained.hpp"

namespace {

using namespace engine;

/// Logits after every token, read in steps of `step`.
std::vector<float> read(decoder& model, attention_cache& cache, std::span<const token> text, std::size_t step) {
  std::vector<float> all;
  for (std::size_t first = 0; first < text.size(); first += step) {
    const auto part = text.subspan(first, std::min(step, text.size() - first));
    const auto logits = model.forward(part, cache, logits_wanted::all_rows);
    all.insert(all.end(), logits.begin(), logits.end());
  }
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
  const auto on_host = [&](const char* name) { return read(*opened.model, *opened.make_cache(name), tokens, 64); };
  const std::vector<float> exact = on_host("fp32"), stored = on_host("own");
  const double storing = largest_difference(exact, stored);
  bool good = true;
  for (const std::size_t step : {std::size_t{64}, std::size_t{1}}) {
    const auto cache = make_trained_device_cache("own", *opened.config, context);
    const double moved = largest_difference(read(*opened.model, *cache, tokens, step), stored);
    const bool pages = cache->bytes().pages == [&] {
      const auto host = opened.make_cache("own");
      read(*opened.model, *host, tokens, step);
      return host->bytes().pages;
    }();
    const bool same = moved <= 2 * storing && storing > 0 && pages;
    std::printf(
        "%s, %zu tokens in steps of %zu: the GPU moves logits by %.2e, storing the rows moved them by %.2e; %s: %s\n",
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
