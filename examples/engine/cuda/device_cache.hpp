// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cuda_runtime.h>

#include <memory>
#include <string_view>

#include "caches.hpp"
#include "kvc/attention/params.hpp"
#include "kvc/cuda/error.cuh"

namespace engine {

/// A step that was captured once and is replayed.
class captured_graph {
 public:
  explicit captured_graph(cudaGraph_t graph) {
    kvc::cuda::require(cudaGraphInstantiate(&executable_, graph, 0), "cudaGraphInstantiate");
  }
  captured_graph(const captured_graph&) = delete;
  captured_graph& operator=(const captured_graph&) = delete;
  ~captured_graph() { static_cast<void>(cudaGraphExecDestroy(executable_)); }

  void launch(cudaStream_t stream) const {
    kvc::cuda::require(cudaGraphLaunch(executable_, stream), "a captured step");
  }

 private:
  cudaGraphExec_t executable_ = nullptr;
};

/// The cache of one sequence in the memory of a GPU: rows, queries and outputs are in that memory too, and every call
/// enqueues its work on one stream and waits for nothing. A captured step is one of one row: after begin_capture(),
/// append, attend and store enqueue work that reads where it is from device memory. To replay it: reserve(1), launch,
/// advance(1).
class device_cache : public attention_cache {
 public:
  /// From here to the next reserve(), what is enqueued serves any step of one row.
  virtual void begin_capture() = 0;

  /// Enqueues the end of the open step: all its rows become part of the sequence.
  virtual void store() = 0;
  /// Counts the rows of a step that store() has ended.
  virtual void advance(int rows) = 0;

  /// Tokens before the open step, in device memory: always at the same address.
  virtual const kvc::int64* length_on_device() const = 0;

  /// The model's step over this cache, once it was captured.
  std::unique_ptr<captured_graph> step;
};

/// What the caches of one model on a GPU share.
struct device_setting {
  cudaStream_t stream = nullptr;
  kvc::rotary::table_view rotary;  ///< in device memory
};

/// A composition of one group of compositions<64> by its name; null where there is none.
template <int Group>
std::unique_ptr<device_cache> make_device_cache(std::string_view name, const attention_shape& shape,
                                                const cache_options& options, const device_setting& setting);

}  // namespace engine
