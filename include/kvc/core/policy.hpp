// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/core/config.hpp"

namespace kvc::inline v0_1 {

// A policy is an empty struct that names its axis: `using axis = kvc::quant_axis;`. There is no registration and no
// base class. Each axis folder has a concept.hpp that says what else the policy must define.

struct layers_axis {};
struct heads_axis {};
struct rotary_axis {};
struct dims_axis {};
struct quant_axis {};
struct tokens_axis {};
struct storage_axis {};

template <class P>
concept policy = requires {
  typename P::axis;
};

template <class P, class Axis>
inline constexpr bool is_on_axis = false;
template <class P, class Axis>
requires policy<P>
inline constexpr bool is_on_axis<P, Axis> = __is_same(typename P::axis, Axis);

namespace detail {
template <class...>
inline constexpr bool always_false = false;
}  // namespace detail

}  // namespace kvc::inline v0_1
