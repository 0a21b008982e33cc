// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "describe.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <fstream>

namespace report {
namespace {

double per(double amount, double divisor) {
  return divisor > 0 ? amount / divisor : 0;
}

std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const std::size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
}

template <class... Values>
std::string format(const char* pattern, Values... values) {
  char out[256];
  std::snprintf(out, sizeof out, pattern, values...);
  return out;
}

std::string passkey_cell(const cache_result& cache) {
  if (!cache.passkey) return "-";
  const auto& found = cache.passkey->found;
  return std::to_string(std::count(found.begin(), found.end(), true)) + "/" + std::to_string(found.size());
}

}  // namespace

void describe_machine(setting& to, int threads) {
  const std::time_t now = std::time(nullptr);
  char date[32];
  std::strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", std::gmtime(&now));
  to.date = date;
  to.cpu = cpu_name();
  to.threads = threads;
}

double bytes_in_16_bit(const engine::model_config& model) {
  return 2.0 * 2.0 * model.layers * model.kv_heads * model.head_dim;
}

figures figures_of(const cache_result& cache, const cache_result& reference, const setting& setting) {
  const evaluation& e = cache.reading;
  const double window = static_cast<double>(setting.window);
  const double bytes = static_cast<double>(e.bytes.pages + e.bytes.tail);
  const double bulk = static_cast<double>(e.times.bulk_tokens);
  figures out;
  out.bytes_per_token = bytes / window;
  out.ratio = per(bytes_in_16_bit(setting.model), out.bytes_per_token);
  out.bits_per_value = per(16.0, out.ratio);
  out.perplexity = std::exp(e.mean_loss());
  out.perplexity_change = std::expm1(e.mean_loss() - reference.reading.mean_loss());
  out.append_tokens_per_second = per(bulk, e.times.append);
  out.attend_tokens_per_second = per(bulk, e.times.attend);
  out.append_gb_per_second = out.append_tokens_per_second * out.bytes_per_token * 1e-9;
  out.decode_append_seconds = e.times.decode_append / e.windows;
  out.decode_attend_seconds = e.times.decode_attend / e.windows;
  out.decode_attend_gb_per_second = per(bytes, out.decode_attend_seconds) * 1e-9;
  return out;
}

std::string table(const results& results, const setting& setting) {
  const std::string machine =
      setting.gpu.empty() ? format("%s, %d threads", setting.cpu.c_str(), setting.threads) : setting.gpu;
  std::string out =
      format("%s reads tokens %zu to %zu of %s; %.0f bytes per token in 16 bit; %s\n\n", setting.model_name.c_str(),
             setting.skip_tokens, setting.skip_tokens + setting.windows * setting.window - 1, setting.text_name.c_str(),
             bytes_in_16_bit(setting.model), machine.c_str());
  std::size_t width = 5;
  for (const cache_result& cache : results.caches) width = std::max(width, cache.entry.name.size());
  const int w = static_cast<int>(width);
  out += format(
      "%-*s   bits  B/token   ratio  perplexity   change        KL   top-1  passkey  append     attend   decode\n", w,
      "cache");
  out += format("%-*s                                                                      tok/s      tok/s   us/tok\n",
                w, "");
  for (const cache_result& cache : results.caches) {
    const figures f = figures_of(cache, results.reference, setting);
    out += format("%-*s  %5.2f  %7.0f  %5.2fx  %10.3f  %+6.2f%%  %8.5f  %5.1f%%  %7s  %6.0f  %9.0f  %7.0f\n", w,
                  cache.entry.name.c_str(), f.bits_per_value, f.bytes_per_token, f.ratio, f.perplexity,
                  100 * f.perplexity_change, cache.reading.mean_kl(), 100 * cache.reading.top1(),
                  passkey_cell(cache).c_str(), f.append_tokens_per_second, f.attend_tokens_per_second,
                  1e6 * f.decode_attend_seconds);
  }
  out += "\nKL: mean nats per token to the fp32 cache. Bytes: pages and tail as allocated, at the end of a window.\n";
  out += "append and attend: all layers, steps of many tokens; decode: attend for one token at the end of a window.\n";
  if (!setting.sample_name.empty()) {
    out += format("Calibrated on %zu tokens of %s.\n", setting.sample_tokens, setting.sample_name.c_str());
  }
  if (results.reference.passkey && results.reference.passkey->share() < 1) {
    out += "The passkeys say little here: with the fp32 cache, the model found " + passkey_cell(results.reference) +
           " itself.\n";
  }
  return out;
}

}  // namespace report
