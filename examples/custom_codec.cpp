// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// A codec of your own: 16 levels that are dense around zero, where the values of a normal distribution are (NF4, from
// QLoRA, arXiv 2305.14314). It is written, composed, checked in one line, and compared with evenly spaced levels.

#include <cmath>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "kvc/kvc.hpp"
#include "kvc/testing/codec.hpp"

struct normal_float {
  using axis = kvc::quant_axis;
  static constexpr auto name = kvc::text("normal_float");
  static constexpr int tokens_per_group = 1;  // every token stands alone, with one scale
  template <int Width>
  static constexpr int row_bytes = Width / 2;
  template <int Width>
  static constexpr int group_bytes = 2;
  static constexpr float levels[] = {-1,      -0.6962f, -0.5251f, -0.3949f, -0.2844f, -0.1848f, -0.0911f, 0,
                                     0.0796f, 0.1609f,  0.2461f,  0.3379f,  0.4407f,  0.5626f,  0.7230f,  1};
  template <int Width>
  static void encode(const float* x, int, int, kvc::byte* codes, kvc::byte* constants) {
    const kvc::fp16 scale = scale_of<Width>(x);
    __builtin_memcpy(constants, &scale, 2);
    kvc::uint8 code[Width] = {};
    for (int i = 0; i < Width; ++i)
      for (int l = 1; l < 16; ++l) code[i] += x[i] > scale.value() * 0.5f * (levels[l - 1] + levels[l]) ? 1 : 0;
    kvc::quant::pack<4, Width>(code, codes);
  }
  template <int Width>
  static void decode(const kvc::byte* codes, const kvc::byte* constants, int, int, float* x) {
    kvc::fp16 scale;
    __builtin_memcpy(&scale, constants, 2);
    kvc::uint8 code[Width];
    kvc::quant::unpack<4, Width>(codes, code);
    for (int i = 0; i < Width; ++i) x[i] = scale.value() * levels[code[i]];
  }
  template <int Width>  // half of the widest gap, and what is beyond the largest scale
  static void bound(const float* x, int, int, float* out) {
    const float s = scale_of<Width>(x).value();
    for (int i = 0; i < Width; ++i)
      out[i] = s >= 0 ? 0.153f * s + 1.00001f * std::fmax(0.0f, std::fabs(x[i]) - s) : kvc::infinity();
  }
  template <int Width>  // NaN for a row with a NaN or an infinity
  static kvc::fp16 scale_of(const float* x) {
    float largest = 0, nan_if_any = 0;
    for (int i = 0; i < Width; ++i) largest = std::fmax(largest, std::fabs(x[i])), nan_if_any += x[i] * 0;
    return kvc::fp16_above(largest + nan_if_any);
  }
};

/// Prints the bytes of a policy and how far attention over normally distributed rows is from that over exact ones.
template <class Policy>
double show() {
  using model = kvc::shape<1, 4, 4, 128>;
  using exact = kvc::compose<model, kvc::quant::none<float>>;
  using compressed = kvc::compose<model, Policy>;
  constexpr int tokens = 512, width = 4 * 128;
  std::mt19937 generator(4);
  std::normal_distribution<float> normal;
  std::vector<float> k(tokens * width), v(tokens * width), q(tokens * width), out(tokens * width), wanted(out);
  for (std::vector<float>* x : {&k, &v, &q}) {
    for (float& y : *x) y = normal(generator);
  }
  const auto attend = [&](auto cache, std::vector<float>& o) {
    cache.reserve(cache.add_sequence(), tokens);
    cache.append(0, k.data(), v.data());
    cache.attend(0, q.data(), o.data(), nullptr, {.scale = 0.088f});
    cache.commit();
  };
  attend(kvc::host::cache<exact>({.capacity = tokens, .max_step_rows = tokens}), wanted);
  attend(kvc::host::cache<compressed>({.capacity = tokens, .max_step_rows = tokens}), out);
  double error = 0, size = 0;
  for (std::size_t i = 0; i < out.size(); ++i) {
    error += (out[i] - wanted[i]) * (out[i] - wanted[i]);
    size += wanted[i] * wanted[i];
  }
  std::printf("%-48s %4lld bytes per token, relative error of attention %.3f\n", Policy::name.c_str(),
              static_cast<long long>(compressed::bytes_per_token), std::sqrt(error / size));
  return std::sqrt(error / size);
}

int main() {
  const std::string failures = kvc::testing::codec_failures<normal_float, 128>();
  std::fputs(failures.empty() ? "normal_float holds all properties\n" : failures.c_str(), stdout);
  show<kvc::quant::none<kvc::bf16>>();
  const double even = show<kvc::quant::integer<4, kvc::quant::whole_segment, kvc::quant::symmetric>>();
  const double uneven = show<normal_float>();
  return failures.empty() && uneven < even ? 0 : 1;
}
