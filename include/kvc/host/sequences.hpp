// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "kvc/cache/append.hpp"
#include "kvc/host/blocks.hpp"
#include "kvc/host/buffer.hpp"

namespace kvc::inline v0_1::host {

/// A sequence of an owning cache: its length and the blocks that hold its pages.
struct sequence_state {
  bool in_use = false;
  int64 length = 0;
  std::vector<int32> blocks;  ///< one per page, -1 where evicted
  held_rows held;
};

/// The sequences of an owning cache and the page memory that they share: which block holds which page, copy on write,
/// eviction. All or nothing is the caller's affair: ask blocks_needed, then grow.
template <class Spec>
class sequence_table {
 public:
  sequence_table(const extents<Spec>& e, int sequences, int64 blocks)
      : model_(e),
        page_bytes_(Spec::page_bytes(e.stored_heads())),
        pool_(blocks),
        memory_(page_pool_bytes<Spec>(e, blocks)),
        states_(static_cast<std::size_t>(sequences)) {}

  bool exists(int id) const {
    return id >= 0 && id < static_cast<int>(states_.size()) && states_[static_cast<std::size_t>(id)].in_use;
  }
  sequence_state& operator[](int id) { return states_[static_cast<std::size_t>(id)]; }
  const sequence_state& operator[](int id) const { return states_[static_cast<std::size_t>(id)]; }
  /// An id that is not in use, or -1.
  int unused() const {
    for (std::size_t i = 0; i < states_.size(); ++i) {
      if (!states_[i].in_use) return static_cast<int>(i);
    }
    return -1;
  }

  const buffer& memory() const { return memory_; }
  int64 page_bytes() const { return page_bytes_; }
  int64 blocks() const { return pool_.size(); }
  int64 available() const { return pool_.available(); }
  int64 bytes_in_use() const { return pool_.in_use() * model_.slots() * page_bytes_; }

  /// `to` shares all pages of `from`.
  void share(const sequence_state& from, sequence_state& to) {
    to.length = from.length;
    to.blocks = from.blocks;
    to.held = from.held;
    for (const int32 block : to.blocks) {
      if (block >= 0) pool_.share(block);
    }
  }
  void clear(sequence_state& s) {
    for (const int32 block : s.blocks) {
      if (block >= 0) pool_.release(block);
    }
    s = {};
  }

  /// Blocks that `rows` more rows take.
  int64 blocks_needed(const sequence_state& s, int64 rows) const {
    int64 begin = 0;
    int64 end = 0;
    written_pages(s, rows, begin, end);
    const int64 have = static_cast<int64>(s.blocks.size());
    int64 needed = max_of<int64>(0, end - have);
    for (int64 p = begin; p < min_of(end, have); ++p) {
      const int32 block = s.blocks[static_cast<std::size_t>(p)];
      if (block >= 0 && pool_.is_shared(block)) ++needed;
    }
    return needed;
  }
  /// Takes what blocks_needed counted: new pages, and copies of shared ones that will be written.
  void grow(sequence_state& s, int64 rows) {
    int64 begin = 0;
    int64 end = 0;
    written_pages(s, rows, begin, end);
    for (int64 p = begin; p < min_of<int64>(end, static_cast<int64>(s.blocks.size())); ++p) {
      int32& block = s.blocks[static_cast<std::size_t>(p)];
      if (block < 0 || !pool_.is_shared(block)) continue;
      const int32 copy = take_block();
      for (int slot = 0; slot < model_.slots(); ++slot) {
        std::memcpy(page(slot, copy), page(slot, block), static_cast<std::size_t>(page_bytes_));
      }
      pool_.release(block);
      block = copy;
    }
    while (static_cast<int64>(s.blocks.size()) < end) s.blocks.push_back(take_block());
  }
  /// A zeroed block.
  int32 take_block() {
    const int32 block = pool_.take();
    for (int slot = 0; slot < model_.slots(); ++slot) {
      std::memset(page(slot, block), 0, static_cast<std::size_t>(page_bytes_));
    }
    return block;
  }
  /// Frees pages past the end, and those that no later query sees.
  void shrink(sequence_state& s) {
    const std::size_t pages = static_cast<std::size_t>(ceil_div<int64>(s.length, Spec::tokens_per_page));
    while (s.blocks.size() > pages) {
      if (s.blocks.back() >= 0) pool_.release(s.blocks.back());
      s.blocks.pop_back();
    }
    using tokens = typename Spec::tokens_policy;
    if constexpr (tokens::window > 0) {
      const int64 oldest = oldest_needed<Spec>(s.length);
      for (int64 p = ceil_div<int64>(tokens::sinks, Spec::tokens_per_page); (p + 1) * Spec::tokens_per_page <= oldest;
           ++p) {
        int32& block = s.blocks[static_cast<std::size_t>(p)];
        if (block < 0) continue;
        pool_.release(block);
        block = -1;
      }
    }
  }

 private:
  byte* page(int slot, int32 block) const {
    return memory_.data() + (static_cast<int64>(slot) * pool_.size() + block) * page_bytes_;
  }
  /// Pages of a sequence that `rows` more rows write to: from the oldest that may be sealed now to the newest.
  static void written_pages(const sequence_state& s, int64 rows, int64& begin, int64& end) {
    const int64 indptr[2] = {0, rows};
    const step_view one{1, nullptr, &s.length, indptr, nullptr, 0};
    touched_pages<Spec>(one, 0, begin, end);
  }

  extents<Spec> model_;
  int64 page_bytes_;
  block_pool pool_;
  buffer memory_;
  std::vector<sequence_state> states_;
};

}  // namespace kvc::inline v0_1::host
