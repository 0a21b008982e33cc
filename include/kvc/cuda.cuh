// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The CUDA half of the library, and the host half that it shares: compositions, launchers over device memory.

#include "kvc/cuda/append.cuh"
#include "kvc/cuda/attend.cuh"
#include "kvc/cuda/cache.cuh"
#include "kvc/cuda/commit.cuh"
#include "kvc/cuda/copy_pages.cuh"
#include "kvc/cuda/device.cuh"
#include "kvc/cuda/gather.cuh"
#include "kvc/cuda/route.cuh"
#include "kvc/kvc.hpp"
