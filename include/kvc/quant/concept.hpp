// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/core/dtype.hpp"
#include "kvc/core/policy.hpp"
#include "kvc/core/team.hpp"
#include "kvc/core/text.hpp"

// A quant policy says how the elements of a stored row are kept. There are two kinds:
//
//   codec    encodes a group of tokens x [tokens][Width] into codes (row_bytes<Width> per token) and group constants
//            such as scales (group_bytes<Width> per group of tokens_per_group tokens), and decodes them;
//   wrapper  transforms rows before its inner codec (rotated, centred) or keeps some of them exact (exact_ends).
//
// Row functions and encode may take a team (core/team.hpp) as their last argument, as the built-in ones do; on a GPU
// one thread of the team runs those that do not.
//
// A codec of single tokens may define 'static constexpr bool decodes_runs = true': decode then takes tokens
// [begin, end) of a page at once, from the page's codes and constants. Without it decode gets one token at a time.
//
// Every codec states its error: bound() gives, per element, a number that |x - decode(encode(x))| never exceeds.

namespace kvc::inline v0_1::quant {

/// Kernels that decode a row in pieces take this many channels at a time. A codec may define, beside decode,
///   template <int Width> KVC_HD static void decode_channels(const byte* row_codes, const byte* group_constants,
///                                                           int channel, float* x)
/// for channels [channel, channel + 16) of one row, `channel` a multiple of 16, zero beyond Width; the pointers are
/// those of the row's codes and of its group's constants. Without it rows are decoded whole, by one thread each.
inline constexpr int chunk_channels = 16;

/// Where one scale applies: to channels of one token, or to tokens of one channel.
enum grouping { per_token, per_channel };

/// How the levels of a group lie: affine has a scale and an offset; symmetric is centred on an exact zero and leaves
/// one code unused; midrise has all 2^bits levels at odd multiples of half a step.
enum grid { affine, symmetric, midrise };

/// A group that spans the whole segment.
inline constexpr int whole_segment = 1 << 30;

template <class P>
inline constexpr bool is_wrapper = requires {
  typename P::inner_codec;
};

/// The codec inside all wrappers.
template <class P>
struct innermost {
  using type = P;
};
template <class P>
requires is_wrapper<P>
struct innermost<P> {
  using type = typename innermost<typename P::inner_codec>::type;
};

namespace detail {

template <class P>
concept has_name = requires {
  P::name.c_str();
};
template <class P>
concept has_tokens_per_group = requires {
  P::tokens_per_group + 0;
};
template <class P, int Width>
concept has_sizes = requires {
  {P::template row_bytes<Width> + 0};
  {P::template group_bytes<Width> + 0};
};
template <class P, int Width>
concept has_encode = requires(const float* x, byte* codes, byte* constants) {
  P::template encode<Width>(x, 0, 1, codes, constants);
};
template <class P, int Width>
concept has_decode = requires(const byte* codes, const byte* constants, float* x) {
  P::template decode<Width>(codes, constants, 0, 1, x);
};
template <class P, int Width>
concept has_decode_channels = requires(const byte* codes, const byte* constants, float* x) {
  P::template decode_channels<Width>(codes, constants, 0, x);
};
template <class P, int Width>
concept has_bound = requires(const float* x, float* out) {
  P::template bound<Width>(x, 0, 1, out);
};

template <class P, int Width>
concept has_constants = requires(float* constants) {
  {P::template own_floats<Width> + 0};
  P::template initialise<Width>(constants);
};
template <class P, int Width>
concept has_forward = requires(float* x, const float* constants) {
  P::template forward<Width>(x, constants);
};
template <class P, int Width>
concept has_inverse = requires(float* x, const float* constants) {
  P::template inverse<Width>(x, constants);
};
template <class P, int Width>
concept has_fold_query = requires(float* x, const float* constants) {
  {P::template fold_query<Width>(x, constants) + 0.0f};
};
template <class P, int Width>
concept has_unfold_output = requires(float* x, const float* constants) {
  P::template unfold_output<Width>(x, 1.0f, constants);
};
template <class P>
concept has_sides = requires {
  typename P::first_policy;
};

/// Whether encode is executed by all threads of a team.
template <class P, int Width, class Team>
concept encode_takes_team = requires(const float* x, byte* codes, byte* constants, Team team) {
  P::template encode<Width>(x, 0, 1, codes, constants, team);
};
/// Whether a codec of single tokens encodes a row that lies in its team's registers (core/team.hpp).
template <class P, int Width, class Team>
concept encodes_share = requires(const float* x, byte* codes, byte* constants, Team team) {
  P::template encode_share<Width>(x, codes, constants, true, team);
};
/// Whether a wrapper transforms one.
template <class P, int Width, class Team>
concept forwards_share = requires(float* x, const float* constants, Team team) {
  P::template forward_share<Width>(x, constants, team);
};
/// Whether a wrapper's row functions are executed by all threads of a team.
template <class P, int Width, class Team>
concept rows_take_team = requires(float* x, const float* constants, Team team) {
  P::template forward<Width>(x, constants, team);
  P::template inverse<Width>(x, constants, team);
  P::template fold_query<Width>(x, constants, team);
  P::template unfold_output<Width>(x, 1.0f, constants, team);
};

/// Sentences for people about a codec.
template <class P, int Width>
consteval bool check_codec() {
  static_assert(!has_sides<P>, "kvc: quant::split<K, V> stands outside of wrappers: split<rotated<K>, rotated<V>>");
  static_assert(is_on_axis<P, quant_axis>, "kvc: a codec must define 'using axis = kvc::quant_axis'");
  static_assert(has_name<P>, "kvc: a codec must define 'static constexpr auto name = kvc::text(\"...\")'");
  static_assert(has_tokens_per_group<P>,
                "kvc: a codec must define 'static constexpr int tokens_per_group' (1 if every token stands alone)");
  static_assert(has_sizes<P, Width>,
                "kvc: a codec must define 'template <int Width> static constexpr int row_bytes, group_bytes' (codes of "
                "one token; constants of one group of tokens)");
  static_assert(has_encode<P, Width>,
                "kvc: a codec must define 'template <int Width> KVC_HD static void encode(const float* x, int begin, "
                "int end, kvc::byte* codes, kvc::byte* constants)' (tokens [begin, end) of one group)");
  static_assert(has_decode<P, Width>,
                "kvc: a codec must define 'template <int Width> KVC_HD static void decode(const kvc::byte* codes, "
                "const kvc::byte* constants, int begin, int end, float* x)' (tokens [begin, end) of one group)");
  static_assert(has_bound<P, Width>,
                "kvc: a codec must define 'template <int Width> static void bound(const float* x, int begin, int end, "
                "float* out)' (largest possible |x - decode(encode(x))| per element)");
  return true;
}

/// Sentences for people about a wrapper. One that has none of the row functions (exact_ends) leaves rows as they are.
template <class P, int Width>
consteval bool check_wrapper() {
  static_assert(is_on_axis<P, quant_axis>, "kvc: a wrapper must define 'using axis = kvc::quant_axis'");
  static_assert(has_name<P>, "kvc: a wrapper must define 'static constexpr auto name = kvc::text(\"...\")'");
  if constexpr (has_forward<P, Width> || has_inverse<P, Width> || has_fold_query<P, Width> ||
                has_unfold_output<P, Width>) {
    static_assert(has_constants<P, Width>,
                  "kvc: a wrapper that transforms rows must define 'template <int Width> static constexpr int "
                  "own_floats' (constants per stored head) and 'template <int Width> static void initialise(float* "
                  "constants)'");
    static_assert(has_forward<P, Width> && has_inverse<P, Width>,
                  "kvc: a wrapper that transforms rows must define 'template <int Width> KVC_HD static void "
                  "forward(float* x, const float* constants)', and 'inverse' with the same arguments");
    static_assert(has_fold_query<P, Width>,
                  "kvc: a wrapper that transforms rows must define 'template <int Width> KVC_HD static float "
                  "fold_query(float* q, const float* constants)' (returns what is the same for all rows)");
    static_assert(has_unfold_output<P, Width>,
                  "kvc: a wrapper that transforms rows must define 'template <int Width> KVC_HD static void "
                  "unfold_output(float* o, float mass, const float* constants)' (mass: the sum of the weights)");
  }
  return true;
}

/// Sentences for people; compose calls it for the quant policy of every segment.
template <class P, int Width>
consteval bool check() {
  if constexpr (is_wrapper<P>) {
    return check_wrapper<P, Width>() && check<typename P::inner_codec, Width>();
  } else {
    return check_codec<P, Width>();
  }
}

}  // namespace detail

}  // namespace kvc::inline v0_1::quant
