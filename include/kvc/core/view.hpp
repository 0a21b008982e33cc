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

/// One caller's thread among those that share a call: it takes every count-th work item from `index` on.
struct slice {
  int index = 0;
  int count = 1;
};

}  // namespace kvc::inline v0_1
