// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "model.hpp"

#include <algorithm>
#include <cmath>
#include <set>
#include <stdexcept>

#include "parts.hpp"

namespace engine {
namespace {

/// Takes tensors out of a file by name, and knows at the end which ones nobody took.
class tensor_source {
 public:
  explicit tensor_source(const gguf_file& file) : file_(file) {}

  bool has(const std::string& name) const { return file_.tensors().contains(name); }

  std::vector<float> vector(const std::string& name, int size) {
    const std::size_t shape[] = {static_cast<std::size_t>(size)};
    return take(name, shape);
  }

  matrix weight(const std::string& name, int outputs, int inputs) {
    const std::size_t shape[] = {static_cast<std::size_t>(outputs), static_cast<std::size_t>(inputs)};
    return matrix(shape[0], shape[1], take(name, shape));
  }

  /// A bias or a norm that the engine does not know would be left out silently: refuse it instead.
  void refuse_leftovers() const {
    for (const auto& [name, tensor] : file_.tensors()) {
      if (taken_.contains(name) || name == "rope_freqs.weight") continue;  // that one is part of the configuration
      throw std::runtime_error("model: tensor " + quoted(name) + " is none that the engine knows how to use");
    }
  }

 private:
  std::vector<float> take(const std::string& name, std::span<const std::size_t> shape) {
    const gguf_tensor& tensor = file_.tensor(name, shape);
    taken_.insert(name);
    return dequantize(tensor);
  }

  const gguf_file& file_;
  std::set<std::string, std::less<>> taken_;
};

}  // namespace

model::model(const gguf_file& file, const model_options& options)
    : config_(read_model_config(file)),
      pool_(options.threads),
      rotary_(prepared_context(config_, options.context), config_.rotary_frequencies) {
  const auto& c = config_;
  const int q_width = c.query_heads * c.head_dim, kv_width = c.kv_heads * c.head_dim;
  tensor_source source(file);

  embedding_ = source.weight("token_embd.weight", c.vocabulary, c.width);
  output_norm_ = source.vector("output_norm.weight", c.width);
  if (source.has("output.weight")) output_ = source.weight("output.weight", c.vocabulary, c.width);
  for (int i = 0; i < c.layers; ++i) {
    const std::string block = "blk." + std::to_string(i) + ".";
    layer& l = layers_.emplace_back();
    l.attention_norm = source.vector(block + "attn_norm.weight", c.width);
    l.q = source.weight(block + "attn_q.weight", q_width, c.width);
    l.k = source.weight(block + "attn_k.weight", kv_width, c.width);
    l.v = source.weight(block + "attn_v.weight", kv_width, c.width);
    l.attention_output = source.weight(block + "attn_output.weight", c.width, q_width);
    l.feed_forward_norm = source.vector(block + "ffn_norm.weight", c.width);
    l.gate = source.weight(block + "ffn_gate.weight", c.feed_forward, c.width);
    l.up = source.weight(block + "ffn_up.weight", c.feed_forward, c.width);
    l.down = source.weight(block + "ffn_down.weight", c.width, c.feed_forward);
  }
  source.refuse_leftovers();
}

void model::workspace::resize(std::size_t rows, const model_config& c) {
  const auto size = [rows](int width) { return rows * static_cast<std::size_t>(width); };
  for (auto* buffer : {&stream, &normed, &branch}) buffer->resize(size(c.width));
  for (auto* buffer : {&q, &attended}) buffer->resize(size(c.query_heads * c.head_dim));
  for (auto* buffer : {&k, &v}) buffer->resize(size(c.kv_heads * c.head_dim));
  for (auto* buffer : {&gate, &up}) buffer->resize(size(c.feed_forward));
}

std::span<const float> model::forward(std::span<const token> tokens, attention_cache& cache, logits_wanted wanted) {
  check_step(tokens, cache);
  const std::size_t rows = tokens.size();
  const double timed_before = seconds_.total();
  double whole_step = 0;
  std::span<const float> logits;
  {
    const stopwatch timer(whole_step);
    work_.resize(rows, config_);
    embed(tokens);
    cache.reserve(static_cast<int>(rows));
    for (int i = 0; i < config_.layers; ++i) {
      const layer& weights = layers_[static_cast<std::size_t>(i)];
      attention_block(weights, i, rows, cache);
      feed_forward_block(weights, rows);
    }
    cache.commit(static_cast<int>(rows));
    if (wanted == logits_wanted::all_rows) logits = project(0, rows);
    if (wanted == logits_wanted::last_row) logits = project(rows - 1, 1);
  }
  seconds_.rest += whole_step - (seconds_.total() - timed_before);
  return logits;
}

void model::check_step(std::span<const token> tokens, const attention_cache& cache) const {
  engine::check_step(tokens, cache, context(), config_.vocabulary);
}

void model::embed(std::span<const token> tokens) {
  const auto width = static_cast<std::size_t>(config_.width);
  for (std::size_t row = 0; row < tokens.size(); ++row) {
    embedding_.copy_row(static_cast<std::size_t>(tokens[row]), work_.stream.data() + row * width);
  }
}

void model::attention_block(const layer& weights, int index, std::size_t rows, attention_cache& cache) {
  const int position = cache.length();
  rms_norm(work_.stream.data(), rows, weights.attention_norm, config_.norm_epsilon, work_.normed.data(), pool_);

  product(weights.q, work_.normed.data(), rows, work_.q.data());
  rotate(work_.q.data(), rows, config_.query_heads, position);
  if (cache.writes(index)) {
    product(weights.k, work_.normed.data(), rows, work_.k.data());
    product(weights.v, work_.normed.data(), rows, work_.v.data());
    if (!cache.keys_before_rotary()) rotate(work_.k.data(), rows, config_.kv_heads, position);
    const stopwatch timer(seconds_.append);
    cache.append(index, work_.k.data(), work_.v.data());
  }
  {
    const stopwatch timer(seconds_.attend);
    const float scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim));
    cache.attend(index, work_.q.data(), scale, work_.attended.data());
  }
  product(weights.attention_output, work_.attended.data(), rows, work_.branch.data());
  add(work_.stream, work_.branch, pool_);
}

