// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/core/config.hpp"

namespace kvc::inline v0_1 {

/// A short text known at compile time: the names of policies, as they stand in cache files and reports.
struct text {
  static constexpr int capacity = 511;
  char chars[capacity + 1] = {};
  int length = 0;

  constexpr text() = default;
  constexpr text(const char* s) {
    while (*s != '\0') push(*s++);
  }
  constexpr text(int n) {
    if (n < 0) push('-');
    unsigned value = n < 0 ? 0u - static_cast<unsigned>(n) : static_cast<unsigned>(n);
    char digits[10] = {};
    int count = 0;
    do {
      digits[count++] = static_cast<char>('0' + value % 10);
      value /= 10;
    } while (value != 0);
    while (count > 0) push(digits[--count]);
  }

  constexpr const char* c_str() const { return chars; }
  constexpr void push(char c) {
    if (length < capacity) chars[length++] = c;
  }
  friend constexpr text operator+(text a, const text& b) {
    for (int i = 0; i < b.length; ++i) a.push(b.chars[i]);
    return a;
  }
  friend constexpr bool operator==(const text& a, const text& b) {
    if (a.length != b.length) return false;
    for (int i = 0; i < a.length; ++i) {
      if (a.chars[i] != b.chars[i]) return false;
    }
    return true;
  }
};

/// "head<first,second,...>"
template <class... Parts>
constexpr text named(const char* head, const Parts&... parts) {
  text t(head);
  if constexpr (sizeof...(Parts) > 0) {
    char separator = '<';
    ((t.push(separator), t = t + text(parts), separator = ','), ...);
    t.push('>');
  }
  return t;
}

}  // namespace kvc::inline v0_1
