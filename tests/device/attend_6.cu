// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "device_attend_suite.cuh"

namespace kvc_test {

// Rows so wide that two warps share the scores of the same rows.
template <class Latent, class Rotary>
using wide = compose<shape<2, 4, 4, 128>, shared<2>, kvc::heads::latent, latent<512, 64>, kv<Latent, Rotary>>;
using wide_compositions =
    list<kvc::clla_cache<shape<2, 16, 16, 128>>, wide<none<kvc::bf16>, none<kvc::bf16>>,
         wide<integer<4, 64, symmetric>, exact_ends<2, 4, none<kvc::bf16>>>, wide<fp8_e4m3<128>, integer<8, 64>>,
         compose<shape<2, 4, 4, 128>, kvc::heads::latent, latent<320, 32>, integer<4, whole_segment, midrise>>>;

}  // namespace kvc_test

std::vector<kvc_test::device_composition> kvc_test::suite() {
  return device_compositions_of(wide_compositions{});
}
