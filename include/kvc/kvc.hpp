// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Everything for the host: policies, composition, the owning cache. No CUDA, no Eigen.

#include "kvc/attention/state.hpp"
#include "kvc/cache/compose.hpp"
#include "kvc/host/cache.hpp"
