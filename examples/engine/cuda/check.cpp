// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// kvc_engine_device_check MODEL TEXT [TOKENS]: whether the GPU writes the tokens that the host writes, and how fast.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "device.hpp"
#include "generate.hpp"
#include "tokenizer.hpp"

namespace {

using namespace engine;

constexpr std::size_t prompt_tokens = 300;  // more than one step

struct context {
  model& host;
  device_model& gpu;
  std::vector<token> text;

  std::unique_ptr<attention_cache> on_gpu(const char* cache, int tokens) const {
    return gpu.make_cache(cache, {.context = tokens});
  }
  std::unique_ptr<attention_cache> on_host(const char* cache, int tokens) const {
    return make_cache(cache, host.config().attention(),
                      {.context = tokens, .pool = &host.pool(), .rotary = &host.rotary()});
  }
};

/// What the host writes after the prompt, and by how much each token was ahead of the next best.
struct written {
  std::vector<token> tokens;
  std::vector<float> leads;
  std::vector<float> first_logits;  // after the prompt
};

written write_on_host(const context& c, int count) {
  const auto cache = c.on_host("fp32", static_cast<int>(prompt_tokens) + count);
  std::span<const float> logits = prefill(c.host, *cache, std::span(c.text).first(prompt_tokens));
  written out;
  out.first_logits.assign(logits.begin(), logits.end());
  for (int i = 0; i <= count; ++i) {
    const token next = greedy(logits);
    float second = -INFINITY;
    for (std::size_t j = 0; j < logits.size(); ++j) {
      if (static_cast<token>(j) != next) second = std::max(second, logits[j]);
    }
    out.tokens.push_back(next);
    out.leads.push_back(logits[static_cast<std::size_t>(next)] - second);
    if (i < count) logits = c.host.forward({&next, 1}, *cache, logits_wanted::last_row);
  }
  return out;
}

/// How many tokens of the host's the GPU writes before the first that differs.
int tokens_in_common(const context& c, const char* cache_name, const written& expected, double& logit_error) {
  const int count = static_cast<int>(expected.tokens.size()) - 1;
  const auto cache = c.on_gpu(cache_name, static_cast<int>(prompt_tokens) + count);
  const auto logits = prefill(c.gpu, *cache, std::span(c.text).first(prompt_tokens));
  logit_error = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    logit_error = std::max(logit_error, static_cast<double>(std::abs(logits[i] - expected.first_logits[i])));
  }
  std::vector<token> tokens{greedy(logits)};
  const std::vector<token> more = c.gpu.continue_greedily(*cache, tokens[0], count);
  tokens.insert(tokens.end(), more.begin(), more.end());
  return static_cast<int>(std::mismatch(tokens.begin(), tokens.end(), expected.tokens.begin()).first - tokens.begin());
}

/// Greedy tokens are the host's; with a cache of 2 bits they are not, which shows that the comparison can fail.
bool same_tokens(const context& c, int count) {
  const written expected = write_on_host(c, count);
  const int all = static_cast<int>(expected.tokens.size());
  double error = 0, coarse_error = 0;
  const int common = tokens_in_common(c, "fp32", expected, error);
  const int coarse = tokens_in_common(c, "channel2", expected, coarse_error);
  std::printf(
      "fp32 cache, host against GPU: %d of %d greedy tokens in common after %zu of text; logits differ by %.2g "
      "at most, the closest choice was won by %.2g\n",
      common, all, prompt_tokens, error, *std::min_element(expected.leads.begin(), expected.leads.end()));
  if (common < all) {
    std::printf("FAILED: token %d differs; on the host it was ahead by %.3g\n", common,
                expected.leads[static_cast<std::size_t>(common)]);
  }
  std::printf("channel2 cache on the GPU: %d of %d in common; logits differ by %.2g\n", coarse, all, coarse_error);
  if (coarse == all) std::printf("FAILED: the comparison cannot tell fp32 from 2 bits\n");
  return common == all && coarse < all;
}

