// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// device.hpp in builds without CUDA.

#include <stdexcept>

#include "device.hpp"

namespace engine {
namespace {

[[noreturn]] void refuse() {
  throw std::runtime_error("cannot run on a GPU: this build has no CUDA or no cuBLAS");
}

}  // namespace

std::string device_name() {
  refuse();
}

std::unique_ptr<device_model> make_device_model(const gguf_file&, const model&, const device_options&) {
  refuse();
}

std::unique_ptr<attention_cache> make_trained_device_cache(std::string_view, const trained_config&, int) {
  refuse();
}

}  // namespace engine
