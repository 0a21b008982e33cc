// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "composition_setup.hpp"
#include "compositions.hpp"
#include "device_cache.hpp"
#include "kvc/cuda.cuh"

namespace engine {

/// A kvc composition as the engine's cache of one sequence on a GPU, on the launchers over views: an engine that
/// replays captured steps keeps lengths and tables itself.
template <class Spec>
class composed_device_cache : public device_cache {
 public:
  composed_device_cache(std::string name, const attention_shape& shape, const cache_options& options,
                        const device_setting& setting)
      : name_(std::move(name)),
        stream_(setting.stream),
        model_(extents_of<Spec>(shape, options)),
        context_(std::max(1, options.context)),
        constants_(constants_of<Spec>(name_, shape, options)),
        constants_memory_(static_cast<kvc::int64>(constants_->bytes()), stream_),
        sequences_(1, kvc::blocks_of<Spec>({.capacity = context_}), model_, stream_),
        tail_(kvc::tail_pool_bytes<Spec>(model_, 1), stream_),
        staging_(kvc::staging_bytes<Spec>(model_, step_rows), stream_),
        workspace_(most_workspace_bytes(), stream_),
        step_memory_(48 + 4 * sequences_.blocks(), stream_),
        cut_memory_(64, stream_) {
    params_.rotary = setting.rotary;
    sequences_[0].in_use = true;
    kvc::calibration_view<Spec> constants = constants_->view();
    if (constants_->bytes() > 0) {
      kvc::cuda::require(cudaMemcpyAsync(constants_memory_.data(), constants.data, constants_->bytes(),
                                         cudaMemcpyHostToDevice, stream_),
                         "cudaMemcpyAsync");
    }
    constants.data = reinterpret_cast<const float*>(constants_memory_.data());
    view_ = {model_,
             sequences_.pages().data(),
             sequences_.blocks(),
             sequences_.pages().page_bytes(),
             sequences_.blocks() * sequences_.pages().page_bytes(),
             tail_.data(),
             Spec::tail_bytes(model_),
             1,
             staging_.data(),
             step_rows,
             constants};
    upload(0);
  }

  void reserve(int rows) override {
    const kvc::step_request request{0, rows};
    kvc::cuda::require(sequences_.reserve({&request, 1}, step_rows), "reserve");
    upload(rows);
  }
  bool writes(int layer) const override { return model_.writes(layer); }
  bool keys_before_rotary() const override { return Spec::first_stream::is_deferred; }
  void append(int layer, const float* k, const float* v) override {
    const auto keys = kvc::contiguous_rows(k, model_.kv_heads, Spec::key_width);
    const auto values = kvc::contiguous_rows(v, model_.kv_heads, Spec::shape_type::head_dim);
    kvc::cuda::require(kvc::cuda::append<Spec, float>(view_, step_, bounds_, layer, keys, values, stream_), "append");
  }
  void attend(int layer, const float* q, float scale, float* out) override {
    params_.scale = scale;
    const auto queries = kvc::contiguous_rows(q, model_.query_heads, Spec::query_width);
    const auto outputs = kvc::contiguous_rows(out, model_.query_heads, Spec::output_width);
    kvc::cuda::require(kvc::cuda::attend<Spec, float>(view_, step_, bounds_, layer, queries, outputs, nullptr, params_,
                                                      workspace_.data(), workspace_.size(), stream_, limits_),
                       "attend");
  }
  void commit(int rows) override {
    const kvc::int64 accepted = rows;
    cut_memory_.begin();
    const kvc::int64* on_device = cut_memory_.add(&accepted, 1);
    cut_memory_.send();
    kvc::cuda::require(kvc::cuda::commit<Spec>(view_, step_, bounds_, on_device, stream_), "commit");
    advance(rows);
  }
  void truncate(int length) override {
    kvc::sequence_state& s = sequences_[0];
    if (length < 0 || length > s.length) kvc::cuda::require(kvc::status::bad_position, "truncate");
    upload(0);
    const kvc::int64 none[2] = {0, 0};
    const kvc::step_view on_host{1,    nullptr,         &s.length,
                                 none, s.blocks.data(), static_cast<kvc::int64>(s.blocks.size())};
    kvc::cuda::require(kvc::detail::check_present(view_, on_host, 0, kvc::oldest_needed<Spec>(length), length),
                       "truncate");
    const kvc::int64 kept = length;
    cut_memory_.begin();
    const kvc::int64* device_kept = cut_memory_.add(&kept, 1);
    const kvc::held_rows* device_held = cut_memory_.add(&s.held, 1);
    cut_memory_.send();
    kvc::cuda::require(kvc::cuda::truncate<Spec>(view_, step_, bounds_, device_kept, device_held, stream_), "truncate");
    s.length = length;
    sequences_.shrink(s);
  }
  int length() const override { return static_cast<int>(sequences_[0].length); }
  int max_step_rows() const override { return step_rows; }
  cache_bytes bytes() const override {
    return {static_cast<std::size_t>(sequences_.blocks_in_use() * model_.slots() * sequences_.pages().page_bytes()),
            static_cast<std::size_t>(tail_.size()), static_cast<std::size_t>(staging_.size() + workspace_.size())};
  }
  std::string name() const override { return name_; }

