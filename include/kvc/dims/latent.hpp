// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/dims/concept.hpp"

namespace kvc::inline v0_1::dims {

/// A joint latent of Rank channels for keys and values, and a rotary key of Rotary channels beside it (MLA, arXiv
/// 2405.04434, section 2.1). Append takes (latent | rotary key) rows, attend takes (Rank + Rotary) query values per
/// head, absorbed by the caller, and returns Rank: values are the latent itself. Goes together with heads::latent.
template <int Rank, int Rotary>
struct latent {
  static_assert(Rank >= 1 && Rotary >= 1, "kvc: dims::latent<R, Rotary> needs R >= 1 and Rotary >= 1 channels");

  using axis = dims_axis;
  static constexpr auto name = named("latent", Rank, Rotary);
  static constexpr bool is_latent = true;
  static constexpr int rank = Rank;
  static constexpr int rotary = Rotary;
};

}  // namespace kvc::inline v0_1::dims
