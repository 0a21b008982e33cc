// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <vector>

#include "kvc/core/config.hpp"

namespace kvc::inline v0_1 {

/// The free list and reference counts of a pool of blocks. A block is one page in every slot.
class block_pool {
 public:
  explicit block_pool(int64 blocks) : users_(static_cast<std::size_t>(blocks), 0) {
    for (int64 b = blocks - 1; b >= 0; --b) free_.push_back(static_cast<int32>(b));
  }

  int64 size() const { return static_cast<int64>(users_.size()); }
  int64 available() const { return static_cast<int64>(free_.size()); }
  int64 in_use() const { return size() - available(); }
  bool is_shared(int32 block) const { return users_[static_cast<std::size_t>(block)] > 1; }

  /// The caller has checked available().
  int32 take() {
    const int32 block = free_.back();
    free_.pop_back();
    users_[static_cast<std::size_t>(block)] = 1;
    return block;
  }
  void share(int32 block) { ++users_[static_cast<std::size_t>(block)]; }
  void release(int32 block) {
    if (--users_[static_cast<std::size_t>(block)] == 0) free_.push_back(block);
  }

 private:
  std::vector<int> users_;
  std::vector<int32> free_;
};

}  // namespace kvc::inline v0_1
