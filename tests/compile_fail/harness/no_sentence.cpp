// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// verdict: no sentence is expected
#ifdef KVC_SHOULD_FAIL
static_assert(sizeof(int) == 1, "kvc: one sentence");
#endif
int main() {}
