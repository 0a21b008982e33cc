// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// kvc_engine: continues a prompt, greedily, with a model from a GGUF file, or one of examples/train, and a cache chosen
// by name.

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <exception>
#include <fstream>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>

#include "caches.hpp"
#include "device.hpp"
#include "generate.hpp"
#include "gguf.hpp"
#include "model.hpp"
#include "open_trained.hpp"
#include "samples.hpp"
#include "tokenizer.hpp"

namespace {

using namespace engine;

constexpr const char* usage =
    "usage: kvc_engine --model FILE --prompt TEXT [--tokens N] [--threads N] [--cache NAME] [--sample-text FILE]\n"
    "                  [--device host|cuda]\n"
    "       kvc_engine --list | --help\n"
    "\n"
    "  --model FILE         a Llama-architecture model in GGUF (fetch_model.sh gets one), or a model of examples/train "
    "in\n"
    "                       safetensors, with the cache that it was trained with\n"
    "  --prompt TEXT        the text to continue\n"
    "  --tokens N           how many tokens to write at most (default 64)\n"
    "  --threads N          how many threads compute (default: one per CPU core)\n"
    "  --cache NAME         the key/value cache (default bf16; of models of examples/train: own)\n"
    "  --sample-text FILE   some thousand words that a calibrated cache is fitted to\n"
    "  --device NAME        where the model and its cache are: host (default), or cuda: the first GPU; of a\n"
    "                       safetensors model the cache alone goes there\n"
    "  --list               the caches by name; * marks the calibrated ones\n";

/// The command line was wrong: exit status 2.
struct wrong_use : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct arguments {
  std::string model, prompt, sample_text, cache, device = "host";
  int tokens = 64;
  int threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  bool list = false, help = false;
};

int parse_count(std::string_view option, std::string_view text, int most) {
  int out = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), out);
  if (result.ec != std::errc{} || result.ptr != text.data() + text.size() || out < 1 || out > most) {
    throw wrong_use(std::string(option) + " takes a number from 1 to " + std::to_string(most) + ", not '" +
                    std::string(text) + "'");
  }
  return out;
}

arguments parse(int argc, char** argv) {
  arguments out;
  for (int i = 1; i < argc; ++i) {
    const std::string_view option = argv[i];
    if (option == "--list" || option == "--help") {
      (option == "--list" ? out.list : out.help) = true;
      continue;
    }
    const bool known = option == "--model" || option == "--prompt" || option == "--cache" || option == "--tokens" ||
                       option == "--threads" || option == "--sample-text" || option == "--device";
    if (!known) throw wrong_use("unknown option '" + std::string(option) + "'");
    if (i + 1 == argc) throw wrong_use(std::string(option) + " needs a value");
    const std::string_view value = argv[++i];
    if (option == "--model") out.model = value;
    if (option == "--prompt") out.prompt = value;
    if (option == "--cache") out.cache = value;
    if (option == "--sample-text") out.sample_text = value;
    if (option == "--device") out.device = value;
    if (option == "--tokens") out.tokens = parse_count(option, value, 1 << 20);
    if (option == "--threads") out.threads = parse_count(option, value, 1024);
  }
  if (out.list || out.help) return out;
  if (out.device != "host" && out.device != "cuda") {
    throw wrong_use("--device takes host or cuda, not '" + out.device + "'");
  }
  if (out.model.empty()) throw wrong_use("--model is missing");
  if (out.prompt.empty()) throw wrong_use("--prompt is missing");
  const bool trained = is_trained(out.model);
  if (out.cache.empty()) out.cache = trained ? "own" : "bf16";
  const auto caches = trained ? list_trained_caches() : list_caches();
  if (caches.empty()) return out;  // built without what reads them: opening the model says so
  const auto has_name = [&](const cache_entry& entry) { return entry.name == out.cache; };
  const auto chosen = std::find_if(caches.begin(), caches.end(), has_name);
  if (chosen == caches.end()) {
    std::string names;
    for (const auto& entry : caches) names += (names.empty() ? "" : ", ") + entry.name;
    throw wrong_use("there is no cache '" + out.cache + "' (there are: " + names + ")");
  }
  if (chosen->is_calibrated && out.sample_text.empty()) {
    throw wrong_use("the cache '" + out.cache + "' is calibrated: --sample-text is missing");
  }
  if (!chosen->is_calibrated && !out.sample_text.empty()) {
    throw wrong_use("the cache '" + out.cache + "' is not calibrated: it has no use for --sample-text");
  }
  return out;
}

