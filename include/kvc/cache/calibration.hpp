// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cstring>
#include <span>
#include <vector>

#include "kvc/cache/calibration_view.hpp"
#include "kvc/cache/transform.hpp"
#include "kvc/core/error.hpp"

namespace kvc::inline v0_1 {

/// Means, bases, kept channels and merge weights of a composition: an owning host object beside the cache. Costs no
/// bytes per token. A new one stands for no calibration: zero means, leading channels, equal merge weights.
template <class Spec>
class calibration {
 public:
  explicit calibration(const extents<Spec>& e)
      : heads_(checked(e).stored_heads()), slots_(e.slots()), merged_(e.merged()) {
    const int merge_floats = merged_ > 1 ? 2 * merged_ : 0;
    head_floats_ = Spec::calibration_floats + merge_floats;
    data_.assign(static_cast<std::size_t>(slots_) * heads_ * head_floats_, 0.0f);
    for (int s = 0; s < slots_; ++s) {
      for (int h = 0; h < heads_; ++h) {
        float* at = constants(s, h);
        transform<typename Spec::first_stream>::initialise(at);
        transform<typename Spec::second_stream>::initialise(at + Spec::first_stream::calibration_floats);
        for (int i = 0; i < merge_floats; ++i) at[Spec::calibration_floats + i] = 1.0f / static_cast<float>(merged_);
      }
    }
  }

  int slots() const { return slots_; }
  int stored_heads() const { return heads_; }

  /// Constants of the first stream's dims policy (keys; the latent), then of its wrappers: see dims/ and quant/.
  std::span<float> first_dims(int slot, int head) { return {constants(slot, head), Spec::first_stream::dims_floats}; }
  std::span<float> first_wrappers(int slot, int head) {
    return {constants(slot, head) + Spec::first_stream::dims_floats, Spec::first_stream::wrapper_floats};
  }
  /// The same of the second stream (values; the rotary key).
  std::span<float> second_dims(int slot, int head) {
    return {constants(slot, head) + Spec::first_stream::calibration_floats, Spec::second_stream::dims_floats};
  }
  std::span<float> second_wrappers(int slot, int head) {
    return {constants(slot, head) + Spec::first_stream::calibration_floats + Spec::second_stream::dims_floats,
            Spec::second_stream::wrapper_floats};
  }
  /// Weights [merged] by which KV heads are merged into a stored row; empty where each keeps its own.
  std::span<float> key_merge_weights(int slot, int head) { return merge(slot, head, 0); }
  std::span<float> value_merge_weights(int slot, int head) { return merge(slot, head, 1); }

  /// A hash of the content and of the composition's name; cache files repeat it.
  uint64 id() const {
    uint64 hash = 14695981039346656037ull;  // FNV-1a
    const auto mix = [&hash](const void* bytes, std::size_t count) {
      const unsigned char* b = static_cast<const unsigned char*>(bytes);
      for (std::size_t i = 0; i < count; ++i) hash = (hash ^ b[i]) * 1099511628211ull;
    };
    constexpr text name = Spec::name();
    mix(name.chars, static_cast<std::size_t>(name.length));
    mix(data_.data(), data_.size() * sizeof(float));
    return hash;
  }

  calibration_view<Spec> view() const { return {data_.data(), head_floats_, heads_, id()}; }

  /// All constants, to be saved beside a model and loaded again.
  std::span<const float> values() const { return data_; }
  /// Takes what values() gave; throws kvc::error (other_calibration) where the count differs.
  void load(std::span<const float> values) {
    if (values.size() != data_.size()) {
      throw error(status::other_calibration, "calibration::load: expected ", data_.size(), " floats, got ",
                  values.size());
    }
    data_.assign(values.begin(), values.end());
  }

  /// Of the constants, all slots and heads.
  std::size_t bytes() const { return data_.size() * sizeof(float); }

 private:
  static const extents<Spec>& checked(const extents<Spec>& e) {
    check(e.validate(), "calibration");
    return e;
  }
  float* constants(int slot, int head) {
    if (slot < 0 || slot >= slots_ || head < 0 || head >= heads_) {
      throw error(status::invalid_argument, "calibration: no such slot or stored head");
    }
    return data_.data() + (static_cast<std::size_t>(slot) * heads_ + head) * head_floats_;
  }
  std::span<float> merge(int slot, int head, int side) {
    if (merged_ <= 1) return {};
    return {constants(slot, head) + Spec::calibration_floats + side * merged_, static_cast<std::size_t>(merged_)};
  }

  int heads_;
  int slots_;
  int merged_;
  int64 head_floats_ = 0;
  std::vector<float> data_;
};

}  // namespace kvc::inline v0_1
