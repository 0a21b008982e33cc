// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <cuda_runtime.h>

#include <memory>
#include <string>
#include <utility>

#include "device.hpp"
#include "kvc/cuda.cuh"
#include "trained_cache.hpp"
#include "trained_formats.hpp"

namespace engine {
namespace {

/// Rows of a step that lie in the GPU's memory while the cache works on them.
class travelling_rows {
 public:
  explicit travelling_rows(cudaStream_t stream) : stream_(stream) {}

  float* room_for(std::size_t count) {
    const auto bytes = static_cast<kvc::int64>(count * sizeof(float));
    if (bytes > memory_.size()) memory_ = kvc::cuda::device_buffer(bytes, stream_);
    return reinterpret_cast<float*>(memory_.data());
  }
  float* bring(const float* from, std::size_t count) {
    float* to = room_for(count);
    copy(to, from, count, cudaMemcpyHostToDevice);
    return to;
  }
  void fetch(float* to, std::size_t count) {
    copy(to, room_for(count), count, cudaMemcpyDeviceToHost);
    kvc::cuda::require(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
  }

 private:
  void copy(float* to, const float* from, std::size_t count, cudaMemcpyKind kind) {
    kvc::cuda::require(cudaMemcpyAsync(to, from, count * sizeof(float), kind, stream_), "cudaMemcpyAsync");
  }

  cudaStream_t stream_;
  kvc::cuda::device_buffer memory_;
};

/// A kvc composition in the GPU's memory as the cache of a model on the host: rows, queries and outputs travel.
template <class Spec>
class cache_away : public trained_cache {
 public:
  cache_away(std::string name, const trained_config& config, int context)
      : name_(std::move(name)),
        cache_({.capacity = context, .max_sequences = 1, .max_step_rows = step_rows}, stream_,
               kvc::extents<Spec>{config.layers, config.query_heads, config.kv_heads}) {
    sequence_ = cache_.add_sequence();
  }

  void reserve(int rows) override {
    cache_.reserve(sequence_, rows);
    rows_ = static_cast<std::size_t>(rows);
  }
  bool writes(int layer) const override { return cache_.model().writes(layer); }
  bool keys_before_rotary() const override { return false; }
  void append(int layer, const float* k, const float* v) override {
    if constexpr (Spec::is_latent) {
      cache_.append(layer, keys_.bring(k, rows_ * Spec::key_width));
    } else {
      const std::size_t count = rows_ * static_cast<std::size_t>(cache_.model().kv_heads) * Spec::key_width;
      cache_.append(layer, keys_.bring(k, count), values_.bring(v, count));
    }
  }
  void attend(int layer, const float* q, float scale, float* out) override {
    const std::size_t rows = rows_ * static_cast<std::size_t>(cache_.model().query_heads);
    const float* queries = queries_.bring(q, rows * Spec::query_width);
    cache_.attend(layer, queries, outputs_.room_for(rows * Spec::output_width), nullptr, {.scale = scale});
    outputs_.fetch(out, rows * Spec::output_width);
  }
  void commit(int rows) override { cache_.commit(static_cast<kvc::int64>(rows)); }
  void truncate(int length) override { cache_.truncate(sequence_, length); }
  int length() const override { return static_cast<int>(cache_.length(sequence_)); }
  int max_step_rows() const override { return step_rows; }
  cache_bytes bytes() const override {
    const kvc::cuda::memory_usage m = cache_.memory();
    return {static_cast<std::size_t>(m.pages_in_use), static_cast<std::size_t>(m.tails),
            static_cast<std::size_t>(m.staging + m.workspace)};
  }
  std::string name() const override { return name_; }

 private:
  static constexpr int step_rows = 256;

  std::string name_;
  cudaStream_t stream_ = cudaStreamLegacy;
  kvc::cuda::cache<Spec> cache_;
  travelling_rows keys_{stream_}, values_{stream_}, queries_{stream_}, outputs_{stream_};
  int sequence_ = 0;
  std::size_t rows_ = 0;  // of the open step
};

}  // namespace

std::unique_ptr<attention_cache> make_trained_device_cache(std::string_view name, const trained_config& config,
                                                           int context) {
  return with_trained_format(name, config, [&]<class Spec>() -> std::unique_ptr<attention_cache> {
    return std::make_unique<with_history<cache_away<Spec>>>(config, std::string(name), config, context);
  });
}

}  // namespace engine
