// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: kvc: `one` sentence
// verdict: the sentence is not plain
#ifdef KVC_SHOULD_FAIL
static_assert(sizeof(int) == 1, "kvc: `one` sentence");
#endif
int main() {}
