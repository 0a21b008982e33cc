// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Property suites for your own policies, in one line of any test framework. Each returns an empty string, or one line
// per property that does not hold, with an example:
//
//   codec_failures<Codec, Width>()          wrapper_failures<Wrapper, Width>(constants)
//   dims_failures<Dims, HeadDim>(constants) rotary_failures<Policy, HeadDim>()
//   layers_failures<Policy>(layers, table)  heads_failures<Policy>()  tokens_failures<Policy>()

#include "kvc/testing/codec.hpp"
#include "kvc/testing/dims.hpp"
#include "kvc/testing/placement.hpp"
#include "kvc/testing/rotary.hpp"
#include "kvc/testing/wrapper.hpp"
