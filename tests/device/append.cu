// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "device_twin.cuh"

// Appending on the device gives the host's bytes: compositions that encode every row at once.

namespace {
using namespace kvc_test;
using model = shape<2, 4, 2, 64>;
}  // namespace

TEST_CASE("append: elements") {
  same_bytes_as_host<compose<model>>(1);
  same_bytes_as_host<compose<shape<2, 4, 2, 80>, kv<none<float>, none<kvc::fp16>>, shared<2>>, float>(2);
}

TEST_CASE("append: integers") {
  same_bytes_as_host<compose<model, integer<4, 32>, storage<16>>>(3);
  same_bytes_as_host<compose<shape<2, 4, 4, 128>, kv<integer<8, 64, symmetric>, integer<3, 32, midrise>>>, kvc::fp16>(
      4);
}

TEST_CASE("append: scaled elements and graded rows") {
  same_bytes_as_host<compose<model, kv<fp8_e4m3<32>, graded<run<16, 6>, run<16, 4>, run<32, 3>>>>>(5);
}

TEST_CASE("append: widths of which a team has 16 channels per thread") {
  same_bytes_as_host<compose<shape<1, 4, 2, 128>, kv<rotated<integer<4, 64, midrise>>, integer<4, 128>>>>(7);
  same_bytes_as_host<compose<shape<1, 2, 1, 256>, kv<rotated<integer<3, 8>>, integer<8, whole_segment, symmetric>>>,
                     kvc::fp16>(8);
  same_bytes_as_host<compose<shape<1, 2, 2, 128>, kv<centred<fp8_e4m3<>>, rotated<none<kvc::fp16>>>>, float>(9);
}

TEST_CASE("append: the flagship") {
  same_bytes_as_host<kvc::clla_cache<shape<2, 16, 16, 128>>>(6);
}
