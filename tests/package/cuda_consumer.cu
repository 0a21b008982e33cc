// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// A user's CUDA program: compiled as C++20 because it links kvc::kvc, without a setting of its own.
#if __has_include(<kvc/cuda.cuh>)
#include <kvc/cuda.cuh>
#endif
#include <concepts>
#include <cstdio>
#include <kvc/version.hpp>

template <std::integral T>
__global__ void store(T* out) {
  *out = KVC_VERSION;
}

int main(int argc, char**) {
  if (argc > 1) store<int><<<1, 1>>>(nullptr);  // never in this test, which has no GPU
  std::printf("kvc %d.%d.%d\n", KVC_VERSION_MAJOR, KVC_VERSION_MINOR, KVC_VERSION_PATCH);
}
