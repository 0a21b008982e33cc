// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <type_traits>

#include "kvc/cache/route.hpp"
#include "kvc/core/text.hpp"
#include "kvc/cuda/append.cuh"
#include "kvc/cuda/attend.cuh"

// Which kernel a call will launch, and why: read off the types that the kernels themselves are made of.

namespace kvc::inline v0_1::cuda {

using kvc::operation;
using kvc::route_answer;

namespace detail {

/// How a device_tile brings rows into shared memory.
enum class tile_way { one_thread, by_warp, expanded, turned, channels, scaled, stored, pairs, decoded };

template <class Tile>
consteval tile_way way_of(int limbs) {
  if (Tile::turns) return tile_way::turned;
  if constexpr (requires { Tile::by_product; }) return Tile::by_product ? tile_way::expanded : tile_way::by_warp;
  if (Tile::by_rows) return tile_way::one_thread;
  if (Tile::keeps_channels) return tile_way::channels;
  if (Tile::in_units) return Tile::groups > 0 ? tile_way::scaled : tile_way::stored;
  return limbs == 2 ? tile_way::pairs : tile_way::decoded;
}

/// {name, reason} of a stream's tiles.
template <class Tile>
consteval text tile_words(int limbs, bool reason) {
  const char* words[][2] = {
      {"row by row", Tile::expands ? "slow: one thread turns a row, as keys are stored before their rotary embedding"
                                   : "slow: one thread decodes a row, as the codec has no decode_channels"},
      {"by warps",
       "slow: a warp expands and turns a row, as registers do not hold its basis or its rotary policy is new"},
      {"expanded", "products with the inverse of dims and wrappers, turned in registers"},
      {"turned", "chunks of 16 channels are decoded, turned and rounded to bf16"},
      {"per channel", "constants of the channels stay in registers"},
      {"as stored", "products take the codes, sums and weights take scales and offsets"},
      {"as stored", "bf16 holds the elements exactly"},
      {"pairs of bf16", "fp32 elements are the sum of two bf16"},
      {"decoded", "chunks of 16 channels are decoded and rounded to bf16"}};
  text t(words[static_cast<int>(way_of<Tile>(limbs))][reason ? 1 : 0]);
  if (reason && Tile::unit < 4) t = t + text("; slow: not aligned to 4 bytes, rows are copied byte by byte");
  return t;
}

template <class Spec, int Queries>
struct attend_words {
  using layout = attend_layout<Spec, Queries>;
  static consteval text both(bool reason) {
    return text(Spec::is_latent ? "latent" : "keys") + text(reason ? ": " : " ") +
           tile_words<typename layout::first_tile>(layout::limbs, reason) + text(reason ? "; " : ", ") +
           text(Spec::is_latent ? "rotary key" : "values") + text(reason ? ": " : " ") +
           tile_words<typename layout::second_tile>(layout::limbs, reason);
  }
  static constexpr text kernel = text("attend_kernel, ") + text(Queries) + text(" queries x ") + text(layout::rows) +
                                 text(" rows: ") + both(false) +
                                 text(is_direct<Spec>(1) ? "; merge_kernel where rows are split" : "; merge_kernel");
  static constexpr text why = both(true);
};

/// With products of bytes.
template <class Spec, int Queries>
struct byte_words {
  using block = byte_block<Spec, float, Queries>;
  static constexpr text kernel = text("attend_bytes_kernel, ") + text(block::queries) + text(" queries x ") +
                                 text(block::rows) + text(" rows: codes as they lie; merge_kernel") +
                                 text(is_direct<Spec>(1) ? " where rows are split" : "");
};

template <class Spec>
constexpr route_answer bytes_route(int64 queries) {
  using shape = attend_shape<Spec>;
  const char* why =
      "products of bytes, where code for sm_90a was compiled (else attend_kernel): queries are rounded to 8 bits, "
      "weights to fp16, scores and weights take scales and offsets";
  if (shape::byte_queries(queries) == 16) return {status::ok, byte_words<Spec, 16>::kernel.c_str(), why};
  if (shape::byte_queries(queries) == 32) return {status::ok, byte_words<Spec, 32>::kernel.c_str(), why};
  return {status::ok, byte_words<Spec, shape::most_byte_queries>::kernel.c_str(), why};
}

/// By warps of their own, with codes as operands.
template <class Spec>
struct code_words {
  static constexpr text kernel = text("attend_codes_kernel, ") + text(attend_shape<Spec>::few) +
                                 text(" queries x 16 rows per warp: codes as they lie; merge_kernel") +
                                 text(is_direct<Spec>(1) ? " where rows are split" : "");
};

template <class Spec, int Queries>
constexpr route_answer attend_route(const device_limits& device) {
  if (attend_layout<Spec, Queries>::bytes > device.shared_bytes) {
    return {status::unsupported, "none", "a tile of rows and its queries do not fit into the device's shared memory"};
  }
  return {status::ok, attend_words<Spec, Queries>::kernel.c_str(), attend_words<Spec, Queries>::why.c_str()};
}

/// Whether append multiplies a stream's rows on tensor cores, if they come as they are to be stored.
template <class Spec, bool First>
inline constexpr bool appends_products = multiplies<stream_of<Spec, First>, bf16, rows_as_given>;

/// Whether all threads take part in a new row of a stream, from the model's row to its codes.
template <class Spec, bool First>
consteval bool appends_by_team() {
  using stream_type = stream_of<Spec, First>;
  using shares = row_shares<stream_type>;
  constexpr bool multiplied = appends_products<Spec, First>;
  using row_team = warp_team<multiplied ? 4 : append_teams<stream_type, rows_as_given>::lanes>;
  using seals = seal_teams<stream_type>;
  using group_team = std::conditional_t<stream_type::has_ring && seals::by_block, block_team<seals::threads>, row_team>;
  if constexpr (group_shares<stream_type>::exists) return true;
  const bool in_shares = multiplied ? product_rows<stream_type, bf16, 4>::shares : shares::exists && shares::encodes;
  return (shares::exists || transform<stream_type>::template takes_team<row_team>)&&(
      (in_shares && !stream_type::has_ring) || stream_rows<Spec, First>::template encode_takes_team<group_team>);
}

template <class Spec>
struct append_words {
  using first = append_teams<typename Spec::first_stream, rows_as_given>;
  using second = append_teams<typename Spec::second_stream, rows_as_given>;
  static constexpr bool seals =
      seal_teams<typename Spec::first_stream>::exist || seal_teams<typename Spec::second_stream>::exist;
  static constexpr bool first_is_product = appends_products<Spec, true>;
  static constexpr bool second_is_product = appends_products<Spec, false>;
  template <class Teams>
  static consteval text threads() {
    if constexpr (Teams::groups::exists) return text("a block per group of tokens");
    return text(Teams::lanes) + text(" threads per row");
  }
  static consteval text words() {
    const bool same = first::groups::exists == second::groups::exists && first::lanes == second::lanes;
    text t;
    if (first_is_product || second_is_product) t = text("append_product_kernel, 16 rows per warp");
    if (first_is_product != second_is_product) t = t + text("; ");
    if (!first_is_product || !second_is_product) t = t + text("append_kernel, ");
    if (!first_is_product) t = t + threads<first>();
    if (!first_is_product && !second_is_product && !same) t = t + text(" and ");
    if (!second_is_product && (first_is_product || !same)) t = t + threads<second>();
    return t + text(seals ? "; seal_kernel" : "");
  }
  static consteval text reason() {
    text t(Spec::has_ring ? "rows wait in the open tail until their group of tokens is full or old enough"
                          : "a team transforms and encodes each row at once");
    if (first_is_product || second_is_product) {
      t = t + text("; tensor cores multiply rows by their basis, unless they are prepared or of merged heads");
    }
    if (!appends_by_team<Spec, true>() || !appends_by_team<Spec, false>()) {
      t = t + text("; slow: a policy whose functions take no team is run by one thread of it");
    }
    return t;
  }
  static constexpr text kernel = words();
  static constexpr text why = reason();
};

}  // namespace detail

/// What a call will launch. `queries`: of one sequence and stored row, that is new rows x query heads per stored head;
/// it chooses among attend's kernels. Reasons that begin with 'slow' name what a composition costs.
template <class Spec>
constexpr route_answer route(operation op, int64 queries = 1, const device_limits& device = {}) {
  using append = detail::append_words<Spec>;
  using shape = detail::attend_shape<Spec>;
  switch (op) {
    case operation::append:
      if (detail::seal_shared_bytes < Spec >> device.shared_bytes) {
        return {status::unsupported, "none", "a group of tokens does not fit into shared memory"};
      }
      return {status::ok, append::kernel.c_str(), append::why.c_str()};
    case operation::append_slots:
      if (Spec::has_tail) {
        return {status::unsupported, "none",
                "exact rows and open groups belong to a sequence, which a slot mapping does not name"};
      }
      return {status::ok, append::kernel.c_str(), append::why.c_str()};
    case operation::attend:
      if constexpr (detail::byte_shape<Spec>::exists) {
        if (detail::takes_bytes<Spec>(device)) return detail::bytes_route<Spec>(queries);
      }
      if constexpr (shape::has_codes) {
        if (detail::takes_codes<Spec>(device) && shape::block_queries(queries) == shape::few) {
          return {
              status::ok, detail::code_words<Spec>::kernel.c_str(),
              "codes are operands: queries are two bytes, weights fp16, scores and weights take scales and offsets"};
        }
      }
      if (shape::block_queries(queries) == shape::few) return detail::attend_route<Spec, shape::few>(device);
      return detail::attend_route<Spec, shape::many>(device);
    case operation::gather:
      return {status::ok, "gather_kernel", "a team decodes each row and undoes its transforms"};
    case operation::fork:
      return {status::ok, "copy_pages_kernel, copy_tails_kernel",
              "pages are shared until one side writes to them, exact rows are copied"};
    case operation::truncate:
      if (!Spec::has_ring) return {status::ok, "none needed", "every row is in its page: the lengths change"};
      return {status::ok, "truncate_kernel", "sealed rows that belong to the tail again come back as they decode"};
    case operation::save:
      return {status::ok, "copies to the host", "pages have the host's bytes, which the host writes with their header"};
  }
  return {status::invalid_argument, "none", "no such operation"};
}

}  // namespace kvc::inline v0_1::cuda
