// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "program.hpp"

#include <algorithm>
#include <cstdio>
#include <exception>
#include <new>
#include <stdexcept>
#include <vector>

#include "describe.hpp"
#include "files.hpp"
#include "gguf.hpp"
#include "html.hpp"
#include "options.hpp"
#include "run.hpp"

namespace report {
namespace {

void print(const std::string& text, std::FILE* out) {
  std::fwrite(text.data(), 1, text.size(), out);
  std::fflush(out);
}

void check_lengths(const options& options, const engine::model& model, std::size_t tokens) {
  const auto number = [](std::size_t n) { return std::to_string(n); };
  const auto context = static_cast<std::size_t>(model.context());
  if (options.window > context) {
    throw wrong_use("a window of " + number(options.window) + " tokens is more than the model's context of " +
                    number(context));
  }
  const std::size_t needed = options.skip_tokens + options.windows * options.window;
  if (needed > tokens) {
    throw std::runtime_error("the text is too short: it has " + number(tokens) + " tokens, and " + number(needed) +
                             " are needed (" + number(options.skip_tokens) + " skipped, " + number(options.windows) +
                             " x " + number(options.window) + " read)");
  }
}

/// The caches of the plan. Not every one is built for every head dimension.
std::vector<engine::cache_entry> choose_caches(const options& options, int head_dim, engine::device_model* device) {
  std::vector<engine::cache_entry> out;
  for (const std::string& name : options.caches) {
    try {
      make_cache(device, name, {.layers = 1, .query_heads = 1, .kv_heads = 1, .head_dim = head_dim}, {.context = 1});
    } catch (const std::invalid_argument& problem) {
      if (options.all_caches && name != reference_name) continue;
      throw wrong_use(problem.what());
    } catch (const std::exception&) {
      // It is there, and lacks only the samples that it will have.
    }
    out.push_back(find_cache(name));
  }
  return out;
}

void make_report(const options& options, std::FILE* out, std::FILE* err, const device_functions& device) {
  setting setting;
  describe_machine(setting, options.threads);
  if (options.device == "cuda") {
    if (device.name == nullptr) throw std::runtime_error("cannot run on a GPU: this program is for the host alone");
    setting.gpu = device.name();  // throws where there is none
  }
  const output_directory directory(options.out);  // a full disk should show before the work, not after it
  const std::string text = read_file(options.text);
  std::vector<std::string> sibling_files;
  if (!options.siblings.empty()) sibling_files = find_siblings(options.siblings);
  const auto file = engine::gguf_file::read(options.model);
  const engine::tokenizer words(file);
  engine::model model(file, {.threads = options.threads});
  if (words.vocabulary() != model.config().vocabulary) {
    throw std::runtime_error("the tokenizer has " + std::to_string(words.vocabulary()) + " tokens and the model " +
                             std::to_string(model.config().vocabulary));
  }
  const auto on_gpu = setting.gpu.empty() ? nullptr : device.make(file, model, {.timed = true});
  const std::vector<token> tokens = words.encode(text);
  check_lengths(options, model, tokens.size());

  plan plan;
  plan.caches = choose_caches(options, model.config().head_dim, on_gpu.get());
  plan.text = std::span(tokens).subspan(options.skip_tokens);
  plan.window = options.window;
  plan.windows = options.windows;
  plan.threads = options.threads;
  if (options.passkey && passkey_context(passkey_tasks(words)) <= model.context()) plan.words = &words;
  sample_text sample;
  const auto is_calibrated = [](const engine::cache_entry& cache) { return cache.is_calibrated; };
  if (std::any_of(plan.caches.begin(), plan.caches.end(), is_calibrated))
    sample = choose_sample(options, words, tokens, static_cast<std::size_t>(model.context()));
  plan.sample = sample.tokens;

  setting.model_name = name_of_file(options.model);
  setting.model_bytes = file_bytes(options.model);
  setting.model = model.config();
  setting.text_name = name_of_file(options.text);
  setting.text_bytes = text.size();
  setting.text_tokens = tokens.size();
  setting.skip_tokens = options.skip_tokens;
  setting.window = options.window;
  setting.windows = options.windows;
  setting.sample_name = sample.name;
  setting.sample_tokens = sample.tokens.size();

  progress progress(err);
  const std::vector<sibling> siblings = read_siblings(sibling_files, text, options.threads, progress);
  if (!siblings.empty()) print(sibling_table(siblings) + "\n", out);
  results results = run(model, on_gpu.get(), plan, progress);
  results.siblings = siblings;
  print(table(results, setting), out);
  const std::string json = to_json(results, setting);
  const std::string json_path = directory.put("report.json", json);
  const std::string html_path = directory.put("report.html", to_html(json));
  print("\n" + minutes(results.seconds) + " minutes. Written: " + json_path + ", " + html_path + "\n", out);
}

int guarded(std::span<const std::string> arguments, std::FILE* out, std::FILE* err, const device_functions& device) {
  const options options = parse_options(arguments);
  if (options.help) print(usage, out);
  if (options.list) {
    for (const auto& cache : engine::list_caches()) {
      std::fprintf(out, "%-24s%s %s%s\n", cache.name.c_str(), cache.is_calibrated ? "*" : " ", cache.summary.c_str(),
                   cache.is_default ? "" : " (only by name)");
    }
  }
  if (!options.help && !options.list) make_report(options, out, err, device);
  return 0;
}

}  // namespace

int run_program(std::span<const std::string> arguments, std::FILE* out, std::FILE* err,
                const device_functions& device) {
  try {
    return guarded(arguments, out, err, device);
  } catch (const wrong_use& problem) {
    std::fprintf(err, "kvc_report: %s (--help shows how)\n", problem.what());
    return 2;
  } catch (const std::bad_alloc&) {
    std::fprintf(err, "kvc_report: there is not enough memory (a smaller --window needs less)\n");
  } catch (const std::exception& problem) {
    std::fprintf(err, "kvc_report: %s\n", problem.what());
  }
  return 1;
}

}  // namespace report
