// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cache/compose.hpp"

// Published methods as the compositions that they are. Each alias takes further policies, so that methods combine:
// methods::mla<Shape, quant::integer<8, 64>>.

namespace kvc::inline v0_1::methods {

/// Multi-Query Attention: one KV head for all query heads (arXiv 1911.02150).
template <class Shape, class... Policies>
using mqa = compose<Shape, heads::single, Policies...>;

/// Grouped-Query Attention: one KV head per Group query heads (arXiv 2305.13245).
template <class Shape, int Group, class... Policies>
using gqa = compose<Shape, heads::grouped<Group>, Policies...>;

/// Multi-head Latent Attention: a joint latent and a rotary key per layer, 16 bit (DeepSeek-V2, arXiv 2405.04434).
template <class Shape, int Rank = 512, int Rotary = 64, class... Policies>
using mla = compose<Shape, heads::latent, dims::latent<Rank, Rotary>, Policies...>;

/// Cross-Layer Attention: runs of Share layers read one slot (arXiv 2405.12981).
template <class Shape, int Share = 2, class... Policies>
using cla = compose<Shape, layers::shared<Share>, Policies...>;

/// KVSharer: deeper layers read a shallower, dissimilar one by a table found on sample text (arXiv 2410.18517;
/// calibrate/layer_similarity.hpp finds it).
template <class Shape, class... Policies>
using kvsharer = compose<Shape, layers::mapped<dynamic>, Policies...>;

/// KIVI: keys per channel over groups of tokens, values per token; the newest tokens stay exact (arXiv 2402.02750).
template <class Shape, int Bits = 2, int Group = 32, class... Policies>
using kivi = compose<Shape,
                     quant::split<quant::integer<Bits, Group, quant::affine, quant::per_channel>,
                                  quant::integer<Bits, Group, quant::affine, quant::per_token>>,
                     Policies...>;

/// QuaRot's cache: Hadamard-rotated heads, affine, one group per head and token (arXiv 2404.00456).
template <class Shape, int Bits = 4, class... Policies>
using quarot = compose<Shape, quant::rotated<quant::integer<Bits, quant::whole_segment>>, Policies...>;

/// ThinK: only Kept channels of every key (arXiv 2407.21018; calibrate/kept_channels.hpp chooses them).
template <class Shape, int Kept, class... Policies>
using think = compose<Shape, dims::split<dims::pruned<Kept>, dims::full>, Policies...>;

/// StreamingLLM: attention sinks and a window of recent tokens, with absolute positions (arXiv 2309.17453).
template <class Shape, int Sinks = 4, int Window = 1024, class... Policies>
using streaming_llm = compose<Shape, tokens::sinks_and_window<Sinks, Window>, Policies...>;

/// Palu's cache at one rank for all heads: low-rank keys before their rotary embedding, low-rank values
/// (arXiv 2407.21118, with one head per group).
template <class Shape, int Rank, class... Policies>
using palu = compose<Shape, dims::low_rank<Rank>, rotary::deferred<>, Policies...>;

}  // namespace kvc::inline v0_1::methods
