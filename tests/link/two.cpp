// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <every_header.hpp>

int version_in_the_other_unit() {
  return KVC_VERSION;
}
