// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "describe.hpp"
#include "kvc/version.hpp"

namespace report {
namespace {

using json = nlohmann::ordered_json;

constexpr std::size_t bins = 32;

std::string version() {
  return std::to_string(KVC_VERSION_MAJOR) + "." + std::to_string(KVC_VERSION_MINOR) + "." +
         std::to_string(KVC_VERSION_PATCH);
}

/// A window in equal parts: where each begins.
std::vector<std::size_t> bin_edges(std::size_t window) {
  const std::size_t count = std::min(bins, window - 1);
  std::vector<std::size_t> out;
  for (std::size_t i = 0; i <= count; ++i) out.push_back((window - 1) * i / count);
  return out;
}

/// Mean over the positions of each bin, of sums over windows.
json binned(const std::vector<double>& sums, const std::vector<std::size_t>& edges, int windows) {
  json out = json::array();
  for (std::size_t i = 0; i + 1 < edges.size(); ++i) {
    double sum = 0;
    for (std::size_t at = edges[i]; at < edges[i + 1]; ++at) sum += sums[at];
    out.push_back(sum / static_cast<double>(edges[i + 1] - edges[i]) / windows);
  }
  return out;
}

json cache_to_json(const cache_result& cache, const results& results, const setting& setting) {
  const figures f = figures_of(cache, results.reference, setting);
  const evaluation& e = cache.reading;
  json out = {{"name", cache.entry.name},
              {"summary", cache.entry.summary},
              {"composition", cache.entry.composition},
              {"calibrated", cache.entry.is_calibrated},
              {"bits_per_value", f.bits_per_value},
              {"bytes_per_token", f.bytes_per_token},
              {"ratio", f.ratio},
              {"page_bytes", e.bytes.pages},
              {"tail_bytes", e.bytes.tail},
              {"workspace_bytes", e.bytes.workspace},
              {"perplexity", f.perplexity},
              {"perplexity_change", f.perplexity_change},
              {"loss", e.mean_loss()},
              {"kl", e.mean_kl()},
              {"top1", e.top1()},
              {"passkey", nullptr}};
  if (cache.passkey) {
    out["passkey"] = cache.passkey->share();
    out["passkey_found"] = cache.passkey->found;
  }
  out["speed"] = {{"append_tokens_per_second", f.append_tokens_per_second},
                  {"append_gb_per_second", f.append_gb_per_second},
                  {"attend_tokens_per_second", f.attend_tokens_per_second},
                  {"decode_append_microseconds", 1e6 * f.decode_append_seconds},
                  {"decode_attend_microseconds", 1e6 * f.decode_attend_seconds},
                  {"decode_attend_gb_per_second", f.decode_attend_gb_per_second}};
  for (std::size_t i = 0; i < e.window_losses.size(); ++i) {
    out["windows"].push_back({{"perplexity", std::exp(e.window_losses[i])}, {"kl", e.window_kls[i]}});
  }
  const auto edges = bin_edges(setting.window);
  std::vector<double> change = e.loss_at;
  for (std::size_t i = 0; i < change.size(); ++i) change[i] -= results.reference.reading.loss_at[i];
  out["by_position"] = {{"loss_change", binned(change, edges, e.windows)}, {"kl", binned(e.kl_at, edges, e.windows)}};
  return out;
}

json passkeys_to_json(const results& results) {
  if (results.passkeys.empty()) return nullptr;
  json out = {{"reference_finds", results.reference.passkey->share()}, {"tasks", json::array()}};
  for (const passkey_task& task : results.passkeys) {
    out["tasks"].push_back({{"depth", task.depth}, {"digits", task.digits}, {"prompt_tokens", task.prompt.size()}});
  }
  return out;
}

json sibling_to_json(const sibling& s) {
  return {{"name", s.name},
          {"block", s.block},
          {"file_bytes", s.file_bytes},
          {"layers", s.layers},
          {"query_heads", s.query_heads},
          {"head_dim", s.head_dim},
          {"context", s.context},
          {"bytes_per_token_per_layer", s.bytes_per_token / s.layers},
          {"share_of_mha", s.share_of_mha},
          {"loss", s.loss},
          {"copied", s.copied},
          {"passkey_found", s.passkeys},
          {"decode_attend_microseconds", 1e6 * s.decode_attend_seconds},
          {"step_microseconds", 1e6 * s.step_seconds},
          {"sample", s.sample},
          {"run", json::parse(s.run, nullptr, false)}};
}

}  // namespace

std::string to_json(const results& results, const setting& setting) {
  const engine::model_config& m = setting.model;
  json positions = json::array();
  for (std::size_t i = 0; i < setting.windows; ++i) positions.push_back(setting.skip_tokens + i * setting.window);
  json out = {
      {"program", {{"name", "kvc_report"}, {"kvc_version", version()}}},
      {"date", setting.date},
      {"seconds", results.seconds},
      {"machine",
       {{"cpu", setting.cpu},
        {"threads", setting.threads},
        {"gpu", setting.gpu.empty() ? json(nullptr) : json(setting.gpu)}}},
      {"model",
       {{"name", setting.model_name},
        {"bytes", setting.model_bytes},
        {"layers", m.layers},
        {"query_heads", m.query_heads},
        {"kv_heads", m.kv_heads},
        {"head_dim", m.head_dim},
        {"vocabulary", m.vocabulary},
        {"bytes_per_token_16_bit", bytes_in_16_bit(m)}}},
      {"text",
       {{"name", setting.text_name},
        {"bytes", setting.text_bytes},
        {"tokens", setting.text_tokens},
        {"skip_tokens", setting.skip_tokens},
        {"window", setting.window},
        {"windows", setting.windows},
        {"window_positions", positions}}},
      {"calibration", nullptr},
      {"steps", {{"rows", step_rows}, {"single_at_the_end", decoded(setting.window)}}},
      {"passkeys", passkeys_to_json(results)},
      {"position_bins", bin_edges(setting.window)},
      {"reference", cache_to_json(results.reference, results, setting)},
  };
  if (!setting.sample_name.empty()) {
    out["calibration"] = {{"text", setting.sample_name}, {"tokens", setting.sample_tokens}};
  }
  out["siblings"] = json::array();
  for (const sibling& s : results.siblings) out["siblings"].push_back(sibling_to_json(s));
  out["sibling_windows"] = sibling_windows;
  out["sample_prompt"] = sample_prompt;
  out["caches"] = json::array();
  for (const cache_result& cache : results.caches) out["caches"].push_back(cache_to_json(cache, results, setting));
  return out.dump(2, ' ', false, json::error_handler_t::replace);
}

}  // namespace report
