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

/// Whether a team that has Own neighbouring channels per thread can turn a row in registers: a pair lies in one thread,
/// or in two whose ranks differ in one bit. Angles are read two pairs at a time.
template <pairs Layout, int Own>
KVC_HD bool turns_share(const float* cos_sin, int count) {
  const int lanes = count / Own;
  const bool is_even = Layout == pairs::interleaved || (lanes * Own == count && (lanes & (lanes - 1)) == 0);
  return count % 2 == 0 && is_even && reinterpret_cast<size_type>(cos_sin) % 16 == 0;
}

/// The same of a row in its team's registers, x: [Own]. Channels that are not turned meet angles of others.
template <pairs Layout, int Own, class Team>
KVC_HD void turn_share(float* x, const float* cos_sin, int count, Team team) {
  constexpr bool halves = Layout == pairs::half_split;
  constexpr int step = halves ? 2 : 4;  // channels of two pairs
  const int first = team.rank() * Own;
  const int lanes = count / Own;
  const bool is_upper = halves && first >= count;
  const float* at = first >= 2 * count ? cos_sin : cos_sin + (halves ? 2 * (is_upper ? first - count : first) : first);
  for (int k = 0; k < Own; k += step) {
    const bool is_turned = first + (halves ? 0 : k) < 2 * count;
    alignas(16) float a[4];
    __builtin_memcpy(a, __builtin_assume_aligned(halves || is_turned ? at + 4 * (k / step) : cos_sin, 16), 16);
    for (int i = 0; i < 2; ++i) {
      const float c = a[2 * i];
      const float s = a[2 * i + 1];
      if constexpr (halves) {
        const float other = team.exchange(x[k + i], lanes);
        const float turned = x[k + i] * c + other * (is_upper ? s : -s);
        x[k + i] = is_turned ? turned : x[k + i];
      } else {
        const float low = x[k + 2 * i];
        const float high = x[k + 2 * i + 1];
        x[k + 2 * i] = is_turned ? low * c - high * s : low;
        x[k + 2 * i + 1] = is_turned ? low * s + high * c : high;
      }
    }
  }
}

}  // namespace kvc::inline v0_1::rotary
