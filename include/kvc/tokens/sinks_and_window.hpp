// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/tokens/concept.hpp"

namespace kvc::inline v0_1::tokens {

/// The first Sinks rows and the newest Window rows (StreamingLLM, arXiv 2309.17453, here with absolute positions).
template <int Sinks, int Window>
struct sinks_and_window {
  static_assert(Sinks >= 0 && Window >= 1, "kvc: tokens::sinks_and_window<S, W> needs S >= 0 and W >= 1");

  using axis = tokens_axis;
  static constexpr auto name = named("sinks_and_window", Sinks, Window);
  static constexpr int sinks = Sinks;
  static constexpr int window = Window;
};

}  // namespace kvc::inline v0_1::tokens
