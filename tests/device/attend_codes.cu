// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include "device_products_suite.cuh"

// Attention of few queries over keys and values in codes of 2, 4 and 8 bits, by warps of their own
// (cuda/attend_codes.cuh), within the error of rounding weights to fp16.

namespace {

using namespace kvc_test;

using specs =
    list<compose<shape<2, 32, 8, 128>, integer<4, 128>>, compose<shape<1, 8, 2, 128>, integer<2, 128>>,
         compose<shape<1, 8, 2, 128>, integer<8, 128>, storage<16>>,
         compose<shape<1, 6, 2, 64>, kv<integer<8, 32, midrise>, integer<4, 32, midrise>>, storage<128>>,
         compose<shape<1, 4, 1, 256>, integer<4, 64, symmetric>, sinks_and_window<3, 150>>,
         compose<shape<1, 5, 1, 128>, kv<integer<2, 64, midrise>, integer<8, 128, symmetric>>, storage<32>>,
         compose<shape<1, 3, 3, 128>, kv<integer<8, 32, affine, per_token, scale_type::fp32>, integer<2, 64>>>,
         compose<shape<1, 16, 1, 128>, rotated<integer<4, 32>>>,
         compose<shape<1, 8, 2, 192>, kv<integer<4, 128>, integer<4, 128, symmetric>>>,
         compose<shape<1, 4, 2, 256>, integer<8, 256>>, compose<shape<1, 8, 2, 128>, low_rank<64>, integer<4, 64>>>;

template <class... Specs>
constexpr bool all_take_codes(list<Specs...>) {
  return (kvc::cuda::detail::takes_codes<Specs>({}) && ...);
}
static_assert(all_take_codes(specs{}), "the test would be of another kernel");

}  // namespace

std::vector<device_composition> kvc_test::suite() {
  return device_compositions_of(specs{});
}
std::vector<int64> kvc_test::query_counts() {
  return {4, 9, 24};
}
bool kvc_test::runs_here() {
  return true;
}
