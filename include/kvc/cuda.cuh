// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Everything for CUDA: policies, composition, published methods, launchers over device memory, the owning cache. The
// host's launchers and cache are in kvc/kvc.hpp.

#include "kvc/cache/compose.hpp"
#include "kvc/cuda/append.cuh"
#include "kvc/cuda/attend.cuh"
#include "kvc/cuda/cache.cuh"
#include "kvc/cuda/commit.cuh"
#include "kvc/cuda/copy_pages.cuh"
#include "kvc/cuda/device.cuh"
#include "kvc/cuda/gather.cuh"
#include "kvc/cuda/route.cuh"
#include "kvc/methods/clla.hpp"
#include "kvc/methods/published.hpp"
#include "kvc/version.hpp"
