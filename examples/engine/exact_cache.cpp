// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "exact_cache.hpp"

#include <Eigen/Core>
#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <utility>

namespace engine {
namespace {

constexpr int block_rows = 64;  // query rows that are computed together: enough to make it a matrix product

using row_major = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using const_rows = Eigen::Map<const row_major, 0, Eigen::OuterStride<>>;
using rows_view = Eigen::Map<row_major, 0, Eigen::OuterStride<>>;

void require(bool holds, const char* what) {
  if (!holds) throw std::runtime_error(std::string("exact cache: ") + what);
}

}  // namespace

exact_cache::exact_cache(const attention_shape& shape, int context, int threads)
    : exact_cache(shape, context, std::make_unique<thread_pool>(threads), nullptr) {}

exact_cache::exact_cache(const attention_shape& shape, int context, thread_pool& pool)
    : exact_cache(shape, context, nullptr, &pool) {}

exact_cache::exact_cache(const attention_shape& shape, int context, std::unique_ptr<thread_pool> own, thread_pool* pool)
    : shape_(shape),
      context_(context),
      own_(std::move(own)),
      pool_(own_ ? *own_ : *pool),
      layers_(static_cast<std::size_t>(shape.layers)),
      scores_(static_cast<std::size_t>(pool_.threads())) {}

std::size_t exact_cache::values(int tokens) const {
  return static_cast<std::size_t>(tokens) * static_cast<std::size_t>(shape_.kv_heads * shape_.head_dim);
}

void exact_cache::reserve(int rows) {
  require(open_ == 0, "a step is already open");
  require(rows > 0 && rows <= context_ - length_, "the step does not fit into the context");
  open_ = rows;
}

void exact_cache::append(int layer, const float* k, const float* v) {
  layer_rows& rows = layers_.at(static_cast<std::size_t>(layer));
  require(open_ > 0, "append outside a step");
  require(rows.k.size() == values(length_), "a layer was appended twice in one step");
  rows.k.insert(rows.k.end(), k, k + values(open_));
  rows.v.insert(rows.v.end(), v, v + values(open_));
}

void exact_cache::attend(int layer, const float* q, float scale, float* out) {
  const layer_rows& rows = layers_.at(static_cast<std::size_t>(layer));
  require(open_ > 0, "attend outside a step");
  require(rows.k.size() == values(length_ + open_), "attend before append");

  // Blocks are dealt out like cards: later ones see more tokens and cost more.
  const int blocks = (open_ + block_rows - 1) / block_rows;
  const auto threads = static_cast<std::size_t>(pool_.threads());
  pool_.run([&](std::size_t thread) {
    const auto items = static_cast<std::size_t>(blocks) * static_cast<std::size_t>(shape_.query_heads);
    for (std::size_t item = thread; item < items; item += threads) {
      const int head = static_cast<int>(item % static_cast<std::size_t>(shape_.query_heads));
      const int begin = static_cast<int>(item / static_cast<std::size_t>(shape_.query_heads)) * block_rows;
      attend_block(rows, head, begin, std::min(begin + block_rows, open_), q, scale, out, scores_[thread]);
    }
  });
}

void exact_cache::attend_block(const layer_rows& rows, int head, int begin, int end, const float* q, float scale,
                               float* out, std::vector<float>& scores) const {
  const int dim = shape_.head_dim;
  const int tokens = length_ + end;  // the last row of the block sees so many
  const int kv_head = head / (shape_.query_heads / shape_.kv_heads);
  const Eigen::OuterStride<> q_stride(shape_.query_heads * dim), kv_stride(shape_.kv_heads * dim);
  const auto q_offset = static_cast<std::ptrdiff_t>(begin) * shape_.query_heads * dim + head * dim;

  const const_rows queries(q + q_offset, end - begin, dim, q_stride);               // [rows][head_dim]
  const const_rows keys(rows.k.data() + kv_head * dim, tokens, dim, kv_stride);     // [tokens][head_dim]
  const const_rows vectors(rows.v.data() + kv_head * dim, tokens, dim, kv_stride);  // [tokens][head_dim]
  rows_view result(out + q_offset, end - begin, dim, q_stride);                     // [rows][head_dim]

  // At the ends of a row Eigen takes another exp than in the middle, and where these are depends on the address: rows
  // begin at cache lines, so that the last bits do not change from run to run or from thread to thread.
  constexpr std::size_t line = 16;
  const std::size_t pitch = (static_cast<std::size_t>(tokens) + line - 1) / line * line;
  scores.resize(block_rows * pitch + line);
  const auto past_line = reinterpret_cast<std::uintptr_t>(scores.data()) / sizeof(float) % line;
  rows_view weights(scores.data() + (line - past_line) % line, end - begin, tokens,  // [rows][tokens]
                    Eigen::OuterStride<>(static_cast<Eigen::Index>(pitch)));
  weights.noalias() = queries * keys.transpose();
  for (int row = 0; row < end - begin; ++row) {
    const int visible = length_ + begin + row + 1;  // the tokens before it, and itself
    auto seen = weights.row(row).head(visible).array();
    seen = ((seen - seen.maxCoeff()) * scale).exp();
    seen /= seen.sum();
    weights.row(row).tail(tokens - visible).setZero();
  }
  result.noalias() = weights * vectors;
}

void exact_cache::keep(int tokens) {
  for (layer_rows& rows : layers_) {
    for (auto* buffer : {&rows.k, &rows.v}) buffer->resize(std::min(buffer->size(), values(tokens)));
  }
  length_ = tokens;
  open_ = 0;
}

void exact_cache::commit(int rows) {
  require(open_ > 0 && rows >= 0 && rows <= open_, "commit of rows that were not reserved");
  for (int layer = 0; layer < shape_.layers; ++layer) {
    const bool was_appended = layers_[static_cast<std::size_t>(layer)].k.size() == values(length_ + open_);
    require(was_appended || !writes(layer), "a layer was not appended");
  }
  keep(length_ + rows);
}

void exact_cache::truncate(int length) {
  require(open_ == 0, "truncate inside a step");
  require(length >= 0 && length <= length_, "truncate to more than there is");
  keep(length);
}

cache_bytes exact_cache::bytes() const {
  cache_bytes out;
  for (const layer_rows& rows : layers_) out.pages += (rows.k.capacity() + rows.v.capacity()) * sizeof(float);
  for (const auto& scores : scores_) out.workspace += scores.capacity() * sizeof(float);
  return out;
}

}  // namespace engine
