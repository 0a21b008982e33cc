// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: kvc: one sentence
// verdict: the case compiles
#ifdef KVC_SHOULD_FAIL
static_assert(sizeof(char) == 1, "kvc: one sentence");
#endif
int main() {}
