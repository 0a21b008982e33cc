// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// kvc_head_dim MODEL: prints the head dimension of a model in GGUF.

#include <cstdio>
#include <exception>

#include "gguf.hpp"
#include "model_config.hpp"

int main(int count, char** arguments) {
  if (count != 2) {
    std::fputs("usage: kvc_head_dim MODEL\n", stderr);
    return 2;
  }
  try {
    std::printf("%d\n", engine::read_model_config(engine::gguf_file::read(arguments[1])).head_dim);
  } catch (const std::exception& problem) {
    std::fprintf(stderr, "kvc_head_dim: %s\n", problem.what());
    return 1;
  }
}
