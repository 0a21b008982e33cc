// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Decoding with a real model, one cache after the other, token by token:
//
//   kvc_bench_host_engine MODEL.gguf [--context N] [--steps N] [--threads N] [--cache NAME]... > LINES.jsonl
//
// Every cache gets the same prompt of `context` tokens. Then each step is one new token in every cache, so that what
// disturbs the machine disturbs them all. One JSON object per cache: the median and the least of a step and of its
// attention, in milliseconds.

#include <algorithm>
#include <caches.hpp>  // the engine's, not the one beside this file
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <generate.hpp>
#include <gguf.hpp>
#include <memory>
#include <model.hpp>
#include <random>
#include <string>
#include <vector>

namespace {

struct measured {
  std::string name;
  std::unique_ptr<engine::attention_cache> cache;
  std::vector<double> steps, attends;  // milliseconds
};

double median(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  return x[x.size() / 2];
}
double least(const std::vector<double>& x) {
  return *std::min_element(x.begin(), x.end());
}

void measure(const std::string& path, int context, int steps, int threads, const std::vector<std::string>& names) {
  const auto file = engine::gguf_file::read(path);
  engine::model transformer(file, {.threads = threads, .context = context + steps});
  const engine::model_config& c = transformer.config();
  const engine::attention_shape shape{c.layers, c.query_heads, c.kv_heads, c.head_dim};

  std::mt19937 random(1);
  std::vector<engine::token> prompt(static_cast<std::size_t>(context));
  for (engine::token& t : prompt) t = static_cast<engine::token>(random() % static_cast<unsigned>(c.vocabulary));

  std::vector<measured> all;
  for (const std::string& name : names) {
    all.push_back({name,
                   engine::make_cache(name, shape,
                                      {.context = context + steps,
                                       .threads = threads,
                                       .pool = &transformer.pool(),
                                       .rotary = &transformer.rotary()}),
                   {},
                   {}});
    engine::prefill(transformer, *all.back().cache, prompt);
  }
  for (int step = 0; step < steps; ++step) {
    for (measured& one : all) {
      const engine::token next = prompt[static_cast<std::size_t>(step)];
      const double before = transformer.seconds().attend;
      const auto start = std::chrono::steady_clock::now();
      transformer.forward({&next, 1}, *one.cache, engine::logits_wanted::last_row);
      one.steps.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
      one.attends.push_back((transformer.seconds().attend - before) * 1e3);
    }
  }
  for (const measured& one : all) {
    std::printf(
        "{\"cache\": \"%s\", \"context\": %d, \"steps\": %d, \"threads\": %d, \"step_ms\": %.3f, "
        "\"least_step_ms\": %.3f, \"attend_ms\": %.3f, \"least_attend_ms\": %.3f}\n",
        one.name.c_str(), context, steps, threads, median(one.steps), least(one.steps), median(one.attends),
        least(one.attends));
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::string path;
  std::vector<std::string> names;
  int context = 4096, steps = 32, threads = 2;
  bool understood = true;
  for (int i = 1; i < argc; ++i) {
    const std::string option = argv[i];
    if (!option.starts_with("--") && path.empty()) {
      path = option;
      continue;
    }
    const char* value = i + 1 < argc ? argv[++i] : "";
    if (option == "--context") {
      context = std::atoi(value);
    } else if (option == "--steps") {
      steps = std::atoi(value);
    } else if (option == "--threads") {
      threads = std::atoi(value);
    } else if (option == "--cache") {
      names.push_back(value);
    } else {
      understood = false;
    }
  }
  if (!understood || path.empty() || context < 1 || steps < 1 || steps > context || threads < 1) {
    std::fprintf(stderr,
                 "use: kvc_bench_host_engine MODEL.gguf [--context N] [--steps N] [--threads N] [--cache NAME]...\n");
    return 2;
  }
  if (names.empty()) names = {"int4", "bf16", "fp32"};
  try {
    measure(path, context, steps, threads, names);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "kvc_bench_host_engine: %s\n", e.what());
    return 1;
  }
  return 0;
}
