// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cstdio>
#include <span>
#include <string>

namespace report {

/// The whole program behind its command line. The table goes to `out`, progress and complaints to `err`; returns the
/// exit status: 0, 1 for a failure, 2 for wrong use.
int run_program(std::span<const std::string> arguments, std::FILE* out, std::FILE* err);

}  // namespace report
