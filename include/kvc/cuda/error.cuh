// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cuda_runtime.h>

#include "kvc/core/error.hpp"

// What the CUDA runtime says. Launchers answer status::device_error and remember the reason, per thread; kernels run
// later, so that their errors surface at the next check, which names the call that it was made in.

namespace kvc::inline v0_1::cuda {

/// The last error of the runtime that a launcher or check of this thread met.
struct error_record {
  cudaError_t code = cudaSuccess;
  const char* call = "";
};
inline error_record& last_error() {
  thread_local error_record record;
  return record;
}

/// ok, or device_error; the reason stays in last_error().
inline status status_of(cudaError_t code, const char* call) {
  if (code == cudaSuccess) return status::ok;
  last_error() = {code, call};
  return status::device_error;
}

/// Throws kvc::error unless `code` is a success.
inline void require(cudaError_t code, const char* call) {
  if (code == cudaSuccess) return;
  last_error() = {code, call};
  throw error(status::device_error, call, ": ", cudaGetErrorName(code), ", ", cudaGetErrorString(code));
}

/// Throws kvc::error unless `s` is ok, with what the runtime said.
inline void require(status s, const char* call) {
  if (s == status::device_error) require(last_error().code, call);
  kvc::check(s, call);
}

}  // namespace kvc::inline v0_1::cuda
