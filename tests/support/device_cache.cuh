// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cuda_runtime.h>

#include <kvc/cuda/attend.cuh>
#include <stdexcept>

#include "model_cache.hpp"

// A host cache whose attention runs on the GPU, over a copy of its pages, tails and step.

namespace kvc_test {

inline void cuda_check(cudaError_t e, const char* what) {
  if (e != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(e));
}

/// Device memory with a copy of the host's.
class device_bytes {
 public:
  device_bytes(const void* host, int64 bytes) : bytes_(bytes) {
    cuda_check(cudaMalloc(&data_, static_cast<std::size_t>(bytes) + 16), "cudaMalloc");
    cuda_check(cudaMemset(data_, 0, static_cast<std::size_t>(bytes) + 16), "cudaMemset");
    if (bytes > 0) {
      cuda_check(cudaMemcpy(data_, host, static_cast<std::size_t>(bytes), cudaMemcpyHostToDevice), "cudaMemcpy");
    }
  }
  device_bytes(const device_bytes&) = delete;
  device_bytes& operator=(const device_bytes&) = delete;
  ~device_bytes() { cudaFree(data_); }

  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  void copy_back(void* host) const {
    cuda_check(cudaMemcpy(host, data_, static_cast<std::size_t>(bytes_), cudaMemcpyDeviceToHost), "cudaMemcpy");
  }

 private:
  void* data_ = nullptr;
  int64 bytes_;
};

/// How far the products of a composition round their factors (oracle.hpp).
template <class Spec>
inline constexpr double device_rounding = kvc::cuda::detail::attend_shape<Spec>::limbs == 2 ? 0x1p-16 : 0x1p-9;
/// The same of a step: 0 where its products are of bytes.
template <class Spec>
double device_rounding_of_step() {
  if constexpr (kvc::cuda::detail::byte_shape<Spec>::exists) {
    if (kvc::cuda::detail::takes_bytes<Spec>({}) && kvc::cuda::detail::has_bytes_code<Spec, float, 16>()) return 0;
  }
  if (kvc::cuda::detail::takes_codes<Spec>({})) return 0x1p-11;  // weights are fp16, queries rounded less
  return device_rounding<Spec>;
}

template <class Spec>
class device_attend_cache final : public typed_cache<Spec> {
 public:
  using typed_cache<Spec>::typed_cache;

  void attend(int layer, const float* query, float* out, float* lse, const kvc::attend_params& params) override {
    kvc::host::cache<Spec>& host = this->cache();
    kvc::cache_view<Spec> view = host.view();
    kvc::step_view step = host.step();
    const kvc::extents<Spec> e = view.model;
    const int64 rows = step.total_rows();
    const int64 lanes = rows * e.query_heads;

    const device_bytes pages(view.pages, kvc::page_pool_bytes<Spec>(e, view.blocks));
    const device_bytes tails(view.tails, kvc::tail_pool_bytes<Spec>(e, view.sequences));
    const device_bytes staging(view.staging, kvc::staging_bytes<Spec>(e, view.staging_rows));
    const int64 floats = view.calibration.head_floats * e.slots() * e.stored_heads();
    const device_bytes constants(view.calibration.data, floats * 4);
    const device_bytes ids(step.sequence_ids, step.sequences * 4);
    const device_bytes lengths(step.seq_lens, step.sequences * 8);
    const device_bytes indptr(step.row_indptr, (step.sequences + 1) * 8);
    const device_bytes table(step.block_table, step.sequences * step.block_table_stride * 4);
    const device_bytes angles(params.rotary.cos_sin, params.rotary.positions * params.rotary.pairs * 8);
    const device_bytes sinks(params.sink_logits, params.sink_logits == nullptr ? 0 : e.query_heads * 4);
    const device_bytes q(query, lanes * Spec::query_width * 4);
    // What attend leaves unwritten must not look right.
    const std::vector<float> poison(static_cast<std::size_t>(lanes * Spec::output_width), -77.0f);
    const device_bytes o(poison.data(), lanes * Spec::output_width * 4);
    const device_bytes s(poison.data(), lanes * 4);

    kvc::cuda::step_bounds bounds{step.sequences, rows, 0, 0};
    for (int i = 0; i < step.sequences; ++i) {
      bounds.max_rows = std::max(bounds.max_rows, step.rows(i));
      bounds.max_length = std::max(bounds.max_length, step.seq_lens[i] + step.rows(i));
    }
    view.pages = pages.as<byte>();
    view.tails = tails.as<byte>();
    view.staging = staging.as<byte>();
    view.calibration.data = floats > 0 ? constants.as<float>() : nullptr;
    step.sequence_ids = ids.as<kvc::int32>();
    step.seq_lens = lengths.as<int64>();
    step.row_indptr = indptr.as<int64>();
    step.block_table = table.as<kvc::int32>();
    kvc::attend_params device_params = params;
    if (params.rotary.cos_sin != nullptr) device_params.rotary.cos_sin = angles.as<float>();
    if (params.sink_logits != nullptr) device_params.sink_logits = sinks.as<float>();

    const int64 bytes = kvc::cuda::attend_workspace_bytes<Spec>(e, bounds);
    const std::vector<float> garbage(static_cast<std::size_t>(bytes / 4), -55.0f);
    const device_bytes workspace(garbage.data(), bytes);
    const kvc::status answer = kvc::cuda::attend<Spec, float>(
        view, step, bounds, layer, kvc::contiguous_rows<const float>(q.as<float>(), e.query_heads, Spec::query_width),
        kvc::contiguous_rows(o.as<float>(), e.query_heads, Spec::output_width),
        lse == nullptr ? nullptr : s.as<float>(), device_params, workspace.as<void>(), bytes, nullptr);
    kvc::check(answer, "cuda::attend");
    cuda_check(cudaDeviceSynchronize(), "cuda::attend");
    o.copy_back(out);
    if (lse != nullptr) s.copy_back(lse);
  }
};

struct device_composition {
  std::string name;
  double rounding_in_bf16;  ///< where params.fp32_products
  double (*rounding)();
  int (*splits)(int64 rows, int64 length);  ///< of one sequence with so many rows, the new ones included
  std::unique_ptr<any_cache> (*make)(const kvc::host::cache_options&);
  std::unique_ptr<any_cache> (*make_host)(const kvc::host::cache_options&);
};

template <class Spec>
int splits_of(int64 rows, int64 length) {
  return kvc::cuda::detail::plan_attend<Spec>(extents_of<Spec>(), {1, rows, rows, length}, {}).splits;
}

template <class Cache>
std::unique_ptr<any_cache> make_cache(const kvc::host::cache_options& o) {
  return std::make_unique<Cache>(o);
}

template <class... Specs>
std::vector<device_composition> device_compositions_of(list<Specs...>) {
  return {{Specs::name().c_str(), device_rounding<Specs>, device_rounding_of_step<Specs>, splits_of<Specs>,
           make_cache<device_attend_cache<Specs>>, make_cache<typed_cache<Specs>>}...};
}

}  // namespace kvc_test
