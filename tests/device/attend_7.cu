// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "device_attend_suite.cuh"

namespace kvc_test {

// Keys that are stored before their rotary embedding, in every way that tiles take them: turned as they are decoded,
// expanded by products, and row by row.
template <int Bits>
using channels = integer<Bits, 32, affine, per_channel>;
template <class... Runs>
using tapered = kvc::quant::tapered<Runs...>;
using deferred_compositions =
    list<compose<shape<1, 8, 2, 128>, interleaved<>, kv<channels<4>, integer<4, 32>>>,
         compose<shape<1, 4, 1, 128>, half_split<>, kv<centred<channels<2>>, integer<2, 64>>>,
         compose<shape<1, 4, 2, 64>, half_split<>, none<float>>,
         compose<shape<1, 8, 2, 128>, interleaved<>, kv_dims<low_rank<128>, full>,
                 kv<exact_ends<4, 8, centred<tapered<run<16, 8>, run<16, 6>, run<48, 4>, run<32, 3>, run<16, 2>>>>,
                    exact_ends<4, 8, centred<rotated<integer<4, 64, midrise>>>>>>,
         compose<shape<1, 4, 2, 128>, half_split<96>, storage<32>, kv_dims<low_rank<96>, full>,
                 kv<rotated<tapered<run<32, 5>, run<64, 7>>>, integer<3, 128>>>,
         compose<shape<1, 4, 1, 256>, half_split<>, low_rank<64>, integer<4, 32>>,
         compose<shape<1, 2, 1, 256>, interleaved<>, low_rank<128>, integer<4, 32>>>;

}  // namespace kvc_test

std::vector<kvc_test::device_composition> kvc_test::suite() {
  return device_compositions_of(deferred_compositions{});
}
