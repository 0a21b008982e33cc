// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <every_header.hpp>

int version_in_the_other_unit();

int main() {
  return version_in_the_other_unit() == KVC_VERSION ? 0 : 1;
}
