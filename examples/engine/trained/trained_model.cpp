// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "trained_model.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <set>
#include <stdexcept>
#include <string>

#include "parts.hpp"

namespace engine {
namespace {

/// Takes tensors out of a file by name, and knows at the end which ones nobody took.
class tensor_source {
 public:
  explicit tensor_source(const safetensors_file& file) : file_(file) {}

  std::vector<float> vector(const std::string& name, int size) {
    const std::size_t shape[] = {static_cast<std::size_t>(size)};
    taken_.insert(name);
    return file_.floats(name, shape);
  }

  std::vector<float> values(const std::string& name, int outputs, int inputs) {
    const std::size_t shape[] = {static_cast<std::size_t>(outputs), static_cast<std::size_t>(inputs)};
    taken_.insert(name);
    taken_.insert(name + ".scale");
    return file_.floats(name, shape);
  }

  matrix weight(const std::string& name, int outputs, int inputs) {
    return matrix(static_cast<std::size_t>(outputs), static_cast<std::size_t>(inputs), values(name, outputs, inputs));
  }

  void refuse_leftovers() const {
    for (const auto& [name, tensor] : file_.tensors()) {
      if (!taken_.contains(name))
        throw std::runtime_error("trained model: tensor " + quoted(name) + " is none that the engine knows how to use");
    }
  }

