// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cstring>

#include "kvc/cache/view.hpp"
#include "kvc/host/buffer.hpp"

namespace kvc::inline v0_1::host {

/// The page memory of a cache on the host: [slot][block] pages.
template <class Spec>
class page_memory {
 public:
  page_memory(int64 blocks, const extents<Spec>& e)
      : slots_(e.slots()),
        page_bytes_(Spec::page_bytes(e.stored_heads())),
        blocks_(blocks),
        memory_(page_pool_bytes<Spec>(e, blocks)) {}

  byte* data() const { return memory_.data(); }
  int64 bytes() const { return memory_.size(); }
  int64 page_bytes() const { return page_bytes_; }

  void reset(int32 block) {
    for (int slot = 0; slot < slots_; ++slot) std::memset(page(slot, block), 0, static_cast<std::size_t>(page_bytes_));
  }
  void copy(int32 from, int32 to) {
    for (int slot = 0; slot < slots_; ++slot) {
      std::memcpy(page(slot, to), page(slot, from), static_cast<std::size_t>(page_bytes_));
    }
  }

 private:
  byte* page(int slot, int32 block) const { return data() + (slot * blocks_ + block) * page_bytes_; }

  int slots_;
  int64 page_bytes_;
  int64 blocks_;
  buffer memory_;
};

}  // namespace kvc::inline v0_1::host
