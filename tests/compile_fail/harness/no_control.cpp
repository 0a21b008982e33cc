// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: kvc: one sentence
// verdict: no control
static_assert(sizeof(int) == 1, "kvc: one sentence");
int main() {}
