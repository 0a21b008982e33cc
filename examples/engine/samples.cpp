// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "samples.hpp"

#include <algorithm>
#include <cmath>

#include "exact_cache.hpp"
#include "generate.hpp"
#include "kvc/calibrate/layer_similarity.hpp"
#include "sample_data.hpp"

namespace engine {
namespace {

/// An exact cache that watches: every row and query that passes goes into the moments.
class watching_cache : public exact_cache {
 public:
  watching_cache(const attention_shape& shape, const rotary_table& rotary, int context, thread_pool& pool,
                 sample_data& data)
      : exact_cache(shape, context, pool), shape_(shape), rotary_(rotary), pool_(pool), data_(data) {
    rows_.resize(static_cast<std::size_t>(shape.layers));
  }

  bool keys_before_rotary() const override { return true; }
  void reserve(int rows) override {
    exact_cache::reserve(rows);
    open_ = rows;
  }

  void append(int layer, const float* k, const float* v) override {
    const std::size_t kv_heads = static_cast<std::size_t>(shape_.kv_heads);
    const std::size_t d = static_cast<std::size_t>(shape_.head_dim);
    rotated_.assign(k, k + static_cast<std::size_t>(open_) * kv_heads * d);
    for (int r = 0; r < open_; ++r) {
      rotary_.rotate(rotated_.data() + static_cast<std::size_t>(r) * kv_heads * d, kv_heads, d, length() + r);
    }
    const std::size_t skipped = static_cast<std::size_t>(std::clamp(skipped_rows - length(), 0, open_));
    pool_.split(kv_heads, 1, [&](std::size_t begin, std::size_t end) {
      for (std::size_t h = begin; h < end; ++h) {
        head_moments& m = data_.heads[static_cast<std::size_t>(layer) * kv_heads + h];
        const std::size_t first = (skipped * kv_heads + h) * d;
        const kvc::int64 count = open_ - static_cast<int>(skipped), pitch = static_cast<kvc::int64>(kv_heads * d);
        m.keys_before.add(k + first, count, pitch);
        m.keys_after.add(rotated_.data() + first, count, pitch);
        m.values.add(v + first, count, pitch);
      }
    });
    std::vector<float>& rows = rows_[static_cast<std::size_t>(layer)];
    rows.insert(rows.end(), rotated_.begin(), rotated_.end());
    rows.insert(rows.end(), v, v + rotated_.size());
    exact_cache::append(layer, rotated_.data(), v);
  }

  void attend(int layer, const float* q, float scale, float* out) override {
    const int group = shape_.query_heads / shape_.kv_heads;
    pool_.split(static_cast<std::size_t>(shape_.kv_heads), 1, [&](std::size_t begin, std::size_t end) {
      for (int h = static_cast<int>(begin) * group; h < static_cast<int>(end) * group; ++h) {
        const auto at = static_cast<std::size_t>(layer * shape_.kv_heads + h / group);
        data_.heads[at].queries.add(q + h * shape_.head_dim, open_, shape_.query_heads * shape_.head_dim);
      }
    });
    exact_cache::attend(layer, q, scale, out);
  }

  /// All rows of a layer, [rows][head_dim].
  Eigen::MatrixXf rows_of(int layer) const {
    const std::vector<float>& rows = rows_[static_cast<std::size_t>(layer)];
    return Eigen::Map<const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>(
        rows.data(), static_cast<Eigen::Index>(rows.size()) / shape_.head_dim, shape_.head_dim);
  }

 private:
  static constexpr int skipped_rows = 4;  // the first tokens are outliers, and are kept exactly by what is calibrated

  attention_shape shape_;
  const rotary_table& rotary_;
  thread_pool& pool_;
  sample_data& data_;
  std::vector<float> rotated_;
  std::vector<std::vector<float>> rows_;
  int open_ = 0;
};

/// An exact cache in which some layers read another layer's rows.
class following_cache : public exact_cache {
 public:
  following_cache(const attention_shape& shape, int context, thread_pool& pool, std::span<const kvc::int32> leaders)
      : exact_cache(shape, context, pool), leaders_(leaders) {}
  bool writes(int layer) const override { return leaders_[static_cast<std::size_t>(layer)] == layer; }
  void attend(int layer, const float* q, float scale, float* out) override {
    exact_cache::attend(leaders_[static_cast<std::size_t>(layer)], q, scale, out);
  }

 private:
  std::span<const kvc::int32> leaders_;
};

double cosine(std::span<const float> a, std::span<const float> b) {
  double ab = 0, aa = 0, bb = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    ab += static_cast<double>(a[i]) * b[i];
    aa += static_cast<double>(a[i]) * a[i];
    bb += static_cast<double>(b[i]) * b[i];
  }
  return ab / std::sqrt(std::max(aa * bb, 1e-300));
}

/// Layers that differ most share, as long as the model's output on a short text keeps its direction (KVSharer; the
/// logits stand for the last hidden state).
std::vector<kvc::int32> find_leaders(model& transformer, std::span<const token> text, const watching_cache& seen) {
  constexpr double least_cosine = 0.5;
  const attention_shape shape = transformer.config().attention();
  std::vector<Eigen::MatrixXf> rows;
  for (int l = 0; l < shape.layers; ++l) rows.push_back(seen.rows_of(l));
  exact_cache exact(shape, static_cast<int>(text.size()), transformer.pool());
  const auto of_exact = transformer.forward(text, exact, logits_wanted::all_rows);
  const std::vector<float> wanted(of_exact.begin(), of_exact.end());
  return kvc::calibrate::share_layers(
      kvc::calibrate::layers_by_distance(rows), shape.layers, std::max(1, shape.layers / 8),
      [&](const std::vector<kvc::int32>& leaders) {
        following_cache cache(shape, static_cast<int>(text.size()), transformer.pool(), leaders);
        return cosine(wanted, transformer.forward(text, cache, logits_wanted::all_rows)) > least_cosine;
      });
}

}  // namespace

samples::samples(model& transformer, std::span<const token> text)
    : data_(std::make_unique<sample_data>()), tokens_(static_cast<int>(text.size())) {
  const attention_shape shape = transformer.config().attention();
  data_->kv_heads = shape.kv_heads;
  data_->heads.assign(static_cast<std::size_t>(shape.layers * shape.kv_heads), head_moments(shape.head_dim));
  {
    watching_cache all(shape, transformer.rotary(), tokens_, transformer.pool(), *data_);
    prefill(transformer, all, text);
  }
  sample_data ignored = *data_;
  const std::span<const token> start = text.first(std::min<std::size_t>(text.size(), 64));
  watching_cache few(shape, transformer.rotary(), static_cast<int>(start.size()), transformer.pool(), ignored);
  prefill(transformer, few, start);
  data_->leaders = find_leaders(transformer, start, few);
}

samples::~samples() = default;

}  // namespace engine
