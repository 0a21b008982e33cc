// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// sanitized: --param=asan-instrumentation-with-call-threshold=0
#include "composition_suite.hpp"

std::vector<kvc_test::composition> kvc_test::suite() {
  return compositions_of(compositions_2{});
}
