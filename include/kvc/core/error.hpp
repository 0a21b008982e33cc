// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <exception>

#include "kvc/core/status.hpp"

namespace kvc::inline v0_1 {

/// Thrown by the owning conveniences (host::cache, calibration), never by launchers or tile functions. Its text is kept
/// within the object, as far as 255 characters go: <string> would be most of what including kvc/core costs.
class error : public std::exception {
 public:
  error(status code, const char* what) : code_(code) {
    add("kvc: ");
    add(what);
  }
  /// what: a std::string, or what else has c_str().
  template <class Text>
  requires requires(const Text& text) { text.c_str(); }
  error(status code, const Text& text) : error(code, text.c_str()) {}
  error(status code, const char* call, const char* what) : error(code, call) {
    add(": ");
    add(what);
  }

  status code() const noexcept { return code_; }
  const char* what() const noexcept override { return text_; }

 private:
  void add(const char* text) {
    while (*text != 0 && length_ + 1 < static_cast<int>(sizeof text_)) text_[length_++] = *text++;
  }

  status code_;
  int length_ = 0;
  char text_[256] = {};
};

/// Throws kvc::error unless `s` is ok; `call` names what was tried.
inline void check(status s, const char* call) {
  if (s != status::ok) throw error(s, call, to_string(s));
}

}  // namespace kvc::inline v0_1
