// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/rotary/concept.hpp"

namespace kvc::inline v0_1::rotary {

/// Which channels form a rotated pair: (2i, 2i+1) or (i, i + dims/2).
enum class pairs { interleaved, half_split };

/// The leading 2 * count channels of a key, turned in place by cos_sin: [count][2].
template <pairs Layout, class Team = serial_team>
KVC_HD void turn(float* key, const float* cos_sin, int count, Team team = {}) {
  for (int i = team.rank(); i < count; i += team.size()) {
    const int a = Layout == pairs::interleaved ? 2 * i : i;
    const int b = Layout == pairs::interleaved ? 2 * i + 1 : i + count;
    const float c = cos_sin[2 * i];
    const float s = cos_sin[2 * i + 1];
    const float x = key[a];
    const float y = key[b];
    key[a] = x * c - y * s;
    key[b] = x * s + y * c;
  }
  team.sync();
}

}  // namespace kvc::inline v0_1::rotary
