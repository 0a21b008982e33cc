// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Every policy of this axis.

#include "kvc/layers/mapped.hpp"
#include "kvc/layers/own.hpp"
#include "kvc/layers/shared.hpp"
