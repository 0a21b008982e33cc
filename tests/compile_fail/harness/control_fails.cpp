// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: kvc: one sentence
// verdict: the control does not compile
#ifdef KVC_SHOULD_FAIL
#endif
static_assert(sizeof(int) == 1, "kvc: one sentence");
int main() {}
