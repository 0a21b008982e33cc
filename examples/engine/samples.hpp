// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "model.hpp"

namespace engine {

struct sample_data;  // moments of rows and queries, per layer and KV head (sample_data.hpp)

/// What calibrated caches are fitted to: a model's own keys, values and queries on some text, and a layer map found on
/// it. Made once per model and text.
class samples {
 public:
  samples(model& transformer, std::span<const token> text);
  ~samples();
  samples(const samples&) = delete;
  samples& operator=(const samples&) = delete;

  const sample_data& data() const { return *data_; }
  /// Tokens that were read.
  int tokens() const { return tokens_; }

 private:
  std::unique_ptr<sample_data> data_;
  int tokens_ = 0;
};

}  // namespace engine
