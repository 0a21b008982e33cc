// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Everything for the host: policies, composition, published methods, the owning cache. No CUDA, no Eigen.

#include "kvc/attention/state.hpp"
#include "kvc/cache/compose.hpp"
#include "kvc/host/cache.hpp"
#include "kvc/methods/clla.hpp"
#include "kvc/methods/published.hpp"
#include "kvc/version.hpp"
