// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <queue>
#include <vector>

namespace engine {

using token = std::int32_t;

/// A stretch of a text while it is merged: a token, or no_token where none is known (SentencePiece's rare characters).
struct symbol {
  token id = -1;
  std::size_t begin = 0, size = 0;  ///< where it lies in the text, in bytes
};

/// What two neighbours become: the lowest priority is merged first, and the leftmost of equals.
struct joined {
  double priority = 0;
  token id = -1;
};

/// Byte-pair merging, the heart of both tokenizers: while any two neighbours can be joined, the best two are.
/// `join(left, right)` is a std::optional<joined>. n symbols cost O(n log n): the symbols are a linked list, the
/// candidates a heap, and a candidate whose symbols have changed since is known by its size.
template <class Join>
std::vector<symbol> merge(const std::vector<symbol>& symbols, Join&& join) {
  constexpr std::size_t none = static_cast<std::size_t>(-1);
  struct node {
    symbol value;
    std::size_t previous, next;
  };
  struct candidate {
    joined result;
    std::size_t left, right, size;
    bool operator<(const candidate& other) const {  // std::priority_queue gives the greatest first
      if (result.priority != other.result.priority) return result.priority > other.result.priority;
      return left > other.left;
    }
  };

  std::vector<node> list;
  list.reserve(symbols.size());
  for (std::size_t i = 0; i < symbols.size(); ++i) {
    list.push_back({symbols[i], i == 0 ? none : i - 1, i + 1 < symbols.size() ? i + 1 : none});
  }

  std::priority_queue<candidate> heap;
  const auto propose = [&](std::size_t left, std::size_t right) {
    if (left == none || right == none) return;
    const std::optional<joined> result = join(list[left].value, list[right].value);
    if (result) heap.push({*result, left, right, list[left].value.size + list[right].value.size});
  };
  for (std::size_t i = 1; i < list.size(); ++i) propose(i - 1, i);

  while (!heap.empty()) {
    const candidate best = heap.top();
    heap.pop();
    node& left = list[best.left];
    node& right = list[best.right];
    // A swallowed node has size 0; a grown one makes the sum larger than it was.
    const bool stale = left.value.size == 0 || right.value.size == 0 || left.value.size + right.value.size != best.size;
    if (stale) continue;
    left.value.id = best.result.id;
    left.value.size = best.size;
    left.next = right.next;
    if (right.next != none) list[right.next].previous = best.left;
    right.value.size = 0;
    propose(left.previous, best.left);
    propose(best.left, left.next);
  }

  std::vector<symbol> out;
  for (std::size_t i = list.empty() ? none : 0; i != none; i = list[i].next) out.push_back(list[i].value);
  return out;
}

}  // namespace engine
