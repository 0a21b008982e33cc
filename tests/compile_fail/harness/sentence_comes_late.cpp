// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// verdict: the sentence is not first
// expect: kvc: too late
#ifdef KVC_SHOULD_FAIL
int before = "another error";
static_assert(sizeof(int) == 1, "kvc: too late");
#endif

int after = 0;
