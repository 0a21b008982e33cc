// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "attention_cache.hpp"
#include "thread_pool.hpp"

namespace engine {

/// All keys and values as they come, in fp32, and attention as it is defined: scores, maximum, exponentials, sum, mean.
/// Shares no code with kvc, so that it can tell whether kvc's own caches are right.
class exact_cache : public attention_cache {
 public:
  /// `context`: the most tokens that the cache will be asked to hold.
  exact_cache(const attention_shape& shape, int context, int threads);
  /// With threads that others use too.
  exact_cache(const attention_shape& shape, int context, thread_pool& pool);

  void reserve(int rows) override;
  bool writes(int) const override { return true; }
  bool keys_before_rotary() const override { return false; }
  void append(int layer, const float* k, const float* v) override;
  void attend(int layer, const float* q, float scale, float* out) override;
  void commit(int rows) override;
  void truncate(int length) override;
  int length() const override { return length_; }
  int max_step_rows() const override { return context_; }
  cache_bytes bytes() const override;
  std::string name() const override { return "exact"; }

 private:
  exact_cache(const attention_shape& shape, int context, std::unique_ptr<thread_pool> own, thread_pool* pool);

  struct layer_rows {
    std::vector<float> k, v;  // [tokens][kv_heads][head_dim], the open step's included
  };

  /// Rows [begin, end) of the open step, for one query head. scores: space for [end - begin][tokens].
  void attend_block(const layer_rows& rows, int head, int begin, int end, const float* q, float scale, float* out,
                    std::vector<float>& scores) const;
  std::size_t values(int tokens) const;  // of k or v
  void keep(int tokens);

  attention_shape shape_;
  int context_;
  std::unique_ptr<thread_pool> own_;
  thread_pool& pool_;
  std::vector<layer_rows> layers_;
  std::vector<std::vector<float>> scores_;  // one per thread
  int length_ = 0;                          // tokens committed
  int open_ = 0;                            // rows of the open step
};

}  // namespace engine
