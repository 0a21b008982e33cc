// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/core/dtype.hpp"

namespace kvc::inline v0_1 {

/// Rows of heads in the caller's memory: [rows][heads][width], channels contiguous. T is float, bf16 or fp16, const
/// for inputs. Strides count elements.
template <class T>
struct rows_view {
  T* data = nullptr;
  int64 row_stride = 0;
  int64 head_stride = 0;

  KVC_HD T* at(int64 row, int head) const { return data + row * row_stride + head * head_stride; }
  KVC_HD rows_view from(int64 row) const { return {data + row * row_stride, row_stride, head_stride}; }
};

/// A contiguous [rows][heads][width] array.
template <class T>
KVC_HD rows_view<T> contiguous_rows(T* data, int heads, int width) {
  return {data, static_cast<int64>(heads) * width, width};
}

#if !defined(__CUDACC_RTC__)
/// Asks for memory that will be read, to lie in the first-level cache (3) or the second (2). Inlined always:
/// g++ 12 drops calls of a function that does nothing else.
template <int Locality>
__attribute__((always_inline)) inline void prefetch_bytes(const void* p, int bytes) {
  for (int i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(p) + i, 0, Locality);
}
#endif

/// One caller's thread among those that share a call: it takes every count-th work item from `index` on.
struct slice {
  int index = 0;
  int count = 1;
};

}  // namespace kvc::inline v0_1
