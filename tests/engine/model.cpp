// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// link: kvc_engine_model
#include "model.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "exact_cache.hpp"
#include "generate.hpp"
#include "tiny_model.hpp"

using namespace engine;
using namespace engine_test;

namespace {

using row = std::vector<double>;

/// The same model written as its formulas, in double precision, token by token, one loop at a time.
class reference_model {
 public:
  explicit reference_model(const tiny_model& m) : m_(m), keys_(size(m.layers)), values_(size(m.layers)) {}

  /// The logits after one more token.
  row forward(token id) {
    row x(size(m_.width));
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = m_.weights.at("token_embd.weight")[size(id) * x.size() + i];
    for (int l = 0; l < m_.layers; ++l) {
      const std::string block = "blk." + std::to_string(l) + ".";
      const row n = norm(x, block + "attn_norm.weight");
      add(x, times(block + "attn_output.weight", attention(l, n, block)));
      const row f = norm(x, block + "ffn_norm.weight");
      row g = times(block + "ffn_gate.weight", f);
      const row u = times(block + "ffn_up.weight", f);
      for (std::size_t i = 0; i < g.size(); ++i) g[i] = g[i] / (1 + std::exp(-g[i])) * u[i];
      add(x, times(block + "ffn_down.weight", g));
    }
    ++position_;
    return times(m_.tied ? "token_embd.weight" : "output.weight", norm(x, "output_norm.weight"));
  }

 private:
  static std::size_t size(int n) { return static_cast<std::size_t>(n); }
  static void add(row& to, const row& from) {
    for (std::size_t i = 0; i < to.size(); ++i) to[i] += from[i];
  }

  row times(const std::string& name, const row& x) const {
    const auto& w = m_.weights.at(name);
    row y(w.size() / x.size(), 0.0);
    for (std::size_t i = 0; i < y.size(); ++i) {
      for (std::size_t j = 0; j < x.size(); ++j) y[i] += w[i * x.size() + j] * x[j];
    }
    return y;
  }

  row norm(const row& x, const std::string& name) const {
    const double mean = std::inner_product(x.begin(), x.end(), x.begin(), 0.0) / static_cast<double>(x.size());
    row y(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) {
      y[i] = x[i] / std::sqrt(mean + m_.epsilon) * m_.weights.at(name)[i];
    }
    return y;
  }

  void rotate(row& heads) const {
    const std::size_t dim = size(m_.head_dim);
    for (std::size_t h = 0; h < heads.size(); h += dim) {
      for (std::size_t i = 0; i < size(m_.rotary_dims) / 2; ++i) {
        double angle = position_ * std::pow(double{m_.rotary_base}, -2.0 * static_cast<double>(i) / m_.rotary_dims);
        if (m_.rotary_factors) angle /= m_.weights.at("rope_freqs.weight")[i];
        const double a = heads[h + 2 * i], b = heads[h + 2 * i + 1];
        heads[h + 2 * i] = a * std::cos(angle) - b * std::sin(angle);
        heads[h + 2 * i + 1] = a * std::sin(angle) + b * std::cos(angle);
      }
    }
  }

  row attention(int l, const row& x, const std::string& block) {
    row q = times(block + "attn_q.weight", x), k = times(block + "attn_k.weight", x);
    rotate(q);
    rotate(k);
    auto& keys = keys_[size(l)];
    auto& values = values_[size(l)];
    keys.push_back(k);
    values.push_back(times(block + "attn_v.weight", x));

    const std::size_t dim = size(m_.head_dim);
    row out(q.size(), 0.0);
    for (int h = 0; h < m_.query_heads; ++h) {
      const std::size_t at = size(h) * dim, kv = size(h / (m_.query_heads / m_.kv_heads)) * dim;
      row weights(keys.size());
      double sum = 0;
      for (std::size_t t = 0; t < keys.size(); ++t) {
        double score = 0;
        for (std::size_t i = 0; i < dim; ++i) score += q[at + i] * keys[t][kv + i];
        sum += weights[t] = std::exp(score / std::sqrt(static_cast<double>(dim)));
      }
      for (std::size_t t = 0; t < keys.size(); ++t) {
        for (std::size_t i = 0; i < dim; ++i) out[at + i] += weights[t] / sum * values[t][kv + i];
      }
    }
    return out;
  }

