// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "trained_model.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
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
  const int seen = c.width * (1 + c.look_back), head_width = c.query_heads * c.head_dim;
  const int stored = c.is_latent ? c.latent + c.rotary : 2 * c.kv_heads * c.head_dim;
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
    if (c.writes(i)) {
      l.stored = source.weight(attention + (c.is_latent ? "down.weight" : "key_value.weight"), stored, seen);
      if (c.is_latent) l.latent_norm = source.vector(attention + "latent_norm.weight", c.latent);
      l.key_norm = source.vector(attention + (c.is_latent ? "rotary_norm.weight" : "key_norm.weight"), c.rotary);
      if (c.shift) l.shift = source.vector(attention + "shift.weight", c.width);
      if (c.writer > 0) {
        l.write_up = source.weight(attention + "write.up.weight", 2 * c.writer, seen);
        l.write_down = source.weight(attention + "write.out.weight", stored, c.writer);
      }
    }
    if (c.gate) l.gate = source.weight(attention + "gate.weight", c.query_heads, c.width);
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
  rms_norm(work_.stream.data(), rows, weights.attention_norm, config_.norm_epsilon, work_.normed.data(), pool_);
  if (config_.writes(index)) append(weights, index, rows, cache);
  attend(weights, index, rows, cache);
  if (config_.gate) {
    product(weights.gate, work_.normed, rows, work_.gates);
    const std::size_t dim = size(config_.head_dim);
    for (std::size_t i = 0; i < work_.heads.size(); ++i)
      work_.heads[i] *= 2.0f / (1.0f + std::exp(-work_.gates[i / dim]));
  }
  product(weights.attention_output, work_.heads, rows, work_.branch);
  add(work_.stream, work_.branch, pool_);
}

/// h, as a writer sees it: mixed with the row before where the model shifts, and beside the rows before where it looks
/// back. What the next step will need of them goes to the cache: the newest mixed rows, newest first, and the newest h
/// last.
const std::vector<float>& trained_model::seen_by_writer(const layer& weights, int index, std::size_t rows,
                                                        trained_cache& cache) {
  const std::size_t width = size(config_.width), back = size(config_.look_back);
  if (config_.history() == 0) return work_.normed;
  const std::span<float> history = cache.history(index);
  const floats* mixed = &work_.normed;
  if (config_.shift) {
    float* last = history.data() + back * width;
    work_.mixed.resize(rows * width);
    for (std::size_t i = 0; i < rows * width; ++i) {
      const float h = work_.normed[i], before = i < width ? last[i] : work_.normed[i - width];
      work_.mixed[i] = h + weights.shift[i % width] * (before - h);
    }
    std::copy_n(work_.normed.data() + (rows - 1) * width, width, last);
    mixed = &work_.mixed;
  }
  if (back == 0) return *mixed;
  // Row r of this step; -1 is the newest of the steps before.
  const auto row_at = [&](std::ptrdiff_t r) {
    return r >= 0 ? mixed->data() + static_cast<std::size_t>(r) * width
                  : history.data() + static_cast<std::size_t>(-r - 1) * width;
  };
  work_.seen.resize(rows * (1 + back) * width);
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t i = 0; i <= back; ++i) {
      const auto from = static_cast<std::ptrdiff_t>(row) - static_cast<std::ptrdiff_t>(i);
      std::copy_n(row_at(from), width, work_.seen.data() + (row * (1 + back) + i) * width);
    }
  }
  for (std::size_t i = back; i-- > 0;) {  // from the oldest on: what is read has not been written yet
    const auto from = static_cast<std::ptrdiff_t>(rows) - 1 - static_cast<std::ptrdiff_t>(i);
    std::copy_n(row_at(from), width, history.data() + i * width);
  }
  return work_.seen;
}

