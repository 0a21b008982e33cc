// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// kvc_report: measures kvc's caches on a real model and a real text.

#include <cstdio>
#include <string>
#include <vector>

#include "device.hpp"
#include "program.hpp"

int main(int argc, char** argv) {
  return report::run_program(std::vector<std::string>(argv + 1, argv + argc), stdout, stderr,
                             {engine::device_name, engine::make_device_model});
}