  const tiny_model& m_;
  int position_ = 0;
  std::vector<std::vector<row>> keys_, values_;  // [layers][tokens][kv_heads * head_dim]
};

/// Passes everything on to an exact cache, but wants its keys before rotary, and turns them itself.
class deferring_cache : public exact_cache {
 public:
  deferring_cache(const attention_shape& shape, int context, const rotary_table& rotary)
      : exact_cache(shape, context, 1), shape_(shape), rotary_(rotary) {}
  void reserve(int rows) override {
    rows_ = rows;
    exact_cache::reserve(rows);
  }
  bool keys_before_rotary() const override { return true; }
  void append(int layer, const float* k, const float* v) override {
    const std::size_t heads = static_cast<std::size_t>(shape_.kv_heads),
                      dim = static_cast<std::size_t>(shape_.head_dim);
    std::vector<float> turned(k, k + static_cast<std::size_t>(rows_) * heads * dim);
    for (int i = 0; i < rows_; ++i) {
      rotary_.rotate(turned.data() + static_cast<std::size_t>(i) * heads * dim, heads, dim, length() + i);
    }
    exact_cache::append(layer, turned.data(), v);
  }

 private:
  attention_shape shape_;
  const rotary_table& rotary_;
  int rows_ = 0;
};

/// Every layer reads what the first one wrote; takes four rows a step.
class sharing_cache : public exact_cache {
 public:
  sharing_cache(attention_shape shape, int context) : exact_cache(one_layer(shape), context, 1) {}
  bool writes(int layer) const override { return layer == 0; }
  int max_step_rows() const override { return 4; }
  void append(int layer, const float* k, const float* v) override {
    appended.push_back(layer);
    exact_cache::append(layer, k, v);
  }
  void attend(int layer, const float* q, float scale, float* out) override {
    attended.push_back(layer);
    exact_cache::attend(0, q, scale, out);
  }
  std::vector<int> appended, attended;

 private:
  static attention_shape one_layer(attention_shape shape) {
    shape.layers = 1;
    return shape;
  }
};

std::vector<token> some_tokens(int count, int vocabulary) {
  std::vector<token> out;
  for (int i = 0; i < count; ++i) out.push_back((i * i * 7 + 3 * i + 1) % vocabulary);
  return out;
}

/// Every row's logits when the tokens are fed in steps of `step`.
std::vector<float> logits_in_steps(model& transformer, attention_cache& cache, const std::vector<token>& tokens,
                                   int step) {
  std::vector<float> out;
  feed(transformer, cache, tokens, step,
       [&](std::size_t, std::span<const float> logits) { out.insert(out.end(), logits.begin(), logits.end()); });
  return out;
}

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  double out = 0;
  for (std::size_t i = 0; i < a.size(); ++i) out = std::max(out, std::abs(double{a[i]} - double{b[i]}));
  return out;
}

// Logits here are of order 1 to 10: fp32 arithmetic in another order stays well below this, a wrong term well above.
constexpr double tolerance = 1e-4;

}  // namespace

TEST_CASE("the model computes the formulas, for every variant that files can ask for") {
  struct variant {
    const char* what;
    std::function<void(tiny_model&)> change;
  };
  const std::vector<variant> variants = {
      {"plain", [](tiny_model&) {}},
      {"an output of its own", [](tiny_model& m) { m.tied = false; }},
      {"half of each head rotated", [](tiny_model& m) { m.rotary_dims = 32; }},
      {"rotary factors", [](tiny_model& m) { m.rotary_factors = true; }},
      {"one key/value head", [](tiny_model& m) { m.kv_heads = 1; }},
      {"as many key/value heads as query heads", [](tiny_model& m) { m.kv_heads = 4; }},
      {"heads of 80", [](tiny_model& m) { m.head_dim = m.rotary_dims = 80; }},
      {"heads of 96", [](tiny_model& m) { m.head_dim = m.rotary_dims = 96; }},
      {"heads of 128", [](tiny_model& m) { m.head_dim = m.rotary_dims = 128; }},
      {"heads of 256", [](tiny_model& m) { m.head_dim = m.rotary_dims = 256; }},
  };
  for (const auto& [what, change] : variants) {
    CAPTURE(what);
    tiny_model tiny;
    change(tiny);
    tiny.draw(1);
    const bytes data = tiny.file();
    const auto file = gguf_file::parse(data);
    model transformer(file, {.threads = 2});
    exact_cache cache(transformer.config().attention(), tiny.context, 2);

    const auto tokens = some_tokens(20, tiny.vocabulary);
    const auto got = logits_in_steps(transformer, cache, tokens, 20);
    reference_model reference(tiny);
    std::vector<float> wanted;
    for (const token id : tokens) {
      for (const double logit : reference.forward(id)) wanted.push_back(static_cast<float>(logit));
    }
    CHECK(largest_difference(got, wanted) < tolerance);
  }
}