void trained_model::append(const layer& weights, int index, std::size_t rows, trained_cache& cache) {
  const trained_config& c = config_;
  const floats& seen = seen_by_writer(weights, index, rows, cache);
  product(weights.stored, seen, rows, work_.stored);
  if (c.writer > 0) {
    net(weights.write_up, weights.write_down, seen, rows, work_.branch);
    add(work_.stored, work_.branch, pool_);
  }
  const std::size_t rotary = size(c.rotary), latent = size(c.latent), kv = size(c.kv_heads) * size(c.head_dim),
                    of_k = c.is_latent ? latent + rotary : kv, stored = weights.stored.outputs();
  work_.k.resize(rows * of_k);
  work_.v.resize(c.is_latent ? 0 : rows * kv);
  for (std::size_t row = 0; row < rows; ++row) {
    const int position = cache.length() + static_cast<int>(row);
    const float* from = work_.stored.data() + row * stored;
    float* k = work_.k.data() + row * of_k;
    if (c.is_latent) {
      rms_norm_row(from, weights.latent_norm, c.norm_epsilon, k);
      rms_norm_row(from + latent, weights.key_norm, c.norm_epsilon, k + latent);
      rotary_.rotate(k + latent, 1, rotary, position);
      if (c.bits < 16) std::transform(k, k + of_k, k, as_bf16);
    } else {
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

void trained_model::attend(const layer& weights, int index, std::size_t rows, trained_cache& cache) {
  const trained_config& c = config_;
  const std::size_t heads = size(c.query_heads), dim = size(c.head_dim), rotary = size(c.rotary),
                    latent = size(c.latent), wide = size(query_width()), row_width = latent + rotary;
  product(weights.query, work_.normed, rows, work_.query);
  rms_norm(work_.query.data(), rows * heads, weights.query_norm, c.norm_epsilon, work_.query.data(), pool_);
  for (std::size_t i = 0; i < rows * heads; ++i) {  // the last `rotary` channels of each head: all of them, or qr
    rotary_.rotate(work_.query.data() + (i + 1) * wide - rotary, 1, rotary,
                   cache.length() + static_cast<int>(i / heads));
  }
  work_.heads.resize(rows * heads * dim);
  const auto through_cache = [&](const floats& q, floats& out) {
    const stopwatch timer(seconds_.attend);
    cache.attend(index, q.data(), 1.0f / std::sqrt(static_cast<float>(wide)), out.data());
  };
  if (!c.is_latent) return through_cache(work_.query, work_.heads);

  const auto for_heads = [&](auto&& work) {
    const stopwatch timer(seconds_.products);
    pool_.split(heads, 1, [&](std::size_t begin, std::size_t end) {
      for (std::size_t h = begin; h < end; ++h) work(h);
    });
  };
  work_.absorbed.resize(rows * heads * row_width);
  work_.attended.resize(rows * heads * latent);
  for_heads([&](std::size_t h) {
    const float* q = work_.query.data() + h * wide;
    float* absorbed = work_.absorbed.data() + h * row_width;
    weights.up_key[h].multiply(q, heads * wide, rows, absorbed, heads * row_width);
    for (std::size_t row = 0; row < rows; ++row)
      std::copy_n(q + row * heads * wide + dim, rotary, absorbed + row * heads * row_width + latent);
  });
  through_cache(work_.absorbed, work_.attended);
  for_heads([&](std::size_t h) {
    weights.up_value[h].multiply(work_.attended.data() + h * latent, heads * latent, rows, work_.heads.data() + h * dim,
                                 heads * dim);
  });
}

void trained_model::feed_forward_block(const layer& weights, std::size_t rows) {
  rms_norm(work_.stream.data(), rows, weights.feed_forward_norm, config_.norm_epsilon, work_.normed.data(), pool_);
  net(weights.up, weights.down, work_.normed, rows, work_.branch);
  add(work_.stream, work_.branch, pool_);
}

void trained_model::net(const matrix& up, const matrix& down, const floats& x, std::size_t rows, floats& y) {
  product(up, x, rows, work_.up);
  const std::size_t inner = down.inputs();
  work_.inner.resize(rows * inner);
  for (std::size_t row = 0; row < rows; ++row) {
    const float* both = work_.up.data() + 2 * row * inner;
    std::copy_n(both, inner, work_.inner.data() + row * inner);
    swiglu(work_.inner.data() + row * inner, both + inner, inner, pool_);
  }
  product(down, work_.inner, rows, y);
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
