// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <span>
#include <stdexcept>
#include <string_view>
#include <utility>
#include <vector>

#include "attention_cache.hpp"
#include "caches.hpp"
#include "trained_config.hpp"

namespace engine {

/// The cache of one sequence of a trained model. In latent blocks append takes k = [rows][latent | rotary key] and no
/// v, attend takes q = [rows][query_heads][latent | rotary], absorbed, and gives [rows][query_heads][latent].
class trained_cache : public attention_cache {
 public:
  /// [history][width]: what the writer in `layer` keeps of the tokens before, zeros where there are none. It is as long
  /// as the model looks back, however long the sequence is.
  virtual std::span<float> history(int layer) = 0;
};

/// Base, a cache of rows, with the writers' history beside it.
template <class Base>
class with_history : public Base {
 public:
  template <class... Arguments>
  explicit with_history(const trained_config& config, Arguments&&... arguments)
      : Base(std::forward<Arguments>(arguments)...),
        of_layer_(static_cast<std::size_t>(config.history()) * static_cast<std::size_t>(config.width)) {
    history_.resize(of_layer_ * static_cast<std::size_t>(config.layers));
  }

  std::span<float> history(int layer) override {
    return std::span(history_).subspan(static_cast<std::size_t>(layer) * of_layer_, of_layer_);
  }

  void truncate(int length) override {
    if (of_layer_ != 0 && length != 0 && length != this->length()) {
      throw std::runtime_error("a model that looks back cannot be taken back to the middle of its sequence");
    }
    Base::truncate(length);
    if (length == 0) std::fill(history_.begin(), history_.end(), 0.0f);
  }

  cache_bytes bytes() const override {
    cache_bytes out = Base::bytes();
    out.tail += history_.size() * sizeof(float);
    return out;
  }

 private:
  std::size_t of_layer_;
  std::vector<float> history_;  // [layers][history][width]
};

/// A cache of list_trained_caches() by its name. Throws std::invalid_argument where there is none, or none for rows of
/// this width.
std::unique_ptr<trained_cache> make_trained_cache(std::string_view name, const trained_config& config,
                                                  const cache_options& options);

}  // namespace engine
