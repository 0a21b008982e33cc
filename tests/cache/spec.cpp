// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <cmath>
#include <kvc/kvc.hpp>
#include <type_traits>

#include "compositions.hpp"

// What a composition knows of its bytes, worked out by hand.

using namespace kvc_test;

namespace {

// The flagship: a latent of 512 channels in 4 bit with 4 groups, a rotary key of 64 with one, scale and offset in fp16:
// 256 + 4 * 4 + 32 + 4 = 308 bytes in each of 16 slots.
using flagship = kvc::clla_cache<shape<32, 16, 16, 128>>;
static_assert(flagship::page_bytes(1) == 308 * flagship::tokens_per_page);
static_assert(flagship::bytes_per_token == 4928);
static_assert(flagship::bytes_per_token_per_layer == 154.0);
static_assert(flagship::ratio_to_mha16 > 0.01879 && flagship::ratio_to_mha16 < 0.01881);
static_assert(flagship::tail_bytes_per_sequence == 0);
static_assert(!flagship::has_tail && flagship::calibration_floats == 0);

using bf16_cache = compose<shape<30, 9, 3, 64>>;
static_assert(bf16_cache::bytes_per_token == 30 * 2 * 3 * 64 * 2);
static_assert(bf16_cache::ratio_to_model16 == 1.0);

// Keys per channel: 16 tokens share 32 scales and offsets, so a token's share is 8 bytes; values per token: 4.
using channels = compose<shape<2, 2, 2, 32>, kv<integer<2, 16, affine, per_channel>, integer<4, 32>>>;
static_assert(channels::bytes_per_token == 2 * 2 * (8 + 8 + 16 + 4));
// Keys alone have a tail: up to 8 + 15 open rows, and 8 more that a truncate can cut.
static_assert(channels::first_stream::open_rows == 23 && channels::first_stream::ring_rows == 31);
static_assert(channels::second_stream::exact_rows == 0);
static_assert(channels::tail_bytes_per_sequence == 2 * 2 * 31 * 32 * 2);

// The rows of exact_ends around a codec with groups: the larger of both claims stays open.
using ends = compose<shape<1, 2, 2, 32>, exact_ends<4, 20, integer<4, 16, affine, per_channel>>>;
static_assert(ends::first_stream::first_rows == 4 && ends::first_stream::newest_rows == 20);
static_assert(ends::first_stream::ring_rows == 20 + 15 + 8);
using first_only = compose<shape<1, 2, 2, 32>, exact_ends<4, 0, integer<4, 32>>>;
static_assert(!first_only::has_ring && first_only::has_tail && first_only::first_stream::exact_rows == 4);

// Order does not matter, and defaults are policies like any other.
static_assert(std::is_same_v<compose<shape<2, 4, 2, 32>, integer<4, 32>, shared<2>, storage<16>>,
                             compose<shape<2, 4, 2, 32>, storage<16>, integer<4, 32>, shared<2>>>);
static_assert(std::is_same_v<compose<shape<2, 4, 2, 32>>,
                             compose<shape<2, 4, 2, 32>, none<kvc::bf16>, kvc::tokens::all, kvc::layers::own, full>>);

// Static sizes exist only where all extents are static.
template <class Spec>
concept has_static_sizes = requires {
  Spec::bytes_per_token;
};
static_assert(has_static_sizes<flagship>);
static_assert(!has_static_sizes<compose<dynamic_shape<64>>>);

}  // namespace

TEST_CASE("dynamic extents give the same bytes as static ones") {
  using open = kvc::clla_cache<dynamic_shape<128>>;
  const kvc::extents<open> e = {32, 16, 16};
  REQUIRE(e.validate() == kvc::status::ok);
  CHECK(kvc::bytes_per_token<open>(e) == flagship::bytes_per_token);
  CHECK(kvc::bytes_per_token<flagship>({}) == flagship::bytes_per_token);
  CHECK(kvc::page_pool_bytes<open>(e, 10) == kvc::page_pool_bytes<flagship>({}, 10));
  CHECK(e.slots() == 16);
}

TEST_CASE("a fraction of a byte counts as one") {
  // 16 tokens share 8 scales of 2 bytes: 1 byte each; codes 2 bits of 8 channels: 2 bytes. 64 tokens share: 1/4.
  using whole = compose<shape<1, 1, 1, 8>, integer<2, 16, symmetric, per_channel>>;
  using part = compose<shape<1, 1, 1, 8>, integer<2, 64, symmetric, per_channel>>;
  CHECK(whole::bytes_per_token == 2 * (2 + 1));
  CHECK(part::page_bytes(1) == 2 * (64 * 2 + 16));
  CHECK(part::bytes_per_token == 5);  // 4.5
}

TEST_CASE("slots and leaders of a map") {
  const kvc::extents<compose<shape<5, 2, 2, 32>, mapped<0, 0, 2, 0, 2>>> e;
  CHECK(e.slots() == 2);
  const int slots[] = {0, 0, 1, 0, 1};
  for (int layer = 0; layer < 5; ++layer) {
    CHECK(e.slot(layer) == slots[layer]);
    CHECK(e.writes(layer) == (layer == 0 || layer == 2));
  }
}
