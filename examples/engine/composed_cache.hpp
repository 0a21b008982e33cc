// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "composition_setup.hpp"
#include "compositions.hpp"

namespace engine {

/// The engine's threads, as kvc's caches take them.
inline kvc::host::lent_threads lend(thread_pool& pool) {
  const auto run = [](void* self, kvc::host::lent_threads::call_type call, const void* f) {
    auto& threads = *static_cast<thread_pool*>(self);
    threads.run([&](std::size_t i) { call(f, {static_cast<int>(i), threads.threads()}); });
  };
  return {pool.threads(), &pool, run};
}

/// A kvc composition as the engine's cache of one sequence. Of latents there is one row for all heads, handed over as
/// k.
template <class Spec, class Base = attention_cache>
class composed_cache : public Base {
 public:
  composed_cache(std::string name, const attention_shape& shape, const cache_options& options)
      : name_(std::move(name)),
        cos_sin_(interleave(options.rotary)),
        cache_(memory(options), extents_of<Spec>(shape, options), constants_of<Spec>(name_, shape, options).get(),
               options.pool == nullptr ? kvc::host::lent_threads() : lend(*options.pool)) {
    sequence_ = cache_.add_sequence();
    params_.fp32_products = options.fp32_products;
    if (options.rotary != nullptr) {
      params_.rotary = {cos_sin_.data(), options.rotary->positions(), options.rotary->pairs()};
    }
  }

  void reserve(int rows) override { cache_.reserve(sequence_, rows); }
  bool writes(int layer) const override { return cache_.model().writes(layer); }
  bool keys_before_rotary() const override { return Spec::first_stream::is_deferred; }
  void append(int layer, const float* k, const float* v) override {
    if constexpr (Spec::is_latent) {
      cache_.append(layer, k);
    } else {
      cache_.append(layer, k, v);
    }
  }
  void attend(int layer, const float* q, float scale, float* out) override {
    params_.scale = scale;
    cache_.attend(layer, q, out, nullptr, params_);
  }
  void commit(int rows) override { cache_.commit(static_cast<kvc::int64>(rows)); }
  void truncate(int length) override { cache_.truncate(sequence_, length); }
  int length() const override { return static_cast<int>(cache_.length(sequence_)); }
  int max_step_rows() const override { return step_rows; }
  cache_bytes bytes() const override {
    const kvc::host::memory_usage m = cache_.memory();
    return {static_cast<std::size_t>(m.pages_in_use), static_cast<std::size_t>(m.tails),
            static_cast<std::size_t>(m.staging + m.workspace)};
  }
  std::string name() const override { return name_; }

 private:
  static constexpr int step_rows = 256;

  static kvc::host::cache_options memory(const cache_options& o) {
    return {.capacity = std::max(1, o.context), .max_sequences = 1, .max_step_rows = step_rows, .threads = o.threads};
  }

  std::string name_;
  std::vector<float> cos_sin_;
  kvc::host::cache<Spec> cache_;
  kvc::attend_params params_;
  int sequence_ = 0;
};

/// A composition of one group of compositions<D> by its name; null where there is none.
template <int D, int Group>
std::unique_ptr<attention_cache> make_composed(std::string_view name, const attention_shape& shape,
                                               const cache_options& options) {
  std::unique_ptr<attention_cache> made;
  compositions<D>::template for_group<Group>([&]<class Spec>(const char* candidate, const char*) {
    if (name == candidate) made = std::make_unique<composed_cache<Spec>>(candidate, shape, options);
  });
  return made;
}

}  // namespace engine
