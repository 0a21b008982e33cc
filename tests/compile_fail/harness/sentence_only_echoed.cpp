// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: kvc: one sentence
// verdict: the sentence is missing
#ifdef KVC_SHOULD_FAIL
const char* text = undeclared("kvc: one sentence");
#endif
int main() {}
