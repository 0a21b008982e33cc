// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/core/math.hpp"
#include "kvc/dims/concept.hpp"
#include "kvc/quant/concept.hpp"
#include "kvc/rotary/concept.hpp"

namespace kvc::inline v0_1 {

namespace detail {

template <class Q>
struct end_rows {
  static constexpr int first = 0, last = 0;
};
template <class Q>
requires quant::is_wrapper<Q>
struct end_rows<Q> {
  using inner = end_rows<typename Q::inner_codec>;
  static constexpr int own_first() {
    if constexpr (requires { Q::first_rows; }) return Q::first_rows;
    return 0;
  }
  static constexpr int own_last() {
    if constexpr (requires { Q::last_rows; }) return Q::last_rows;
    return 0;
  }
  static constexpr int first = max_of(own_first(), inner::first);
  static constexpr int last = max_of(own_last(), inner::last);
};

/// Floats that the wrappers around a codec keep per stored head.
template <class Q, int Width>
struct wrapper_floats {
  static constexpr int value = 0;
};
template <class Q, int Width>
requires quant::is_wrapper<Q>
struct wrapper_floats<Q, Width> {
  static constexpr int own() {
    if constexpr (requires { Q::template own_floats<Width>; }) return Q::template own_floats<Width>;
    return 0;
  }
  static constexpr int value = own() + wrapper_floats<typename Q::inner_codec, Width>::value;
};

}  // namespace detail

/// One kind of row that a slot stores per token and stored head: keys, values, a latent, or a rotary key.
///
/// Row t of a sequence of length L lives in one of three places, which seal_boundary(L) separates:
///   t < first_rows                       the exact first rows, in bf16, beside the pages
///   t < seal_boundary(L)                 a page, as codes
///   t >= seal_boundary(L)                the open tail, in bf16: a ring of ring_rows rows
/// The ring is longer than the open tail by the rows that a truncate can cut exactly: the rows that are open again then
/// are still there.
template <class Dims, class Quant, int ModelWidth, class Rotary, class Storage>
struct stream {
  using dims_policy = Dims;
  using quant_policy = Quant;
  using rotary_policy = Rotary;
  using codec = typename quant::innermost<Quant>::type;

  static constexpr int model_width = ModelWidth;                  ///< channels of the model's row
  static constexpr int width = Dims::template width<ModelWidth>;  ///< channels of the stored row
  static constexpr bool is_deferred = Rotary::is_deferred;
  static constexpr int score_width = is_deferred ? model_width : width;  ///< channels that a query is scored over

  static constexpr int tokens_per_page = Storage::tokens_per_page;
  static constexpr int tokens_per_group = codec::tokens_per_group;
  static constexpr int first_rows = detail::end_rows<Quant>::first;
  static constexpr int newest_rows =
      max_of(detail::end_rows<Quant>::last, tokens_per_group > 1 ? Storage::rollback_rows : 0);
  static constexpr int open_rows = newest_rows + tokens_per_group - 1;  ///< most rows that are not sealed
  static constexpr bool has_ring = open_rows > 0;
  static constexpr int ring_rows = has_ring ? open_rows + Storage::rollback_rows : 0;
  static constexpr int exact_rows = first_rows + ring_rows;  ///< bf16 rows per sequence, slot and head

  static constexpr int row_bytes = codec::template row_bytes<width>;
  static constexpr int group_bytes = codec::template group_bytes<width>;
  static constexpr int64 codes_bytes = static_cast<int64>(tokens_per_page) * row_bytes;  ///< per page and head
  static constexpr int64 segment_bytes =
      codes_bytes + static_cast<int64>(tokens_per_page / tokens_per_group) * group_bytes;
  static constexpr int64 exact_row_bytes = 2 * width;

  static constexpr int dims_floats = Dims::template calibration_floats<ModelWidth>;
  static constexpr int wrapper_floats = detail::wrapper_floats<Quant, width>::value;
  static constexpr int calibration_floats = dims_floats + wrapper_floats;

  /// Rows below this one are sealed once the sequence has `length` rows.
  KVC_HD static constexpr int64 seal_boundary(int64 length) {
    const int64 old = length - newest_rows;
    return old <= 0 ? 0 : old / tokens_per_group * tokens_per_group;
  }
};

}  // namespace kvc::inline v0_1
