// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "kvc/core/config.hpp"

namespace kvc::inline v0_1::host {

/// Zeroed, 64-byte aligned memory that knows its size. Reports count these sizes, not formulas.
class buffer {
 public:
  buffer() = default;
  explicit buffer(int64 bytes) : bytes_(bytes) {
    if (bytes_ == 0) return;
    data_ = static_cast<byte*>(::operator new(static_cast<std::size_t>(bytes_), alignment()));
#if defined(__linux__)
    // Rows of a head are found in pieces of a few KB, each in another page of the machine: fewer, larger ones.
    if (bytes_ >= huge) ::madvise(data_, static_cast<std::size_t>(bytes_ / huge * huge), MADV_HUGEPAGE);
#endif
    std::memset(data_, 0, static_cast<std::size_t>(bytes_));
  }
  buffer(buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  buffer& operator=(buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~buffer() {
    if (data_ != nullptr) ::operator delete(data_, alignment());
  }

  byte* data() const {
    return data_;
  }
  int64 size() const {
    return bytes_;
  }

 private:
  static constexpr int64 huge = int64{1} << 21;
  std::align_val_t alignment() const {
    return std::align_val_t{bytes_ >= huge ? static_cast<std::size_t>(huge) : 64};
  }

  byte* data_ = nullptr;
  int64 bytes_ = 0;
};

}  // namespace kvc::inline v0_1::host
