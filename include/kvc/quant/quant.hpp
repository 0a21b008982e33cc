// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Every policy of this axis.

#include "kvc/quant/centred.hpp"
#include "kvc/quant/exact_ends.hpp"
#include "kvc/quant/fp8.hpp"
#include "kvc/quant/graded.hpp"
#include "kvc/quant/integer.hpp"
#include "kvc/quant/none.hpp"
#include "kvc/quant/rotated.hpp"
#include "kvc/quant/split.hpp"
#include "kvc/quant/tapered.hpp"
