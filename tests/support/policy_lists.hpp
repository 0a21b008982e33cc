// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <kvc/quant/quant.hpp>

// The codecs that the typed tests run over. Together they meet every number of bits, every grid, both groupings, both
// types of constants, groups that divide the widths and groups that do not, and one group for a whole segment.

namespace policy_lists {

template <class... T>
struct list {};

template <int... Widths>
struct widths {};

using all_widths = widths<8, 16, 48, 64, 80, 96, 128, 512>;

using namespace kvc::quant;  // NOLINT: the lists are read as a user would write them
inline constexpr scale_type fp32 = scale_type::fp32;

using plain = list<none<float>, none<kvc::bf16>, none<kvc::fp16>>;

template <grid Grid>
using per_token_of = list<integer<8, 32, Grid>, integer<6, 128, Grid>, integer<5, 64, Grid>, integer<4, 32, Grid>,
                          integer<4, whole_segment, Grid>, integer<3, 16, Grid>, integer<2, 24, Grid>,
                          integer<8, whole_segment, Grid, per_token, fp32>, integer<7, 40, Grid, per_token, fp32>,
                          integer<4, 128, Grid, per_token, fp32>, integer<2, 16, Grid, per_token, fp32>>;

template <grid Grid>
using per_channel_of =
    list<integer<8, 16, Grid, per_channel>, integer<4, 32, Grid, per_channel>, integer<3, 8, Grid, per_channel, fp32>,
         integer<2, 32, Grid, per_channel>, integer<2, 64, Grid, per_channel, fp32>>;

using fp8 = list<fp8_e4m3<>, fp8_e4m3<32>, fp8_e4m3<24>, fp8_e4m3<whole_segment>, fp8_e4m3<64, fp32>,
                 fp8_e4m3<whole_segment, fp32>>;

}  // namespace policy_lists
