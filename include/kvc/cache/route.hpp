// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/core/status.hpp"

// What a call will do can be asked beforehand: host::route<Spec>(operation), cuda::route<Spec>(operation, queries).

namespace kvc::inline v0_1 {

/// The calls that a route is asked for.
enum class operation { append, append_slots, attend, gather, fork, truncate, save };

/// Which code will run, and why; status::unsupported with the reason where none will.
struct route_answer {
  status code;
  const char* kernel;
  const char* why;
};

}  // namespace kvc::inline v0_1