void model::feed_forward_block(const layer& weights, std::size_t rows) {
  rms_norm(work_.stream.data(), rows, weights.feed_forward_norm, config_.norm_epsilon, work_.normed.data(), pool_);
  product(weights.gate, work_.normed.data(), rows, work_.gate.data());
  product(weights.up, work_.normed.data(), rows, work_.up.data());
  swiglu(work_.gate.data(), work_.up.data(), work_.gate.size(), pool_);
  product(weights.down, work_.gate.data(), rows, work_.branch.data());
  add(work_.stream, work_.branch, pool_);
}

std::span<const float> model::project(std::size_t first_row, std::size_t rows) {
  const auto width = static_cast<std::size_t>(config_.width);
  rms_norm(work_.stream.data() + first_row * width, rows, output_norm_, config_.norm_epsilon, work_.normed.data(),
           pool_);
  work_.logits.resize(rows * static_cast<std::size_t>(config_.vocabulary));
  product(output_.empty() ? embedding_ : output_, work_.normed.data(), rows, work_.logits.data());
  return work_.logits;
}

void model::product(const matrix& w, const float* x, std::size_t rows, float* y) {
  const stopwatch timer(seconds_.products);
  w.multiply(x, rows, y, pool_);
}

void model::rotate(float* rows, std::size_t count, int heads, int first_position) {
  const auto h = static_cast<std::size_t>(heads), dim = static_cast<std::size_t>(config_.head_dim);
  pool_.split(count, 1, [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; ++row) {
      rotary_.rotate(rows + row * h * dim, h, dim, first_position + static_cast<int>(row));
    }
  });
}

}  // namespace engine
