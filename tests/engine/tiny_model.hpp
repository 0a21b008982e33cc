// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "gguf_builder.hpp"

namespace engine_test {

/// A random Llama model of a few thousand weights, as the numbers themselves and as a GGUF file in fp32.
struct tiny_model {
  int layers = 2, width = 48, query_heads = 4, kv_heads = 2, head_dim = 64, feed_forward = 40, vocabulary = 23;
  int context = 64;
  int rotary_dims = 64;
  float rotary_base = 500.0f;
  float epsilon = 1e-3f;
  bool tied = true;             // whether the output is the embedding
  bool rotary_factors = false;  // whether the file has rope_freqs.weight

  std::map<std::string, std::vector<float>> weights;  // [outputs][inputs] each
  std::map<std::string, std::vector<std::uint64_t>> shapes;

  /// Draws every weight. Norms are around one, matrices keep the size of what they multiply.
  void draw(unsigned seed) {
    std::mt19937 random(seed);
    const auto fill = [&](const std::string& name, std::vector<std::uint64_t> shape, float mean, float deviation) {
      std::normal_distribution<float> normal(mean, deviation);
      std::size_t size = 1;
      for (const auto extent : shape) size *= static_cast<std::size_t>(extent);
      auto& values = weights[name];
      values.resize(size);
      for (float& value : values) value = normal(random);
      shapes[name] = std::move(shape);
    };
    const auto matrix = [&](const std::string& name, int outputs, int inputs) {
      fill(name, {static_cast<std::uint64_t>(outputs), static_cast<std::uint64_t>(inputs)}, 0,
           1.5f / std::sqrt(static_cast<float>(inputs)));
    };
    const auto norm = [&](const std::string& name) { fill(name, {static_cast<std::uint64_t>(width)}, 1, 0.3f); };

    matrix("token_embd.weight", vocabulary, width);
    norm("output_norm.weight");
    if (!tied) matrix("output.weight", vocabulary, width);
    if (rotary_factors) {
      fill("rope_freqs.weight", {static_cast<std::uint64_t>(rotary_dims / 2)}, 4, 0.5f);
    }
    for (int i = 0; i < layers; ++i) {
      const std::string block = "blk." + std::to_string(i) + ".";
      norm(block + "attn_norm.weight");
      norm(block + "ffn_norm.weight");
      matrix(block + "attn_q.weight", query_heads * head_dim, width);
      matrix(block + "attn_k.weight", kv_heads * head_dim, width);
      matrix(block + "attn_v.weight", kv_heads * head_dim, width);
      matrix(block + "attn_output.weight", width, query_heads * head_dim);
      matrix(block + "ffn_gate.weight", feed_forward, width);
      matrix(block + "ffn_up.weight", feed_forward, width);
      matrix(block + "ffn_down.weight", width, feed_forward);
    }
  }

  /// The metadata alone. Tests that break a file start here.
  gguf_builder metadata() const {
    const auto number = [](int value) { return static_cast<std::uint32_t>(value); };
    gguf_builder out;
    out.text("general.architecture", "llama")
        .u32("llama.block_count", number(layers))
        .u32("llama.context_length", number(context))
        .u32("llama.embedding_length", number(width))
        .u32("llama.feed_forward_length", number(feed_forward))
        .u32("llama.attention.head_count", number(query_heads))
        .u32("llama.attention.head_count_kv", number(kv_heads))
        .u32("llama.attention.key_length", number(head_dim))
        .u32("llama.attention.value_length", number(head_dim))
        .u32("llama.rope.dimension_count", number(rotary_dims))
        .f32("llama.rope.freq_base", rotary_base)
        .f32("llama.attention.layer_norm_rms_epsilon", epsilon);
    return out;
  }

  void add_tensors(gguf_builder& to) const {
    for (const auto& [name, values] : weights) {
      bytes data;
      for (const float value : values) put(data, value);
      to.tensor(name, 0, shapes.at(name), data);
    }
  }

  bytes file() const {
    gguf_builder out = metadata();
    add_tensors(out);
    return out.build();
  }
};

}  // namespace engine_test
