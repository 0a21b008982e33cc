// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Every policy of this axis.

#include "kvc/dims/full.hpp"
#include "kvc/dims/latent.hpp"
#include "kvc/dims/low_rank.hpp"
#include "kvc/dims/pruned.hpp"
#include "kvc/dims/split.hpp"
