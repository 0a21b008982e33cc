// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "options.hpp"

#include <algorithm>
#include <charconv>
#include <map>
#include <string_view>
#include <thread>

#include "caches.hpp"

namespace report {

const char* const usage =
    "usage: kvc_report --model FILE --text FILE [options]\n"
    "       kvc_report --list | --help\n"
    "\n"
    "Reads windows of a text with a model, once through each cache, and compares what they predict with what fp32\n"
    "keys and values predict. Prints a table; writes report.json and report.html.\n"
    "\n"
    "  --model FILE        a Llama-architecture model in GGUF\n"
    "  --text FILE         the text to read, UTF-8\n"
    "  --skip-tokens N     tokens before the first window (default 4000)\n"
    "  --window N          tokens of a window (default 2048)\n"
    "  --windows N         how many windows, one behind the other (default 1)\n"
    "  --caches a,b,c      which caches (--list shows them, and which are left out by default)\n"
    "  --sample-text FILE  what calibrated caches are fitted to (default: licence texts of Debian, or else a part of\n"
    "                      the text far behind the windows)\n"
    "  --siblings DIR      also the models of examples/train in this directory, each with its own cache, first\n"
    "  --no-passkey        leave out the search for a number in 1,000 tokens\n"
    "  --out DIR           where report.json and report.html go (default: this directory)\n"
    "  --threads N         how many threads compute (default: one per CPU core)\n"
    "  --device NAME       where the model and the caches are: host (default), or cuda: the first GPU\n"
    "  --list              the caches by name\n";

namespace {

std::size_t parse_count(const std::string& option, std::string_view text, std::size_t least, std::size_t most) {
  std::size_t out = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), out);
  if (result.ec != std::errc{} || result.ptr != text.data() + text.size() || out < least || out > most) {
    throw wrong_use(option + " takes a number from " + std::to_string(least) + " to " + std::to_string(most) +
                    ", not '" + std::string(text) + "'");
  }
  return out;
}

std::vector<std::string> split_names(std::string_view text) {
  std::vector<std::string> out(1);
  for (const char c : text) {
    if (c == ',') {
      out.emplace_back();
    } else {
      out.back() += c;
    }
  }
  return out;
}

/// The default ones where none were asked for; otherwise these, if they exist.
void choose_caches(std::vector<std::string>& names) {
  std::vector<std::string> known;
  std::string listed;
  for (const auto& cache : engine::list_caches()) {
    known.push_back(cache.name);
    listed += (listed.empty() ? "" : ", ") + cache.name;
  }
  const auto count = [](const std::vector<std::string>& in, const std::string& name) {
    return std::count(in.begin(), in.end(), name);
  };
  for (const std::string& name : names) {
    if (count(known, name) == 0) throw wrong_use("there is no cache '" + name + "' (there are: " + listed + ")");
    if (count(names, name) > 1) throw wrong_use("--caches names '" + name + "' twice");
  }
  if (!names.empty()) return;
  for (const auto& cache : engine::list_caches()) {
    if (cache.is_default) names.push_back(cache.name);
  }
}

}  // namespace

options parse_options(std::span<const std::string> arguments) {
  options out;
  out.threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  std::map<std::string, bool*> switches = {{"--list", &out.list}, {"--help", &out.help}};
  std::map<std::string, std::string*> texts = {
      {"--model", &out.model},       {"--text", &out.text}, {"--sample-text", &out.sample_text},
      {"--siblings", &out.siblings}, {"--out", &out.out},   {"--device", &out.device}};
  std::map<std::string, std::size_t*> counts = {
      {"--skip-tokens", &out.skip_tokens}, {"--window", &out.window}, {"--windows", &out.windows}};

  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string& option = arguments[i];
    if (switches.contains(option)) {
      *switches[option] = true;
      continue;
    }
    if (option == "--no-passkey") {
      out.passkey = false;
      continue;
    }
    if (!texts.contains(option) && !counts.contains(option) && option != "--caches" && option != "--threads") {
      throw wrong_use("unknown option '" + option + "'");
    }
    if (i + 1 == arguments.size() || arguments[i + 1].empty()) throw wrong_use(option + " needs a value");
    const std::string& value = arguments[++i];
    if (texts.contains(option)) *texts[option] = value;
    if (option == "--device" && value != "host" && value != "cuda") {
      throw wrong_use("--device takes host or cuda, not '" + value + "'");
    }
    if (option == "--caches") out.caches = split_names(value);
    if (option == "--threads") out.threads = static_cast<int>(parse_count(option, value, 1, 1024));
    // A window of one token predicts nothing.
    const std::size_t least = option == "--window" ? 2 : option == "--windows" ? 1 : 0;
    if (counts.contains(option)) *counts[option] = parse_count(option, value, least, 1 << 30);
  }
  if (out.list || out.help) return out;
  if (out.model.empty()) throw wrong_use("--model is missing");
  if (out.text.empty()) throw wrong_use("--text is missing");
  out.all_caches = out.caches.empty();
  choose_caches(out.caches);
  return out;
}

}  // namespace report
