// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/quant/concept.hpp"

namespace kvc::inline v0_1::quant {

/// The first First rows and the newest Last rows of a sequence are kept in bf16 beside the pages, the others by Codec.
/// The first tokens are outliers that every query attends (KVQuant, arXiv 2401.18079, section 3.5).
template <int First, int Last, class Codec>
struct exact_ends {
  static_assert(First >= 0 && Last >= 0, "kvc: quant::exact_ends<First, Last, Codec> needs First >= 0 and Last >= 0");
  static_assert(is_on_axis<Codec, quant_axis>, "kvc: quant::exact_ends<First, Last, Codec> takes a quant policy");

  using axis = quant_axis;
  using inner_codec = Codec;
  static constexpr auto name = named("exact_ends", First, Last, Codec::name);
  static constexpr int first_rows = First;
  static constexpr int last_rows = Last;
};

}  // namespace kvc::inline v0_1::quant
