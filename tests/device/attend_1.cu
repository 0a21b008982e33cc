// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "device_attend_suite.cuh"

std::vector<kvc_test::device_composition> kvc_test::suite() {
  return device_compositions_of(compositions_1{});
}
