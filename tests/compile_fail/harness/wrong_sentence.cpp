// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: kvc: another sentence
// verdict: the sentence is missing
#ifdef KVC_SHOULD_FAIL
static_assert(sizeof(int) == 1, "kvc: one sentence");
#endif
int main() {}
