// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <span>
#include <vector>

#include "kvc/cache/sequences.hpp"
#include "kvc/core/error.hpp"

namespace kvc::inline v0_1 {

/// How much memory an owning cache takes and how its work is shared.
struct cache_options {
  int64 capacity = 4096;  ///< rows of all sequences together, rounded up to whole pages
  int max_sequences = 1;
  int64 max_step_rows = 256;  ///< rows of one step, all sequences together
  int threads = 1;            ///< of the host; a cache on a device has its own
};

/// Bytes as allocated. `pages_in_use` is what the sequences hold now, the rest is what was taken at construction.
struct memory_usage {
  int64 pages = 0;
  int64 pages_in_use = 0;
  int64 tails = 0;
  int64 staging = 0;
  int64 workspace = 0;
  int64 calibration = 0;
};

/// Blocks of a cache: its rows in whole pages, and one more for every further sequence, whose last page is not full.
template <class Spec>
int64 blocks_of(const cache_options& o) {
  if (o.capacity < 1 || o.max_sequences < 1 || o.max_step_rows < 1 || o.threads < 1) {
    throw error(status::invalid_argument, "cache: capacity, sequences, step rows and threads must be positive");
  }
  return ceil_div<int64>(o.capacity, Spec::tokens_per_page) + o.max_sequences - 1;
}

/// The arrays of an open step of an owning cache, and which slots were appended in it.
template <class Spec>
class open_step {
 public:
  explicit open_step(const extents<Spec>& e) : model_(e), appended_(static_cast<std::size_t>(e.slots()), false) {}

  /// One step_request after the other, with the sequences' lengths and blocks as they are now.
  template <class Table>
  void open(const Table& sequences, std::span<const step_request> requests) {
    const std::size_t n = requests.size();
    ids_.assign(n, 0);
    lengths_.assign(n, 0);
    indptr_.assign(n + 1, 0);
    std::size_t stride = 0;
    for (const step_request& r : requests) stride = max_of(stride, sequences[r.sequence].blocks.size());
    table_.assign(n * stride + 1, -1);
    for (std::size_t i = 0; i < n; ++i) {
      const sequence_state& s = sequences[requests[i].sequence];
      ids_[i] = requests[i].sequence;
      lengths_[i] = s.length;
      indptr_[i + 1] = indptr_[i] + requests[i].rows;
      for (std::size_t b = 0; b < s.blocks.size(); ++b) table_[i * stride + b] = s.blocks[b];
    }
    appended_.assign(appended_.size(), false);
    view_ = {static_cast<int>(n), ids_.data(),   lengths_.data(),
             indptr_.data(),      table_.data(), static_cast<int64>(stride)};
  }
  void close() { view_ = {}; }

  bool is_open() const { return view_.row_indptr != nullptr; }
  void require(const char* call) const {
    if (!is_open()) check(status::no_step, call);
  }
  void require_none(const char* call) const {
    if (is_open()) check(status::step_open, call);
  }

  const step_view& view() const { return view_; }
  const std::vector<int32>& ids() const { return ids_; }

  void set_appended(int layer) { appended_[static_cast<std::size_t>(model_.slot(layer))] = true; }
  /// Throws unless the slot that `layer` reads was appended, or the step has no rows.
  void require_appended(int layer, const char* call) const {
    if (layer < 0 || layer >= model_.layers) check(status::bad_layer, call);
    if (view_.total_rows() > 0 && !appended_[static_cast<std::size_t>(model_.slot(layer))]) {
      check(status::not_appended, call);
    }
  }
  /// Throws unless the step can be committed with these rows.
  void require_complete(std::span<const int64> accepted, const char* call) const {
    if (accepted.size() != static_cast<std::size_t>(view_.sequences)) check(status::invalid_argument, call);
    for (int i = 0; i < view_.sequences; ++i) {
      const int64 rows = accepted[static_cast<std::size_t>(i)];
      if (rows < 0 || rows > view_.rows(i)) check(status::invalid_argument, call);
    }
    for (const bool appended : appended_) {
      if (view_.total_rows() > 0 && !appended) check(status::not_appended, call);
    }
  }
  /// All rows of the step.
  std::vector<int64> all_rows() const {
    std::vector<int64> all;
    for (int i = 0; i < view_.sequences; ++i) all.push_back(view_.rows(i));
    return all;
  }
  /// Advances the sequences' lengths.
  template <class Table>
  void accept(Table& sequences, std::span<const int64> accepted) const {
    for (int i = 0; i < view_.sequences; ++i) {
      sequence_state& s = sequences[ids_[static_cast<std::size_t>(i)]];
      s.length += accepted[static_cast<std::size_t>(i)];
      s.held.template committed<Spec>(s.length);
    }
  }

 private:
  extents<Spec> model_;
  step_view view_;
  std::vector<int32> ids_;
  std::vector<int64> lengths_;
  std::vector<int64> indptr_;
  std::vector<int32> table_;
  std::vector<bool> appended_;
};

}  // namespace kvc::inline v0_1
