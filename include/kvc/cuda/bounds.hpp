// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/core/config.hpp"

namespace kvc::inline v0_1::cuda {

/// What the host knows of a step whose lengths and tables only the device reads: upper bounds, which size the grids. A
/// graph that was captured with them replays with any lengths and tables within them; sequences that a replay does not
/// need get no rows. A step of fewer sequences is one of them; of a step of more, the first ones count.
struct step_bounds {
  int sequences = 0;
  int64 total_rows = 0;      ///< new rows of all sequences
  int64 max_rows = 0;        ///< new rows of one sequence
  int64 max_length = 0;      ///< rows of one sequence, the new ones included
  uint32* report = nullptr;  ///< a zeroed device word: kernels report there what is out of range, and leave it out
};

}  // namespace kvc::inline v0_1::cuda
