// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <stdexcept>

// What a fuzz target lets a reader of files do, and what it does not.

/// A refusal of the input is no finding; any other exception is one.
template <class Call>
void may_refuse(Call&& call) {
  try {
    call();
  } catch (const std::runtime_error&) {
  }
}

inline void expect(bool holds) {
  if (!holds) __builtin_trap();
}
