// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: kvc: the version must be a number \(a common mistake: 0\)
#include <kvc/version.hpp>

#ifdef KVC_SHOULD_FAIL
#define IS_A_NUMBER 0
#else
#define IS_A_NUMBER (KVC_VERSION > 0)
#endif

static_assert(IS_A_NUMBER, "kvc: the version must be a number (a common mistake: 0)");
