// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cstdio>
#include <memory>
#include <span>
#include <string>

#include "device.hpp"

namespace report {

/// What --device cuda runs on: the two functions of device.hpp. The report itself is built without CUDA.
struct device_functions {
  std::string (*name)() = nullptr;
  std::unique_ptr<engine::device_model> (*make)(const engine::gguf_file&, const engine::model&,
                                                const engine::device_options&) = nullptr;
};

/// The whole program behind its command line. The table goes to `out`, progress and complaints to `err`; returns the
/// exit status: 0, 1 for a failure, 2 for wrong use.
int run_program(std::span<const std::string> arguments, std::FILE* out, std::FILE* err,
                const device_functions& device = {});

}  // namespace report
