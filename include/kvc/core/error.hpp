// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <stdexcept>
#include <string>

#include "kvc/core/status.hpp"

namespace kvc::inline v0_1 {

/// Thrown by the owning conveniences (host::cache, calibration), never by launchers or tile functions.
class error : public std::runtime_error {
 public:
  error(status code, const std::string& what) : std::runtime_error("kvc: " + what), code_(code) {}
  status code() const noexcept { return code_; }

 private:
  status code_;
};

/// Throws kvc::error unless `s` is ok; `call` names what was tried.
inline void check(status s, const char* call) {
  if (s != status::ok) throw error(s, std::string(call) + ": " + to_string(s));
}

}  // namespace kvc::inline v0_1
