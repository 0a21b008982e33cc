// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <exception>

#include "kvc/core/status.hpp"

namespace kvc::inline v0_1 {

/// Thrown by the owning conveniences (host::cache, calibration), never by launchers or tile functions. Its text is kept
/// within the object, as far as 255 characters go: <string> would be most of what including kvc/core costs.
class error : public std::exception {
 public:
  /// parts: strings, what has c_str(), and integers, one after the other.
  template <class... Parts>
  explicit error(status code, const Parts&... parts) : code_(code) {
    add("kvc: ");
    (add(parts), ...);
  }

  status code() const noexcept { return code_; }
  const char* what() const noexcept override { return text_; }

 private:
  void add(const char* text) {
    while (*text != 0 && length_ + 1 < static_cast<int>(sizeof text_)) text_[length_++] = *text++;
  }
  template <class Text>
  requires requires(const Text& text) { text.c_str(); }
  void add(const Text& text) { add(text.c_str()); }
  void add(int64 number) {
    char digits[24] = {};
    char* first = digits + sizeof digits - 1;
    uint64 rest = number < 0 ? 0 - static_cast<uint64>(number) : static_cast<uint64>(number);
    do {
      *--first = static_cast<char>('0' + rest % 10);
      rest /= 10;
    } while (rest != 0);
    if (number < 0) *--first = '-';
    add(static_cast<const char*>(first));
  }

  status code_;
  int length_ = 0;
  char text_[256] = {};
};

/// Throws kvc::error unless `s` is ok; `call` names what was tried.
inline void check(status s, const char* call) {
  if (s != status::ok) throw error(s, call, ": ", to_string(s));
}

}  // namespace kvc::inline v0_1