/// A cache that was cut back goes on as it did before: the last tokens, read again in one step, give the same logits.
bool same_after_cut(const context& c, const char* cache_name) {
  constexpr int again = 4;  // within the exact rows of a cache that has them
  const auto text = std::span(c.text).first(prompt_tokens);
  const auto cache = c.on_gpu(cache_name, static_cast<int>(prompt_tokens));
  const auto logits = prefill(c.gpu, *cache, text);
  const std::vector<float> expected(logits.begin(), logits.end());
  cache->truncate(static_cast<int>(prompt_tokens) - again);
  const auto repeated = c.gpu.forward(text.last(again), *cache, logits_wanted::last_row);
  float error = 0, size = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    error = std::max(error, std::abs(repeated[i] - expected[i]));
    size = std::max(size, std::abs(expected[i]));
  }
  // Products of fewer rows are summed in another order, in bf16 where rows have 16 bits or less.
  const bool same = error < 0.01f * size;
  std::printf("%s%s cache, cut by %d tokens that are read again: logits differ by %.2g of %.3g\n",
              same ? "" : "FAILED: ", cache_name, again, error, size);
  return same;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void print_speed(const context& c) {
  constexpr int timed = 128;
  std::printf("\ncache  context  us per token  tokens/s\n");
  for (const char* name : {"fp32", "bf16", "int4"}) {
    const auto cache = c.on_gpu(name, c.gpu.context());
    for (const int length : {128, 1024, 4096, 8000}) {
      if (length + timed + 8 > c.gpu.context()) continue;
      std::vector<token> tokens;  // up to here, from where the cache ends
      while (static_cast<int>(tokens.size()) + cache->length() < length) {
        tokens.push_back(c.text[(tokens.size() + static_cast<std::size_t>(cache->length())) % c.text.size()]);
      }
      token next = greedy(prefill(c.gpu, *cache, tokens));
      next = c.gpu.continue_greedily(*cache, next, 8).back();  // the first captures the step
      const auto start = std::chrono::steady_clock::now();
      c.gpu.continue_greedily(*cache, next, timed);
      const double seconds = seconds_since(start) / timed;
      std::printf("%-5s  %7d  %12.1f  %8.0f\n", name, length, 1e6 * seconds, 1 / seconds);
      std::fflush(stdout);
    }
  }
}

/// The first lines of a file.
std::string read(const char* path) {
  constexpr std::size_t enough = 100000;
  std::ifstream file(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (!file || text.empty()) throw std::runtime_error(std::string("the file '") + path + "' cannot be read");
  if (text.size() > enough) text.resize(text.rfind('\n', enough) + 1);
  return text;
}

bool check(const char* model_path, const char* text_path, int count) {
  std::printf("device: %s\n", device_name().c_str());
  const auto file = gguf_file::read(model_path);
  const int threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  model host(file, {.threads = threads});
  const auto gpu = make_device_model(file, host, {});
  const context c{host, *gpu, tokenizer(file).encode(read(text_path))};
  if (c.text.size() < prompt_tokens) throw std::runtime_error("the text is too short");
  bool same = same_tokens(c, count);
  for (const char* cache : {"fp32", "channel4"}) same = same_after_cut(c, cache) && same;
  print_speed(c);
  return same;
}

}  // namespace

int main(int argc, char** argv) {
  const int count = argc == 4 ? std::atoi(argv[3]) : 256;
  if (argc < 3 || argc > 4 || count < 1) {
    std::fputs("usage: kvc_engine_device_check MODEL TEXT [TOKENS]\n", stderr);
    return 2;
  }
  try {
    return check(argv[1], argv[2], count) ? 0 : 1;
  } catch (const std::exception& problem) {
    std::fprintf(stderr, "kvc_engine_device_check: %s\n", problem.what());
    return 1;
  }
}