TEST_CASE("a prompt in one step is the prompt token by token") {
  tiny_model tiny;
  tiny.draw(2);
  const bytes data = tiny.file();
  const auto file = gguf_file::parse(data);
  const auto tokens = some_tokens(33, tiny.vocabulary);
  for (const int threads : {1, 3}) {
    model transformer(file, {.threads = threads});
    exact_cache whole(transformer.config().attention(), tiny.context, threads);
    const auto at_once = logits_in_steps(transformer, whole, tokens, 33);
    for (const int step : {1, 5, 32}) {
      CAPTURE(step);
      exact_cache cache(transformer.config().attention(), tiny.context, threads);
      CHECK(largest_difference(logits_in_steps(transformer, cache, tokens, step), at_once) < tolerance);
      CHECK(cache.length() == 33);
    }
  }
}

TEST_CASE("only the rows that are wanted are projected") {
  tiny_model tiny;
  tiny.draw(3);
  const bytes data = tiny.file();
  model transformer(gguf_file::parse(data), {});
  const auto tokens = some_tokens(6, tiny.vocabulary);
  const auto vocabulary = static_cast<std::size_t>(tiny.vocabulary);

  exact_cache all(transformer.config().attention(), tiny.context, 1);
  const auto logits = transformer.forward(tokens, all, logits_wanted::all_rows);
  REQUIRE(logits.size() == 6 * vocabulary);
  const std::vector<float> last(logits.end() - tiny.vocabulary, logits.end());

  exact_cache one(transformer.config().attention(), tiny.context, 1);
  const auto last_row = transformer.forward(tokens, one, logits_wanted::last_row);
  CHECK(largest_difference({last_row.begin(), last_row.end()}, last) < tolerance);

  exact_cache none(transformer.config().attention(), tiny.context, 1);
  CHECK(transformer.forward(tokens, none, logits_wanted::none).empty());
  CHECK(none.length() == 6);
}

TEST_CASE("a cache that asks for keys before rotary gets them") {
  tiny_model tiny;
  tiny.draw(4);
  const bytes data = tiny.file();
  model transformer(gguf_file::parse(data), {});
  const auto tokens = some_tokens(12, tiny.vocabulary);
  exact_cache after(transformer.config().attention(), tiny.context, 1);
  deferring_cache before(transformer.config().attention(), tiny.context, transformer.rotary());
  CHECK(logits_in_steps(transformer, before, tokens, 5) == logits_in_steps(transformer, after, tokens, 5));
}

TEST_CASE("a layer that only reads does not append, and long prompts take several steps") {
  tiny_model tiny;
  tiny.layers = 3;
  tiny.draw(5);
  const bytes data = tiny.file();
  model transformer(gguf_file::parse(data), {});
  sharing_cache cache(transformer.config().attention(), tiny.context);
  const auto tokens = some_tokens(9, tiny.vocabulary);
  CHECK(prefill(transformer, cache, tokens).size() == static_cast<std::size_t>(tiny.vocabulary));
  CHECK(cache.length() == 9);
  CHECK(cache.appended == std::vector<int>{0, 0, 0});
  CHECK(cache.attended == std::vector<int>{0, 1, 2, 0, 1, 2, 0, 1, 2});
}

TEST_CASE("wrong steps are refused") {
  tiny_model tiny;
  tiny.draw(6);
  const bytes data = tiny.file();
  model transformer(gguf_file::parse(data), {.threads = 1, .context = 8});
  exact_cache cache(transformer.config().attention(), 8, 1);
  sharing_cache narrow(transformer.config().attention(), 8);
  const auto step = [&](const std::vector<token>& tokens, attention_cache& to) {
    return refusal([&] { transformer.forward(tokens, to, logits_wanted::none); });
  };
  CHECK(step({}, cache) == "a step without tokens");
  CHECK(step({0, tiny.vocabulary}, cache) == "token 23 is outside the model's vocabulary of 23");
  CHECK(step({-1}, cache) == "token -1 is outside the model's vocabulary of 23");
  CHECK(step({1, 2, 3, 4, 5}, narrow).find("a step of 5 tokens, where the cache") == 0);
  CHECK(step(some_tokens(5, 23), cache).empty());
  CHECK(step(some_tokens(4, 23), cache) == "position 8 is outside the context of 8 tokens");
  CHECK(refusal([&] { prefill(transformer, cache, {}); }) == "the prompt is empty");
}

TEST_CASE("the phases of a step are timed") {
  tiny_model tiny;
  tiny.draw(7);
  const bytes data = tiny.file();
  model transformer(gguf_file::parse(data), {});
  exact_cache cache(transformer.config().attention(), tiny.context, 1);
  transformer.forward(some_tokens(20, tiny.vocabulary), cache, logits_wanted::all_rows);
  const phase_seconds& seconds = transformer.seconds();
  CHECK(seconds.products > 0);
  CHECK(seconds.append > 0);
  CHECK(seconds.attend > 0);
  CHECK(seconds.rest > 0);
  transformer.reset_seconds();
  CHECK(seconds.total() == 0);
}

