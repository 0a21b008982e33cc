// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// A user's program that calibrates: Eigen comes with the component.
#include <Eigen/Core>
#include <cstdio>
#include <kvc/version.hpp>

int main() {
  const Eigen::Vector3i version(KVC_VERSION_MAJOR, KVC_VERSION_MINOR, KVC_VERSION_PATCH);
  std::printf("kvc %d.%d.%d\n", version[0], version[1], version[2]);
}
