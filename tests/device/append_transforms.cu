// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "device_twin.cuh"

// Appending on the device gives the host's bytes: row transforms, heads that are merged, extents known at run time.
// Where a sum precedes the encoder its rounding may differ, and with it, rarely, a code.

namespace {
using namespace kvc_test;
using model = shape<2, 4, 2, 64>;
}  // namespace

TEST_CASE("append: rotated and centred rows") {
  same_bytes_as_host<compose<shape<2, 4, 2, 96>, rotated<integer<4, 32>>>>(21);
  same_bytes_as_host<compose<model, centred<integer<4, 32>>, sinks_and_window<2, 70>>>(22);
}

TEST_CASE("append: fewer channels") {
  same_bytes_as_host<compose<model, kv_dims<pruned<48>, full>, kv<rotated<none<kvc::bf16>>, integer<4, 32>>>>(23);
  same_bytes_as_host<compose<model, low_rank<32>, integer<4, 32>>>(24, true, false);  // leading channels: exact
  same_bytes_as_host<compose<shape<1, 4, 2, 128>, low_rank<96>>>(26, true, false);
}

TEST_CASE("append: merged heads, and extents known at run time") {
  same_bytes_as_host<compose<dynamic_shape<32>, mapped<dynamic>, single, integer<4, 16>>>(25, false, false);
}
