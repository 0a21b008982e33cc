// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cstddef>
#include <string>

namespace engine {

/// What a cache must know of the model that it serves.
struct attention_shape {
  int layers = 0;
  int query_heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
};

/// Where the bytes of one sequence went, as allocated.
struct cache_bytes {
  std::size_t pages = 0;      ///< sealed rows with all their metadata
  std::size_t tail = 0;       ///< exact rows: open groups, first and newest rows
  std::size_t workspace = 0;  ///< shared by all sequences, reused by every step
};

/// The key/value cache of one sequence as the model sees it. Every kvc composition is wrapped into one of these
/// (caches.cpp), so that the transformer is compiled once. A step is: reserve, then per layer append and attend,
/// then commit. All rows are fp32 and contiguous. Errors are exceptions.
class attention_cache {
 public:
  virtual ~attention_cache() = default;

  /// Opens a step of `rows` new tokens at positions length() .. length() + rows - 1.
  virtual void reserve(int rows) = 0;

  /// Whether `layer` stores rows of its own; a follower of a shared slot does not, and must not append.
  virtual bool writes(int layer) const = 0;

  /// True where keys are stored before their rotary embedding: append then takes unrotated keys.
  virtual bool keys_before_rotary() const = 0;

  /// k, v: [rows][kv_heads][head_dim].
  virtual void append(int layer, const float* k, const float* v) = 0;

  /// q: [rows][query_heads][head_dim], rotated; out: same shape. Row i sees the tokens up to its own.
  virtual void attend(int layer, const float* q, float scale, float* out) = 0;

  /// Makes the first `rows` rows of the step visible and closes it.
  virtual void commit(int rows) = 0;

  /// Forgets everything from position `length` on.
  virtual void truncate(int length) = 0;

  virtual int length() const = 0;

  /// The most rows that one step may hold.
  virtual int max_step_rows() const = 0;

  virtual cache_bytes bytes() const = 0;
  virtual std::string name() const = 0;
};

}  // namespace engine
