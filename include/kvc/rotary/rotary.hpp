// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Every policy of this axis.

#include "kvc/rotary/applied.hpp"
#include "kvc/rotary/deferred.hpp"
#include "kvc/rotary/pairs.hpp"
