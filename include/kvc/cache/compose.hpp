// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cache/spec.hpp"
#include "kvc/heads/heads.hpp"
#include "kvc/layers/layers.hpp"
#include "kvc/rotary/rotary.hpp"
#include "kvc/tokens/tokens.hpp"

namespace kvc::inline v0_1 {

namespace detail {

template <class Axis, class Default, class... Policies>
struct pick {
  using type = Default;
};
template <class Axis, class Default, class P, class... Rest>
struct pick<Axis, Default, P, Rest...> : pick<Axis, Default, Rest...> {};
template <class Axis, class Default, class P, class... Rest>
requires is_on_axis<P, Axis>
struct pick<Axis, Default, P, Rest...> {
  using type = P;
};

template <class Axis, class... Policies>
inline constexpr int count_on = ((is_on_axis<Policies, Axis> ? 1 : 0) + ... + 0);

template <class P>
inline constexpr bool is_known =
    is_on_axis<P, layers_axis> || is_on_axis<P, heads_axis> || is_on_axis<P, rotary_axis> || is_on_axis<P, dims_axis> ||
    is_on_axis<P, quant_axis> || is_on_axis<P, tokens_axis> || is_on_axis<P, storage_axis>;

template <class... P>
inline constexpr bool no_duplicates =
    count_on<layers_axis, P...> <= 1 && count_on<heads_axis, P...> <= 1 && count_on<rotary_axis, P...> <= 1 &&
    count_on<dims_axis, P...> <= 1 && count_on<quant_axis, P...> <= 1 && count_on<tokens_axis, P...> <= 1 &&
    count_on<storage_axis, P...> <= 1;

// The ladder: policies one by one, before anything is built from them, so that a mistake prints its own sentence first.

template <class Shape, class Dims, class Quant>
consteval bool check_dims_and_quant() {
  using first = typename sides<Quant>::first;
  using second = typename sides<Quant>::second;
  if constexpr (dims::is_latent<Dims>) {
    return quant::detail::check<first, Dims::rank>() && quant::detail::check<second, Dims::rotary>();
  } else {
    using key = typename sides<Dims>::first;
    using value = typename sides<Dims>::second;
    constexpr int head_dim = Shape::head_dim;
    static_assert(dims::detail::check<key, head_dim>() && dims::detail::check<value, head_dim>());
    return quant::detail::check<first, key::template width<head_dim>>() &&
           quant::detail::check<second, value::template width<head_dim>>();
  }
}

template <class Stream>
consteval bool check_stream() {
  static_assert(Stream::tokens_per_group >= 1 && Stream::tokens_per_page % Stream::tokens_per_group == 0,
                "kvc: compose: groups of tokens must divide the tokens of a page (see kvc::storage)");
  static_assert(Stream::width % 8 == 0, "kvc: compose: a stored row needs a multiple of 8 channels");
  return true;
}

template <class Spec>
consteval bool check_spec() {
  using shape_type = typename Spec::shape_type;
  if constexpr (shape_type::query_heads != dynamic && shape_type::kv_heads != dynamic) {
    static_assert(Spec::heads_policy::stored(shape_type::query_heads, shape_type::kv_heads) > 0,
                  "kvc: compose: the heads policy does not divide the heads: a group must divide the query heads, and "
                  "its rows the KV heads");
  }
  if constexpr (shape_type::layers != dynamic && requires { Spec::layers_policy::layer_count; }) {
    static_assert(Spec::layers_policy::layer_count == shape_type::layers,
                  "kvc: compose: layers::mapped needs one entry per layer of the shape");
  }
  static_assert(Spec::name().length < text::capacity,
                "kvc: compose: the composition's name is too long to tell it from others in cache files");
  return check_stream<typename Spec::first_stream>() && check_stream<typename Spec::second_stream>();
}

template <class Shape, class... Policies>
struct composed {
  static_assert(is_shape<Shape>,
                "kvc: compose: the first argument must be a kvc::shape<Layers, QueryHeads, KvHeads, HeadDim>");
  static_assert(
      (is_known<Policies> && ...),
      "kvc: compose: every further argument must be a policy (a struct with 'using axis = kvc::quant_axis' or "
      "another axis)");
  static_assert(no_duplicates<Policies...>,
                "kvc: compose: two policies of the same axis; combine them with split<K, V> or drop one");

  using layers_policy = typename pick<layers_axis, layers::own, Policies...>::type;
  using dims_policy = typename pick<dims_axis, dims::full, Policies...>::type;
  using heads_policy = typename pick<heads_axis, heads::all, Policies...>::type;
  using rotary_policy = typename pick<rotary_axis, rotary::applied, Policies...>::type;
  using quant_policy = typename pick<quant_axis, quant::none<bf16>, Policies...>::type;
  using tokens_policy = typename pick<tokens_axis, tokens::all, Policies...>::type;
  using storage_policy = typename pick<storage_axis, storage<>, Policies...>::type;

  static_assert(layers::detail::check<layers_policy>() && heads::detail::check<heads_policy>() &&
                rotary::detail::check<rotary_policy, Shape::head_dim>() && tokens::detail::check<tokens_policy>());
  static_assert(heads::is_latent<heads_policy> == dims::is_latent<dims_policy>,
                "kvc: compose: heads::latent and dims::latent imply each other; give both or neither");
  static_assert(
      !(heads::is_latent<heads_policy> && rotary_policy::is_deferred),
      "kvc: compose: a latent cache stores its rotary key after the embedding; rotary::deferred does not apply");
  static_assert(check_dims_and_quant<Shape, dims_policy, quant_policy>());

  using type = cache_spec<Shape, layers_policy, heads_policy, rotary_policy, dims_policy, quant_policy, tokens_policy,
                          storage_policy>;
  static_assert(check_spec<type>());
};

}  // namespace detail

/// The cache type of a model shape and any policies, in any order; omitted axes get the identity, elements bf16.
template <class Shape, class... Policies>
using compose = typename detail::composed<Shape, Policies...>::type;

}  // namespace kvc::inline v0_1
