// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "device_twin.cuh"

// Appending on the device gives the host's bytes: row transforms, heads that are merged, extents known at run time.
// Where a sum precedes the encoder its rounding may differ, and with it, rarely, a code.

namespace {

using namespace kvc_test;
using model = shape<2, 4, 2, 64>;
using wide = shape<1, 4, 2, 128>;

/// With means, channels and weights that are no defaults.
template <class Spec>
void calibrated_as_host(std::uint64_t seed, bool exact = true, bool wild = true) {
  const kvc::calibration<Spec> constants = random_calibration<Spec>(seed);
  same_bytes_as_host<Spec>(seed, exact, wild, {}, {}, &constants);
}

}  // namespace

TEST_CASE("append: rotated and centred rows") {
  same_bytes_as_host<compose<shape<2, 4, 2, 96>, rotated<integer<4, 32>>>>(21);
  calibrated_as_host<compose<model, centred<integer<4, 32>>, sinks_and_window<2, 70>>>(22);
}

TEST_CASE("append: means of rotated rows, in groups of tokens and in one scale for runs of bits") {
  using tapered = kvc::quant::tapered<run<32, 6>, run<32, 4>, run<64, 3>>;
  calibrated_as_host<
      compose<wide, kv<rotated<centred<integer<4, 32, affine, per_channel>>>, rotated<centred<tapered>>>>>(27);
}

TEST_CASE("append: fewer channels") {
  calibrated_as_host<compose<model, kv_dims<pruned<48>, full>, kv<rotated<none<kvc::bf16>>, integer<4, 32>>>>(23);
  same_bytes_as_host<compose<model, low_rank<32>, integer<4, 32>>>(24, true, false);  // leading channels: exact
  same_bytes_as_host<compose<wide, low_rank<96>>>(26, true, false);
}

TEST_CASE("append: merged heads, and extents known at run time") {
  calibrated_as_host<compose<dynamic_shape<32>, mapped<dynamic>, single, integer<4, 16>>>(25, false, false);
}
