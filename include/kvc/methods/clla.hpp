// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cache/compose.hpp"

namespace kvc::inline v0_1 {

/// The flagship, Cross-Layer Latent Attention (arXiv 2410.15252): one joint latent of Rank channels and one rotary key
/// instead of all heads' keys and values, shared by runs of Share layers, in 4 bit. For shape<32, 16, 16, 128> a row
/// has 308 bytes, 154 per token and layer: 1.88 % of 16-bit MHA.
template <class Shape, int Rank = 512, int Rotary = 64, int Share = 2, class Quant = quant::integer<4, 128>,
          class... Policies>
using clla_cache = compose<Shape, heads::latent, dims::latent<Rank, Rotary>, layers::shared<Share>, Quant, Policies...>;

}  // namespace kvc::inline v0_1
