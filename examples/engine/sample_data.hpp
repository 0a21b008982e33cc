// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <vector>

#include "kvc/calibrate/moments.hpp"

namespace engine {

/// Moments of one layer and KV head.
struct head_moments {
  explicit head_moments(int head_dim)
      : keys_before(head_dim), keys_after(head_dim), values(head_dim), queries(head_dim) {}

  kvc::calibrate::moments keys_before;  ///< before their rotary embedding
  kvc::calibrate::moments keys_after;   ///< after it
  kvc::calibrate::moments values;
  kvc::calibrate::moments queries;  ///< rotated, of all query heads of the group
};

struct sample_data {
  int kv_heads = 0;
  std::vector<head_moments> heads;  ///< [layers][kv_heads]
  std::vector<kvc::int32> leaders;  ///< [layers], for layers::mapped<kvc::dynamic>

  const head_moments& at(int layer, int head) const { return heads[static_cast<std::size_t>(layer * kv_heads + head)]; }
};

}  // namespace engine
