// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

#include "compositions.hpp"
#include "kvc/kvc.hpp"
#include "trained_config.hpp"

// The kvc compositions that trained models are read through, on the host as on a GPU.

namespace engine {

/// As training counts it: one scale for the latent, one for the rotary key.
template <int Bits>
using whole_rows = kvc::quant::integer<Bits, kvc::quant::whole_segment, kvc::quant::midrise>;
using four_bits = whole_rows<4>;
using four_and_eight_bits = kvc::quant::split<whole_rows<4>, whole_rows<8>>;  ///< a rotary key of half the channels

template <int Latent, int Rotary, int Sharing, class Quant>
using latents =
    kvc::clla_cache<kvc::shape<kvc::dynamic, kvc::dynamic, kvc::dynamic, 64>, Latent, Rotary, Sharing, Quant>;

template <class Few, int Latent, int Rotary, int Sharing, class F>
auto with_bits(std::string_view name, const trained_config& config, int rotary_bits, F&& f) {
  if (name == "fp32") return f.template operator()<latents<Latent, Rotary, Sharing, kvc::quant::none<float>>>();
  if (config.bits == 4 && config.rotary_bits == rotary_bits) {
    return f.template operator()<latents<Latent, Rotary, Sharing, Few>>();
  }
  if (config.bits == 16 && config.rotary_bits == 16) {
    return f.template operator()<latents<Latent, Rotary, Sharing, kvc::quant::none<>>>();
  }
  throw std::invalid_argument("no cache is built for latents in " + std::to_string(config.bits) +
                              " bits with rotary keys in " + std::to_string(config.rotary_bits) + " (4 with " +
                              std::to_string(rotary_bits) + ", 16 with 16)");
}

template <int Latent, int Rotary, class F>
auto with_shared(std::string_view name, const trained_config& config, F&& f) {
  using few = std::conditional_t < Rotary<16, four_and_eight_bits, four_bits>;
  constexpr int rotary_bits = Rotary < 16 ? 8 : 4;
  return config.sharing == 1 ? with_bits<few, Latent, Rotary, 1>(name, config, rotary_bits, f)
                             : with_bits<few, Latent, Rotary, 2>(name, config, rotary_bits, f);
}

/// f.operator()<Spec>() for the composition that serves this model under this name: "own", the format that it was
/// trained with, or "fp32", rows as they come. Throws std::invalid_argument where there is none.
template <class F>
auto with_trained_format(std::string_view name, const trained_config& config, F&& f) {
  if (name != "own" && name != "fp32") {
    throw std::invalid_argument("there is no cache '" + std::string(name) +
                                "' for a trained model (there are: own, fp32)");
  }
  if (config.is_latent) {
    if (config.latent == 128 && config.rotary == 16) return with_shared<128, 16>(name, config, f);
    if (config.latent == 128 && config.rotary == 8) return with_shared<128, 8>(name, config, f);
    if (config.latent == 192 && config.rotary == 24) return with_shared<192, 24>(name, config, f);
    throw std::invalid_argument("no cache is built for latents of " + std::to_string(config.latent) + " + " +
                                std::to_string(config.rotary) + " channels (128 + 16, 128 + 8, 192 + 24)");
  }
  if (config.head_dim != 64) {
    throw std::invalid_argument("no cache of a trained model is built for heads of " + std::to_string(config.head_dim) +
                                " channels (64)");
  }
  if (name == "fp32") return f.template operator()<typename compositions<64>::fp32>();
  return f.template operator()<typename compositions<64>::bf16>();
}

}  // namespace engine
