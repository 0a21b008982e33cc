// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Every policy of this axis.

#include "kvc/heads/all.hpp"
#include "kvc/heads/grouped.hpp"
#include "kvc/heads/latent.hpp"
#include "kvc/heads/single.hpp"
