// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "device_twin.cuh"

// Appending on the device gives the host's bytes: compositions with exact rows and open groups, which steps seal.

namespace {
using namespace kvc_test;
using model = shape<2, 4, 2, 64>;
}  // namespace

TEST_CASE("append: groups of tokens") {
  same_bytes_as_host<compose<model, kv<integer<4, 32, affine, per_channel>, integer<2, 32>>>>(11);
  same_bytes_as_host<compose<shape<2, 4, 2, 40>, storage<16>, integer<3, 8, symmetric, per_channel>>, float>(12);
}

TEST_CASE("append: groups of tokens in wide rows") {
  same_bytes_as_host<compose<shape<1, 4, 2, 128>, kv<exact_ends<5, 0, rotated<integer<4, 32, affine, per_channel>>>,
                                                     integer<8, 64, midrise, per_channel>>>>(16);
  same_bytes_as_host<compose<shape<1, 2, 1, 256>, kv<integer<2, 16, affine, per_channel, scale_type::fp32>,
                                                     exact_ends<40, 12, integer<3, 32, symmetric, per_channel>>>>,
                     float>(17);
}

TEST_CASE("append: first and newest rows") {
  same_bytes_as_host<compose<model, exact_ends<4, 16, rotated<integer<4, 64>>>>>(13);
  same_bytes_as_host<
      compose<model, kv<exact_ends<5, 0, integer<2, 16, symmetric, per_channel>>, exact_ends<0, 2, none<float>>>>>(14);
}

TEST_CASE("append: a latent with groups of tokens") {
  same_bytes_as_host<compose<shape<3, 3, 3, 32>, shared<2>, kvc::heads::latent, latent<32, 16>,
                             kv<integer<2, 16, affine, per_channel>, exact_ends<2, 5, integer<4, 16>>>>>(15);
}
