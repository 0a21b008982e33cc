// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "trained_config.hpp"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <utility>

namespace engine {
namespace {

using json = nlohmann::json;

[[noreturn]] void fail(const std::string& what) {
  throw std::runtime_error("trained model: " + what);
}

json parse(const safetensors_file& file, const char* key) {
  json out = json::parse(file.text(key), nullptr, false);
  if (!out.is_object()) fail(std::string("its ") + key + " is no JSON object");
  return out;
}

int integer(const json& config, const char* key, int low, int high) {
  if (!config.contains(key) || !config[key].is_number_integer()) fail(std::string(key) + " is no whole number");
  const auto value = config[key].get<std::int64_t>();
  if (value < low || value > high) {
    fail(std::string(key) + " is " + std::to_string(value) + ", not from " + std::to_string(low) + " to " +
         std::to_string(high));
  }
  return static_cast<int>(value);
}

std::string text(const json& config, const char* key) {
  if (!config.contains(key) || !config[key].is_string()) fail(std::string(key) + " is no text");
  return config[key].get<std::string>();
}

double number(const json& config, const char* key) {
  if (!config.contains(key) || !config[key].is_number()) fail(std::string(key) + " is no number");
  return config[key].get<double>();
}

/// A model that was trained with an idea that the engine does not know would be computed wrongly: refuse it by name.
void refuse_ideas(const json& config, bool is_latent) {
  const std::pair<const char*, json> served[] = {
      {"reach", 1}, {"shift", false},    {"token_table", false}, {"rotate", false},
      {"group", 0}, {"grid", "midrise"}, {"range", "amax"},      {"rotary_grid", "midrise"}};
  for (const char* key : {"squash", "mix"}) {  // younger than some files
    if (config.contains(key) && config[key] != false) fail(std::string(key) + " is not served");
  }
  for (const auto& [key, value] : served) {
    if (!config.contains(key)) fail(std::string(key) + " is missing");
    if (config[key] != value && (is_latent || key == std::string("token_table"))) {
      fail(std::string(key) + " " + config[key].dump() + " is not served (served: " + value.dump() + ")");
    }
  }
}

/// How many neighbouring layers share a slot: "0011" is 2.
int sharing_of(const std::string& slots, int layers) {
  if (slots.size() != static_cast<std::size_t>(layers)) fail("slots " + engine::quoted(slots) + " name not each layer");
  for (const int sharing : {1, 2}) {
    bool fits = true;
    for (int l = 0; l < layers; ++l) fits &= slots[static_cast<std::size_t>(l)] == static_cast<char>('0' + l / sharing);
    if (fits) return sharing;
  }
  fail("slots " + engine::quoted(slots) + " are not served (served: a slot for each layer or for each pair)");
}

}  // namespace

trained_config read_trained_config(const safetensors_file& file) {
  const json config = parse(file, "config");
  trained_config c;
  c.block = text(config, "block");
  static const std::set<std::string> of_heads = {"mha", "gqa", "mqa"}, of_latents = {"mla", "clla", "clla-int4"};
  c.is_latent = of_latents.contains(c.block);
  if (!c.is_latent && !of_heads.contains(c.block)) {
    fail("the block " + engine::quoted(c.block) + " is not served (served: mha, gqa, mqa, mla, clla, clla-int4)");
  }
  refuse_ideas(config, c.is_latent);
  c.layers = integer(config, "layers", 1, 64);
  c.width = integer(config, "width", 1, 1 << 16);
  c.feed_forward = integer(config, "feed_forward", 1, 1 << 20);
  c.query_heads = integer(config, "heads", 1, 1024);
  c.head_dim = integer(config, "head_dim", 2, 256);
  c.vocabulary = integer(config, "vocabulary", 1, 1 << 24);
  c.context = integer(config, "context", 1, 1 << 20);
  c.norm_epsilon = 1e-6f;
  c.kv_heads = c.block == "mqa" ? 1 : (c.block == "gqa" ? std::max(1, c.query_heads / 4) : c.query_heads);
  c.sharing = sharing_of(text(config, "slots"), c.layers);
  c.rotary = c.head_dim;
  if (c.is_latent) {
    c.latent = integer(config, "latent", 1, 1 << 12);
    c.rotary = integer(config, "rotary", 2, 256);
    c.bits = integer(config, "bits", 2, 16);
    c.rotary_bits = integer(config, "rotary_bits", 2, 16);
  } else if (c.sharing != 1) {
    fail("heads that layers share are not served");
  }
  if (c.rotary % 2 != 0) fail("an odd number of rotary channels");
  c.look_back = integer(config, "look_back", 0, 16);
  c.writer = integer(config, "writer", 0, 1 << 16);
  c.shift = config.contains("shift") && config["shift"] == true;
  c.gate = config.contains("gate") && config["gate"] == true;
  const double base = number(config, "rotary_base");
  if (!(base > 0)) fail("rotary_base is not above 0");
  for (int i = 0; i < c.rotary; i += 2)
    c.rotary_frequencies.push_back(std::pow(base, -static_cast<double>(i) / c.rotary));
  return c;
}

bpe_parts read_trained_tokenizer(const safetensors_file& file) {
  const json parsed = parse(file, "tokenizer");
  // Every digit alone, then GPT-2's pattern over bytes: what data.py asks for, and what SmolLM calls its own.
  const auto is_served = [&] {
    const json& pre = parsed.at("pre_tokenizer").at("pretokenizers");
    return pre.size() == 2 && pre[0].at("type") == "Digits" && pre[0].at("individual_digits") == true &&
           pre[1].at("type") == "ByteLevel" && pre[1].at("add_prefix_space") == false &&
           parsed.at("normalizer").is_null() && parsed.at("model").at("type") == "BPE";
  };
  bpe_parts out;
  try {
    if (!is_served()) fail("its tokenizer is none that data.py makes");
    out.pre = "smollm";
    const json& vocabulary = parsed.at("model").at("vocab");
    out.texts.resize(vocabulary.size());
    for (const auto& [spelling, id] : vocabulary.items()) out.texts.at(id.get<std::size_t>()) = spelling;
    for (const json& merge : parsed.at("model").at("merges")) {
      out.merges.push_back(merge.is_string() ? merge.get<std::string>()
                                             : merge.at(0).get<std::string>() + " " + merge.at(1).get<std::string>());
    }
    for (const json& added : parsed.at("added_tokens")) {
      const auto id = added.at("id").get<token>();
      if (id < 0 || static_cast<std::size_t>(id) >= out.texts.size()) fail("its tokenizer adds a token that it lacks");
      out.control.push_back(id);
    }
  } catch (const json::exception& problem) {
    fail(std::string("its tokenizer cannot be read: ") + problem.what());
  } catch (const std::out_of_range&) {
    fail("its tokenizer names tokens beyond its vocabulary");
  }
  if (!out.control.empty()) out.end = out.control.front();
  return out;
}

}  // namespace engine
