// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Every policy of this axis.

#include "kvc/tokens/all.hpp"
#include "kvc/tokens/sinks_and_window.hpp"
