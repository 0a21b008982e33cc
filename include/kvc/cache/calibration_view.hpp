// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cache/spec.hpp"

namespace kvc::inline v0_1 {

/// Constants per slot and stored head, in memory as
///   [slot][head]{ first stream's constants | second's | merge weights of keys | merge weights of values }
template <class Spec>
struct calibration_view {
  const float* data = nullptr;
  int64 head_floats = 0;  ///< floats per slot and stored head
  int heads = 0;
  uint64 id = 0;

  // All are null without a calibration.
  KVC_HD const float* first(int slot, int head) const { return at(slot, head, 0); }
  KVC_HD const float* second(int slot, int head) const {
    return at(slot, head, Spec::first_stream::calibration_floats);
  }
  template <bool First>
  KVC_HD const float* of(int slot, int head) const {
    return First ? first(slot, head) : second(slot, head);
  }
  KVC_HD const float* key_weights(int slot, int head) const { return at(slot, head, Spec::calibration_floats); }
  KVC_HD const float* value_weights(int slot, int head, int merged) const {
    return at(slot, head, Spec::calibration_floats + merged);
  }

 private:
  KVC_HD const float* at(int slot, int head, int64 offset) const {
    return data == nullptr ? nullptr : data + (static_cast<int64>(slot) * heads + head) * head_floats + offset;
  }
};

}  // namespace kvc::inline v0_1