 private:
  const safetensors_file& file_;
  std::set<std::string> taken_;
};

/// To the nearest bfloat16, ties to even: what training hands to the codec.
float as_bf16(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  return std::bit_cast<float>((bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u);
}

std::size_t size(int n) {
  return static_cast<std::size_t>(n);
}

}  // namespace

trained_model::trained_model(const safetensors_file& file, int threads, int context)
    : config_(read_trained_config(file)),
      pool_(threads),
      rotary_(prepared_context(config_, context), config_.rotary_frequencies) {
  const trained_config& c = config_;
  const int seen = c.width * (c.look_back ? 2 : 1), head_width = c.query_heads * c.head_dim;
  tensor_source source(file);

  embedding_ = source.weight("embedding.weight", c.vocabulary, c.width);
  output_norm_ = source.vector("norm.weight", c.width);
  for (int i = 0; i < c.layers; ++i) {
    const std::string block = "layers." + std::to_string(i) + ".", attention = block + "attention.";
    layer& l = layers_.emplace_back();
    l.attention_norm = source.vector(block + "attention_norm.weight", c.width);
    l.query = source.weight(attention + "query.weight", c.query_heads * query_width(), c.width);
    l.query_norm = source.vector(attention + "query_norm.weight", query_width());
    l.attention_output = source.weight(attention + "out.weight", c.width, head_width);
    if (c.is_latent) {
      const floats up_key = source.values(attention + "up_key.weight", head_width, c.latent);
      const floats up_value = source.values(attention + "up_value.weight", head_width, c.latent);
      const std::size_t of_head = size(c.head_dim) * size(c.latent);
      for (std::size_t h = 0; h < size(c.query_heads); ++h) {
        floats transposed(of_head);
        for (std::size_t d = 0; d < size(c.head_dim); ++d) {
          for (std::size_t r = 0; r < size(c.latent); ++r)
            transposed[r * size(c.head_dim) + d] = up_key[h * of_head + d * size(c.latent) + r];
        }
        l.up_key.emplace_back(size(c.latent), size(c.head_dim), transposed);
        l.up_value.emplace_back(size(c.head_dim), size(c.latent), std::span(up_value).subspan(h * of_head, of_head));
      }
    }
    if (c.writes(i) && c.is_latent) {
      l.stored = source.weight(attention + "down.weight", c.latent + c.rotary, seen);
      l.latent_norm = source.vector(attention + "latent_norm.weight", c.latent);
      l.key_norm = source.vector(attention + "rotary_norm.weight", c.rotary);
    } else if (c.writes(i)) {
      l.stored = source.weight(attention + "key_value.weight", 2 * c.kv_heads * c.head_dim, seen);
      l.key_norm = source.vector(attention + "key_norm.weight", c.head_dim);
    }
    l.feed_forward_norm = source.vector(block + "feed_forward_norm.weight", c.width);
    l.up = source.weight(block + "feed_forward.up.weight", 2 * c.feed_forward, c.width);
    l.down = source.weight(block + "feed_forward.out.weight", c.width, c.feed_forward);
  }
  source.refuse_leftovers();
}

std::span<const float> trained_model::forward(std::span<const token> tokens, attention_cache& cache,
                                              logits_wanted wanted) {
  auto* own = dynamic_cast<trained_cache*>(&cache);
  if (own == nullptr) throw std::invalid_argument("a trained model reads through caches of make_trained_cache alone");
  check_step(tokens, cache, context(), config_.vocabulary);
  const std::size_t rows = tokens.size();
  const double timed_before = seconds_.total();
  double whole_step = 0;
  std::span<const float> logits;
  {
    const stopwatch timer(whole_step);
    work_.stream.resize(rows * size(config_.width));
    work_.normed.resize(work_.stream.size());
    for (std::size_t row = 0; row < rows; ++row) {
      embedding_.copy_row(size(tokens[row]), work_.stream.data() + row * size(config_.width));
    }
    cache.reserve(static_cast<int>(rows));
    for (int i = 0; i < config_.layers; ++i) {
      attention_block(layers_[size(i)], i, rows, *own);
      feed_forward_block(layers_[size(i)], rows);
    }
    cache.commit(static_cast<int>(rows));
    if (wanted == logits_wanted::all_rows) logits = project(0, rows);
    if (wanted == logits_wanted::last_row) logits = project(rows - 1, 1);
  }
  seconds_.rest += whole_step - (seconds_.total() - timed_before);
  return logits;
}

void trained_model::attention_block(const layer& weights, int index, std::size_t rows, trained_cache& cache) {
  const trained_config& c = config_;
  const std::size_t heads = size(c.query_heads), dim = size(c.head_dim), rotary = size(c.rotary),
                    wide = size(query_width());
  rms_norm(work_.stream.data(), rows, weights.attention_norm, c.norm_epsilon, work_.normed.data(), pool_);
  product(weights.query, work_.normed, rows, work_.query);
  rms_norm(work_.query.data(), rows * heads, weights.query_norm, c.norm_epsilon, work_.query.data(), pool_);
  for (std::size_t row = 0; row < rows; ++row) {  // the last `rotary` of each head's channels: all of them, or qr
    for (std::size_t h = 0; h < heads; ++h) {
      float* q = work_.query.data() + (row * heads + h) * wide;
      rotary_.rotate(q + wide - rotary, 1, rotary, cache.length() + static_cast<int>(row));
    }
  }
  if (c.writes(index)) append(weights, index, rows, cache);

  const float scale = 1.0f / std::sqrt(static_cast<float>(wide));
  const auto attend = [&](const floats& q, floats& out) {
    const stopwatch timer(seconds_.attend);
    cache.attend(index, q.data(), scale, out.data());
  };
  if (!c.is_latent) {
    work_.heads.resize(rows * heads * dim);
    attend(work_.query, work_.heads);
  } else {
    const std::size_t latent = size(c.latent), row_width = latent + rotary;
    work_.absorbed.resize(rows * heads * row_width);
    work_.attended.resize(rows * heads * latent);
    work_.heads.resize(rows * heads * dim);
    {
      const stopwatch timer(seconds_.products);
      pool_.split(heads, 1, [&](std::size_t begin, std::size_t end) {
        for (std::size_t h = begin; h < end; ++h) {
          const float* q = work_.query.data() + h * wide;
          float* absorbed = work_.absorbed.data() + h * row_width;
          weights.up_key[h].multiply(q, heads * wide, rows, absorbed, heads * row_width);
          for (std::size_t row = 0; row < rows; ++row) {
            std::copy_n(q + row * heads * wide + dim, rotary, absorbed + row * heads * row_width + latent);
          }
        }
      });
    }
    attend(work_.absorbed, work_.attended);
    const stopwatch timer(seconds_.products);
    pool_.split(heads, 1, [&](std::size_t begin, std::size_t end) {
      for (std::size_t h = begin; h < end; ++h) {
        weights.up_value[h].multiply(work_.attended.data() + h * latent, heads * latent, rows,
                                     work_.heads.data() + h * dim, heads * dim);
      }
    });
  }
  product(weights.attention_output, work_.heads, rows, work_.branch);
  add(work_.stream, work_.branch, pool_);
}

void trained_model::append(const layer& weights, int index, std::size_t rows, trained_cache& cache) {
  const trained_config& c = config_;
  const std::size_t width = size(c.width);
  if (c.look_back) {
    const std::span<float> last = cache.last_row(index);
    work_.seen.resize(rows * 2 * width);
    for (std::size_t row = 0; row < rows; ++row) {
      const float* own = work_.normed.data() + row * width;
      std::copy_n(own, width, work_.seen.data() + 2 * row * width);
      std::copy_n(row > 0 ? own - width : last.data(), width, work_.seen.data() + (2 * row + 1) * width);
    }
    std::copy_n(work_.normed.data() + (rows - 1) * width, width, last.data());
  }
  product(weights.stored, c.look_back ? work_.seen : work_.normed, rows, work_.stored);

  const std::size_t rotary = size(c.rotary), latent = size(c.latent), row_width = latent + rotary,
                    kv = size(c.kv_heads) * size(c.head_dim), per_row = c.is_latent ? row_width : 2 * kv;
  work_.k.resize(rows * (c.is_latent ? row_width : kv));
  work_.v.resize(c.is_latent ? 0 : rows * kv);
  for (std::size_t row = 0; row < rows; ++row) {
    const int position = cache.length() + static_cast<int>(row);
    const float* from = work_.stored.data() + row * per_row;
    if (c.is_latent) {
      float* to = work_.k.data() + row * row_width;
      rms_norm_row(from, weights.latent_norm, c.norm_epsilon, to);
      rms_norm_row(from + latent, weights.key_norm, c.norm_epsilon, to + latent);
      rotary_.rotate(to + latent, 1, rotary, position);
      if (c.bits < 16) std::transform(to, to + row_width, to, as_bf16);
    } else {
      float* k = work_.k.data() + row * kv;
      for (std::size_t h = 0; h < size(c.kv_heads); ++h) {
        rms_norm_row(from + h * rotary, weights.key_norm, c.norm_epsilon, k + h * rotary);
      }
      rotary_.rotate(k, size(c.kv_heads), rotary, position);
      std::copy_n(from + kv, kv, work_.v.data() + row * kv);
    }
  }
  const stopwatch timer(seconds_.append);
  cache.append(index, work_.k.data(), work_.v.data());
}

void trained_model::feed_forward_block(const layer& weights, std::size_t rows) {
  const std::size_t inner = size(config_.feed_forward);
  rms_norm(work_.stream.data(), rows, weights.feed_forward_norm, config_.norm_epsilon, work_.normed.data(), pool_);
  product(weights.up, work_.normed, rows, work_.up);
  work_.gate.resize(rows * inner);
  for (std::size_t row = 0; row < rows; ++row) {
    const float* both = work_.up.data() + 2 * row * inner;
    float* gate = work_.gate.data() + row * inner;
    std::copy_n(both, inner, gate);
    swiglu(gate, both + inner, inner, pool_);
  }
  product(weights.down, work_.gate, rows, work_.branch);
  add(work_.stream, work_.branch, pool_);
}

std::span<const float> trained_model::project(std::size_t first_row, std::size_t rows) {
  const std::size_t width = size(config_.width);
  rms_norm(work_.stream.data() + first_row * width, rows, output_norm_, config_.norm_epsilon, work_.normed.data(),
           pool_);
  product(embedding_, work_.normed, rows, work_.logits);
  return std::span(work_.logits).first(rows * size(config_.vocabulary));
}

void trained_model::product(const matrix& w, const floats& x, std::size_t rows, floats& y) {
  const stopwatch timer(seconds_.products);
  y.resize(rows * w.outputs());
  w.multiply(x.data(), rows, y.data(), pool_);
}

}  // namespace engine
