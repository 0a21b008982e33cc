// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "model_config.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <stdexcept>
#include <string>
#include <string_view>

namespace engine {
namespace {

constexpr std::array served_head_dims = {64, 80, 96, 128, 256};

// Generous bounds that keep every later product of two of these within 64 bits.
constexpr std::int64_t most_layers = 4096;
constexpr std::int64_t most_width = 1 << 20;
constexpr std::int64_t most_context = 1 << 24;

[[noreturn]] void refuse(const std::string& what) {
  throw std::runtime_error("model: " + what);
}

int positive(const gguf_file& file, std::string_view key, std::int64_t most,
             std::optional<std::int64_t> fallback = {}) {
  return static_cast<int>(file.integer(key, 1, most, fallback));
}

/// By how much positions are compressed: 1 unless the file asks for linear scaling.
double rotary_scale(const gguf_file& file) {
  const std::string_view type = file.text("llama.rope.scaling.type", "none");
  double factor = file.number("llama.rope.scale_linear", 1.0);  // the older spelling
  if (type == "linear") {
    factor = file.number("llama.rope.scaling.factor");
  } else if (type != "none") {
    refuse("rotary scaling " + quoted(type) + " is not served (served: none, linear)");
  }
  if (!(factor > 0) || !std::isfinite(factor)) refuse("the rotary scaling factor is no positive number");
  return 1.0 / factor;
}

std::vector<double> read_rotary_frequencies(const gguf_file& file, int head_dim) {
  const int dims = positive(file, "llama.rope.dimension_count", head_dim, head_dim);
  if (dims % 2 != 0) refuse("llama.rope.dimension_count is odd");
  const double base = file.number("llama.rope.freq_base", 10000.0);
  if (!(base > 0) || !std::isfinite(base)) refuse("llama.rope.freq_base is no positive number");

  const double scale = rotary_scale(file);
  std::vector<double> out(static_cast<std::size_t>(dims) / 2);
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = scale * std::pow(base, -2.0 * static_cast<double>(i) / dims);

  // Llama 3.1 and later stretch the slow pairs by factors of their own.
  if (file.tensors().contains("rope_freqs.weight")) {
    const std::size_t shape[] = {out.size()};
    const std::vector<float> factors = dequantize(file.tensor("rope_freqs.weight", shape));
    for (std::size_t i = 0; i < out.size(); ++i) {
      if (!(factors[i] > 0) || !std::isfinite(factors[i])) refuse("a rotary factor is no positive number");
      out[i] /= double{factors[i]};
    }
  }
  return out;
}

}  // namespace

model_config read_model_config(const gguf_file& file) {
  const std::string_view architecture = file.text("general.architecture");
  if (architecture != "llama") {
    refuse("the architecture " + quoted(architecture) + " is not served (served: llama)");
  }
  if (file.integer("llama.expert_count", 0, INT64_MAX, 0) > 0) refuse("mixtures of experts are not served");

  model_config out;
  out.layers = positive(file, "llama.block_count", most_layers);
  out.width = positive(file, "llama.embedding_length", most_width);
  out.feed_forward = positive(file, "llama.feed_forward_length", most_width);
  out.query_heads = positive(file, "llama.attention.head_count", most_width);
  out.kv_heads = positive(file, "llama.attention.head_count_kv", most_width, out.query_heads);
  if (out.query_heads % out.kv_heads != 0) {
    refuse(std::to_string(out.query_heads) + " query heads are no multiple of " + std::to_string(out.kv_heads) +
           " key/value heads");
  }

  out.head_dim =
      static_cast<int>(file.integer("llama.attention.key_length", 0, most_width, out.width / out.query_heads));
  const auto value_dim = file.integer("llama.attention.value_length", 0, most_width, out.head_dim);
  if (value_dim != out.head_dim) refuse("values of another head dimension than the keys' are not served");
  if (std::find(served_head_dims.begin(), served_head_dims.end(), out.head_dim) == served_head_dims.end()) {
    std::string served;
    for (const int dim : served_head_dims) served += (served.empty() ? "" : ", ") + std::to_string(dim);
    refuse("the head dimension " + std::to_string(out.head_dim) + " is not served (served: " + served + ")");
  }

  // Up to its window, a model with sliding windows attends as any other does.
  out.context = positive(file, "llama.context_length", most_context);
  const auto window = file.integer("llama.attention.sliding_window", 0, most_context, 0);
  if (window > 0) out.context = static_cast<int>(std::min<std::int64_t>(out.context, window));

  const double epsilon = file.number("llama.attention.layer_norm_rms_epsilon");
  if (!(epsilon >= 0) || epsilon > 1) refuse("llama.attention.layer_norm_rms_epsilon is not between 0 and 1");
  out.norm_epsilon = static_cast<float>(epsilon);
  out.rotary_frequencies = read_rotary_frequencies(file, out.head_dim);

  const auto embedding = file.tensors().find("token_embd.weight");
  if (embedding == file.tensors().end()) refuse("tensor 'token_embd.weight' is missing");
  const auto& shape = embedding->second.shape;
  if (shape.size() != 2 || shape[0] > (1u << 24)) refuse("token_embd.weight has the odd shape " + shape_text(shape));
  out.vocabulary = static_cast<int>(shape[0]);
  return out;
}

}  // namespace engine