  void begin_capture() override { bounds_ = bounds_of(1, context_); }
  void store() override {
    kvc::cuda::require(kvc::cuda::commit<Spec>(view_, step_, bounds_, nullptr, stream_), "commit");
  }
  void advance(int rows) override {
    kvc::sequence_state& s = sequences_[0];
    s.length += rows;
    s.held.template committed<Spec>(s.length);
    sequences_.shrink(s);
  }
  const kvc::int64* length_on_device() const override { return step_.seq_lens; }

 private:
  static constexpr int step_rows = 256;

  static kvc::cuda::device_limits current_limits() {
    kvc::cuda::device_limits limits;
    kvc::cuda::require(kvc::cuda::current_device(limits), "current_device");
    return limits;
  }
  static kvc::cuda::step_bounds bounds_of(kvc::int64 rows, kvc::int64 length) {
    return {.sequences = 1, .total_rows = rows, .max_rows = rows, .max_length = length};
  }
  /// For steps of any size at any length.
  kvc::int64 most_workspace_bytes() const {
    kvc::int64 most = 0;
    for (int rows = 1; rows <= step_rows; ++rows) {
      most = std::max(most, kvc::cuda::attend_workspace_bytes<Spec>(model_, bounds_of(rows, context_), limits_));
    }
    return most;
  }
  /// The step's arrays. Their addresses are the same every time, so that captured work finds them.
  void upload(kvc::int64 rows) {
    const kvc::sequence_state& s = sequences_[0];
    const kvc::int64 indptr[2] = {0, rows};
    table_.assign(static_cast<std::size_t>(sequences_.blocks()), -1);
    std::copy(s.blocks.begin(), s.blocks.end(), table_.begin());
    step_memory_.begin();
    step_ = {1,
             nullptr,
             step_memory_.add(&s.length, 1),
             step_memory_.add(indptr, 2),
             step_memory_.add(table_.data(), table_.size()),
             static_cast<kvc::int64>(table_.size())};
    step_memory_.send();
    bounds_ = bounds_of(rows, s.length + rows);
  }

  std::string name_;
  cudaStream_t stream_;
  kvc::cuda::device_limits limits_ = current_limits();
  kvc::extents<Spec> model_;
  int context_;
  std::unique_ptr<kvc::calibration<Spec>> constants_;
  kvc::cuda::device_buffer constants_memory_;
  kvc::sequence_table<Spec, kvc::cuda::page_memory<Spec>> sequences_;  // of one sequence
  kvc::cuda::device_buffer tail_, staging_, workspace_;
  kvc::cuda::upload_ring step_memory_, cut_memory_;
  std::vector<kvc::int32> table_;

  kvc::cache_view<Spec> view_;
  kvc::step_view step_;
  kvc::cuda::step_bounds bounds_;
  kvc::attend_params params_;
};

template <int Group>
std::unique_ptr<device_cache> make_device_cache(std::string_view name, const attention_shape& shape,
                                                const cache_options& options, const device_setting& setting) {
  std::unique_ptr<device_cache> made;
  compositions<64>::template for_group<Group>([&]<class Spec>(const char* candidate, const char*) {
    if (name == candidate) made = std::make_unique<composed_device_cache<Spec>>(candidate, shape, options, setting);
  });
  return made;
}

}  // namespace engine
