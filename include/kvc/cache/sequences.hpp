// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <span>
#include <vector>

#include "kvc/cache/append.hpp"
#include "kvc/cache/blocks.hpp"

namespace kvc::inline v0_1 {

/// A sequence of an owning cache: its length and the blocks that hold its pages.
struct sequence_state {
  bool in_use = false;
  int64 length = 0;
  std::vector<int32> blocks;  ///< one per page, -1 where evicted
  held_rows held;
};

/// `rows` new rows of one sequence in a step.
struct step_request {
  int sequence = 0;
  int64 rows = 0;
};

/// The sequences of an owning cache and the page memory that they share: which block holds which page, copy on write,
/// eviction. Pages is the memory, on the host or on a device: reset(block) makes a block ready for new rows, and
/// copy(from, to) copies one.
template <class Spec, class Pages>
class sequence_table {
 public:
  template <class... Arguments>
  sequence_table(int sequences, int64 blocks, Arguments&&... of_pages)
      : pool_(blocks),
        pages_(blocks, static_cast<Arguments&&>(of_pages)...),
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

  const Pages& pages() const { return pages_; }
  int64 blocks() const { return pool_.size(); }
  int64 blocks_in_use() const { return pool_.in_use(); }
  int64 available() const { return pool_.available(); }

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

  /// Takes all pages that a step of up to `most_rows` rows needs, or none.
  status reserve(std::span<const step_request> requests, int64 most_rows) {
    int64 rows = 0;
    int64 needed = 0;
    for (std::size_t i = 0; i < requests.size(); ++i) {
      const step_request& r = requests[i];
      if (!exists(r.sequence)) return status::bad_sequence;
      for (std::size_t j = 0; j < i; ++j) {
        if (requests[j].sequence == r.sequence) return status::invalid_argument;
      }
      if (r.rows < 0) return status::invalid_argument;
      rows += r.rows;
      if (rows > most_rows) return status::out_of_capacity;
      needed += blocks_needed((*this)[r.sequence], r.rows);
    }
    if (needed > available()) return status::out_of_capacity;
    for (const step_request& r : requests) grow((*this)[r.sequence], r.rows);
    return status::ok;
  }
  /// A new sequence of `length` rows with one block per page that is `present`; -1 if there are none left.
  int load(std::span<const byte> present, int64 length) {
    int64 needed = 0;
    for (const byte p : present) needed += p;
    const int id = unused();
    if (id < 0 || needed > available()) return -1;
    sequence_state& s = (*this)[id];
    s.in_use = true;
    for (const byte p : present) s.blocks.push_back(p != 0 ? take_block() : -1);
    s.length = length;
    s.held.template loaded<Spec>(length);
    return id;
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
      pages_.copy(block, copy);
      pool_.release(block);
      block = copy;
    }
    while (static_cast<int64>(s.blocks.size()) < end) s.blocks.push_back(take_block());
  }
  int32 take_block() {
    const int32 block = pool_.take();
    pages_.reset(block);
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
  /// Pages of a sequence that `rows` more rows write to: from the oldest that may be sealed now to the newest.
  static void written_pages(const sequence_state& s, int64 rows, int64& begin, int64& end) {
    const int64 indptr[2] = {0, rows};
    const step_view one{1, nullptr, &s.length, indptr, nullptr, 0};
    touched_pages<Spec>(one, 0, begin, end);
  }

  block_pool pool_;
  Pages pages_;
  std::vector<sequence_state> states_;
};

}  // namespace kvc::inline v0_1
