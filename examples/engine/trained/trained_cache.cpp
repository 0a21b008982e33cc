// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "trained_cache.hpp"

#include <algorithm>
#include <stdexcept>

#include "composed_cache.hpp"
#include "open_trained.hpp"

namespace engine {
namespace {

template <class Spec>
class rows_of : public composed_cache<Spec, trained_cache> {
  using base = composed_cache<Spec, trained_cache>;

 public:
  rows_of(const std::string& name, const trained_config& config, const cache_options& options)
      : base(name, config.attention(), options),
        of_layer_(static_cast<std::size_t>(config.history()) * static_cast<std::size_t>(config.width)) {
    history_.resize(of_layer_ * static_cast<std::size_t>(config.layers));
  }

  std::span<float> history(int layer) override {
    return std::span(history_).subspan(static_cast<std::size_t>(layer) * of_layer_, of_layer_);
  }

  void truncate(int length) override {
    if (of_layer_ != 0 && length != 0 && length != this->length()) {
      throw std::runtime_error("a model that looks back cannot be taken back to the middle of its sequence");
    }
    base::truncate(length);
    if (length == 0) std::fill(history_.begin(), history_.end(), 0.0f);
  }

  cache_bytes bytes() const override {
    cache_bytes out = base::bytes();
    out.tail += history_.size() * sizeof(float);
    return out;
  }

 private:
  std::size_t of_layer_;
  std::vector<float> history_;  // [layers][history][width]
};

/// As training counts it: one scale for the latent, one for the rotary key.
using four_bits = kvc::quant::integer<4, kvc::quant::whole_segment, kvc::quant::midrise>;

template <int Latent, int Rotary, int Sharing, class Quant>
using latents =
    kvc::clla_cache<kvc::shape<kvc::dynamic, kvc::dynamic, kvc::dynamic, 64>, Latent, Rotary, Sharing, Quant>;

template <class Spec>
std::unique_ptr<trained_cache> make(std::string_view name, const trained_config& config, const cache_options& options) {
  return std::make_unique<rows_of<Spec>>(std::string(name), config, options);
}

template <int Latent, int Rotary, int Sharing>
std::unique_ptr<trained_cache> make_latents(std::string_view name, const trained_config& config,
                                            const cache_options& options) {
  if (name == "fp32") return make<latents<Latent, Rotary, Sharing, kvc::quant::none<float>>>(name, config, options);
  if (config.bits == 4) return make<latents<Latent, Rotary, Sharing, four_bits>>(name, config, options);
  if (config.bits == 16) return make<latents<Latent, Rotary, Sharing, kvc::quant::none<>>>(name, config, options);
  throw std::invalid_argument("no cache is built for latents in " + std::to_string(config.bits) + " bits (4, 16)");
}

template <int Latent, int Rotary>
std::unique_ptr<trained_cache> make_shared(std::string_view name, const trained_config& config,
                                           const cache_options& options) {
  return config.sharing == 1 ? make_latents<Latent, Rotary, 1>(name, config, options)
                             : make_latents<Latent, Rotary, 2>(name, config, options);
}

template <int Dim>
std::unique_ptr<trained_cache> make_heads(std::string_view name, const trained_config& config,
                                          const cache_options& options) {
  if (name == "fp32") return make<typename compositions<Dim>::fp32>(name, config, options);
  return make<typename compositions<Dim>::bf16>(name, config, options);
}

}  // namespace

std::vector<cache_entry> list_trained_caches() {
  return {{"own", "the format that the model was trained with", false, true, ""},
          {"fp32", "rows as they come, for comparison", false, false, ""}};
}

std::unique_ptr<trained_cache> make_trained_cache(std::string_view name, const trained_config& config,
                                                  const cache_options& options) {
  if (name != "own" && name != "fp32") {
    throw std::invalid_argument("there is no cache '" + std::string(name) +
                                "' for a trained model (there are: own, fp32)");
  }
  if (config.is_latent) {
    if (config.latent == 128 && config.rotary == 16) return make_shared<128, 16>(name, config, options);
    if (config.latent == 192 && config.rotary == 24) return make_shared<192, 24>(name, config, options);
    throw std::invalid_argument("no cache is built for latents of " + std::to_string(config.latent) + " + " +
                                std::to_string(config.rotary) + " channels (128 + 16, 192 + 24)");
  }
  if (config.head_dim == 64) return make_heads<64>(name, config, options);
  throw std::invalid_argument("no cache of a trained model is built for heads of " + std::to_string(config.head_dim) +
                              " channels (64)");
}

}  // namespace engine