TEST_CASE("a file that is no such model is refused by a sentence that says why") {
  struct corruption {
    std::string sentence;
    std::function<void(tiny_model&)> change;      // of the numbers
    std::function<void(gguf_builder&)> add = {};  // to the metadata or the tensors
  };
  const auto nothing = [](tiny_model&) {};
  const std::vector<corruption> corruptions = {
      {"the head dimension 32 is not served (served: 64, 80, 96, 128, 256)",
       [](tiny_model& m) { m.head_dim = m.rotary_dims = 32; }},
      {"4 query heads are no multiple of 3 key/value heads", [](tiny_model& m) { m.kv_heads = 3; }},
      {"'llama.rope.dimension_count' is 80, outside 1 to 64", [](tiny_model& m) { m.rotary_dims = 80; }},
      {"llama.rope.dimension_count is odd", [](tiny_model& m) { m.rotary_dims = 7; }},
      {"llama.rope.freq_base is no positive number", [](tiny_model& m) { m.rotary_base = 0; }},
      {"llama.attention.layer_norm_rms_epsilon is not between 0 and 1", [](tiny_model& m) { m.epsilon = -1; }},
      {"'llama.context_length' is 0, outside", [](tiny_model& m) { m.context = 0; }},
      {"tensor 'token_embd.weight' is missing", [](tiny_model& m) { m.weights.erase("token_embd.weight"); }},
      {"tensor 'blk.1.ffn_up.weight' is missing", [](tiny_model& m) { m.weights.erase("blk.1.ffn_up.weight"); }},
      {"tensor 'blk.0.attn_k.weight' has shape [48][128] where the model needs [128][48]",
       [](tiny_model& m) { std::swap(m.shapes["blk.0.attn_k.weight"][0], m.shapes["blk.0.attn_k.weight"][1]); }},
      {"tensor 'rope_freqs.weight' has shape [16] where the model needs [32]",
       [](tiny_model& m) {
         m.weights["rope_freqs.weight"].resize(16, 1.0f);
         m.shapes["rope_freqs.weight"] = {16};
       }},
      {"a rotary factor is no positive number",
       [](tiny_model& m) {
         m.weights["rope_freqs.weight"].resize(32, 0.0f);
         m.shapes["rope_freqs.weight"] = {32};
       }},
      {"tensor 'blk.0.attn_q.bias' is none that the engine knows how to use",
       [](tiny_model& m) {
         m.weights["blk.0.attn_q.bias"].resize(256);
         m.shapes["blk.0.attn_q.bias"] = {256};
       }},
      {"rotary scaling 'yarn' is not served (served: none, linear)", nothing,
       [](gguf_builder& b) { b.text("llama.rope.scaling.type", "yarn"); }},
      {"'llama.rope.scaling.factor' is missing", nothing,
       [](gguf_builder& b) { b.text("llama.rope.scaling.type", "linear"); }},
      {"mixtures of experts are not served", nothing, [](gguf_builder& b) { b.u32("llama.expert_count", 8); }},
  };
  for (const auto& [sentence, change, add] : corruptions) {
    tiny_model tiny;
    tiny.draw(8);
    change(tiny);
    gguf_builder builder = tiny.metadata();
    if (add) add(builder);
    tiny.add_tensors(builder);
    const bytes data = builder.build();
    const auto file = gguf_file::parse(data);
    const std::string said = refusal([&] { model(file, {}); });
    CAPTURE(sentence);
    CAPTURE(said);
    CHECK(said.find(sentence) != std::string::npos);
  }

  const bytes other = gguf_builder().text("general.architecture", "qwen2").build();
  CHECK(refusal([&] { model(gguf_file::parse(other), {}); }) ==
        "model: the architecture 'qwen2' is not served (served: llama)");
}

TEST_CASE("linear rotary scaling compresses positions") {
  tiny_model tiny;
  tiny.draw(9);
  gguf_builder builder = tiny.metadata();
  builder.text("llama.rope.scaling.type", "linear").f32("llama.rope.scaling.factor", 4.0f);
  tiny.add_tensors(builder);
  const bytes data = builder.build(), plain = tiny.file();
  const auto scaled = read_model_config(gguf_file::parse(data)).rotary_frequencies;
  const auto unscaled = read_model_config(gguf_file::parse(plain)).rotary_frequencies;
  REQUIRE(scaled.size() == unscaled.size());
  for (std::size_t i = 0; i < scaled.size(); ++i) CHECK(scaled[i] == doctest::Approx(unscaled[i] / 4));
}