void print(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// The moments of up to 4096 tokens of a file.
std::unique_ptr<samples> calibrate(const arguments& arguments, const tokenizer& words, model& transformer) {
  std::ifstream file(arguments.sample_text, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (!file) throw std::runtime_error("the file '" + arguments.sample_text + "' cannot be read");
  std::vector<token> tokens = words.encode(text);
  constexpr std::size_t fewest = 512, most = 4096;
  if (tokens.size() < fewest) {
    throw std::runtime_error("the sample text has " + std::to_string(tokens.size()) + " tokens; calibration needs " +
                             std::to_string(fewest));
  }
  tokens.resize(std::min({tokens.size(), most, static_cast<std::size_t>(transformer.context())}));
  return std::make_unique<samples>(transformer, tokens);
}

/// Continues the prompt, and says what it took.
void write(const arguments& arguments, const tokenizer& words, decoder& reader, attention_cache& cache) {
  const std::vector<token> prompt = words.prompt(arguments.prompt);
  print(arguments.prompt);
  auto start = std::chrono::steady_clock::now();
  token next = greedy(prefill(reader, cache, prompt));
  const double prompt_seconds = seconds_since(start);

  start = std::chrono::steady_clock::now();
  int steps = 0;  // each gives one more token than the prompt gave
  for (int written = 0; written < arguments.tokens && !words.is_end(next); ++written) {
    print(words.bytes_of(next));
    const bool more = written + 1 < arguments.tokens && cache.length() < reader.context();
    if (!more) break;
    next = greedy(reader.forward({&next, 1}, cache, logits_wanted::last_row));
    ++steps;
  }
  const double step_seconds = seconds_since(start);

  const cache_bytes bytes = cache.bytes();
  std::printf("\n\n%s cache: %d tokens in %.2f MB (and %.2f MB of workspace)\n", cache.name().c_str(), cache.length(),
              static_cast<double>(bytes.pages + bytes.tail) * 1e-6, static_cast<double>(bytes.workspace) * 1e-6);
  std::printf("prompt: %zu tokens, %.1f per second; writing: %d steps, %.1f per second\n", prompt.size(),
              static_cast<double>(prompt.size()) / prompt_seconds, steps, steps > 0 ? steps / step_seconds : 0.0);
  const phase_seconds& phases = reader.seconds();
  std::printf("seconds: products %.3f, append %.3f, attend %.3f, rest %.3f\n", phases.products, phases.append,
              phases.attend, phases.rest);
}

void generate_from_gguf(const arguments& arguments) {
  if (arguments.device == "cuda") device_name();  // throws where there is none
  const auto file = gguf_file::read(arguments.model);
  const tokenizer words(file);
  model transformer(file, {.threads = arguments.threads});
  if (words.vocabulary() != transformer.config().vocabulary) {
    throw std::runtime_error("the tokenizer has " + std::to_string(words.vocabulary()) + " tokens and the model " +
                             std::to_string(transformer.config().vocabulary));
  }
  std::unique_ptr<samples> sampled;
  if (!arguments.sample_text.empty()) sampled = calibrate(arguments, words, transformer);
  const cache_options options{.context = transformer.context(),
                              .pool = &transformer.pool(),
                              .rotary = &transformer.rotary(),
                              .data = sampled ? &sampled->data() : nullptr};
  std::unique_ptr<device_model> on_gpu;
  if (arguments.device == "cuda") on_gpu = make_device_model(file, transformer, {.timed = true});
  decoder& reader = on_gpu ? static_cast<decoder&>(*on_gpu) : transformer;
  const auto cache = on_gpu ? on_gpu->make_cache(arguments.cache, options)
                            : make_cache(arguments.cache, transformer.config().attention(), options);
  write(arguments, words, reader, *cache);
}

void generate_from_trained(const arguments& arguments) {
  if (arguments.device == "cuda") device_name();  // throws where there is none
  const opened_trained opened = open_trained(arguments.model, arguments.threads);
  const auto cache = arguments.device == "cuda"
                         ? make_trained_device_cache(arguments.cache, *opened.config, opened.model->context())
                         : opened.make_cache(arguments.cache);
  write(arguments, *opened.words, *opened.model, *cache);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const arguments arguments = parse(argc, argv);
    if (arguments.help) print(usage);
    if (arguments.list) {
      for (const auto& cache : list_caches()) {
        std::printf("%-24s%s %s\n", cache.name.c_str(), cache.is_calibrated ? "*" : " ", cache.summary.c_str());
      }
      std::printf("\nof models of examples/train:\n");
      for (const auto& cache : list_trained_caches())
        std::printf("%-26s%s\n", cache.name.c_str(), cache.summary.c_str());
    }
    if (arguments.help || arguments.list) return 0;
    if (is_trained(arguments.model)) {
      generate_from_trained(arguments);
    } else {
      generate_from_gguf(arguments);
    }
    return 0;
  } catch (const wrong_use& problem) {
    std::fprintf(stderr, "kvc_engine: %s (--help shows how)\n", problem.what());
    return 2;
  } catch (const std::exception& problem) {
    std::fprintf(stderr, "kvc_engine: %s\n", problem.what());
    return 1;
  }
}
