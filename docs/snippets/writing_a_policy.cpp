// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// The policies of docs/writing_a_policy.md: one per kind, each as short as it can be, each checked by its suite.

#include <iostream>

#include "kvc/kvc.hpp"
#include "kvc/testing/testing.hpp"

// [codec]
// Eight bits per element and one exponent per token (block floating point): x ~ code * 2^(exponent - 133).
// NaN and infinities have the largest exponent, 255: their whole row decodes to NaN.
struct shared_exponent {
  using axis = kvc::quant_axis;
  static constexpr auto name = kvc::text("shared_exponent");
  static constexpr int tokens_per_group = 1;  // every token stands alone: begin is 0, end is 1
  template <int Width>
  static constexpr int row_bytes = Width;
  template <int Width>
  static constexpr int group_bytes = 1;

  template <int Width>
  KVC_HD static void encode(const float* x, int /*begin*/, int /*end*/, kvc::byte* codes, kvc::byte* constants) {
    const kvc::uint32 exponent = largest_exponent<Width>(x);
    constants[0] = static_cast<kvc::byte>(exponent);
    for (int i = 0; i < Width; ++i) {
      const float c = kvc::round_even(x[i] / step(exponent));
      codes[i] = static_cast<kvc::byte>(static_cast<int>(c > -127 ? (c < 127 ? c : 127) : -127) + 128);
    }
  }
  template <int Width>
  KVC_HD static void decode(const kvc::byte* codes, const kvc::byte* constants, int /*begin*/, int /*end*/, float* x) {
    const float s = constants[0] == 255 ? kvc::quiet_nan() : step(constants[0]);
    for (int i = 0; i < Width; ++i) x[i] = static_cast<float>(static_cast<int>(codes[i]) - 128) * s;
  }
  // Half a step from rounding; a whole one where 128 steps were clipped to 127.
  template <int Width>
  static void bound(const float* x, int /*begin*/, int /*end*/, float* out) {
    const kvc::uint32 exponent = largest_exponent<Width>(x);
    for (int i = 0; i < Width; ++i) out[i] = exponent == 255 ? kvc::infinity() : step(exponent);
  }

 private:
  template <int Width>
  KVC_HD static kvc::uint32 largest_exponent(const float* x) {
    kvc::uint32 largest = 0;
    for (int i = 0; i < Width; ++i) largest = kvc::max_of(largest, kvc::float_bits(x[i]) & 0x7fffffffu);
    return largest >> 23;
  }
  KVC_HD static float step(kvc::uint32 exponent) {  // 2^(exponent - 133), subnormal below 7
    return kvc::bits_float(exponent > 6 ? (exponent - 6) << 23 : 1u << (exponent + 16));
  }
};
// [codec]

// [wrapper]
// Divides every channel by a constant of the calibration before the inner codec sees it.
template <class Codec>
struct scaled_channels {
  using axis = kvc::quant_axis;
  using inner_codec = Codec;
  static constexpr auto name = kvc::named("scaled_channels", Codec::name);
  template <int Width>
  static constexpr int own_floats = Width;  // constants per stored head

  template <int Width>
  static void initialise(float* scale) {  // stands for no calibration
    for (int i = 0; i < Width; ++i) scale[i] = 1;
  }
  template <int Width>
  KVC_HD static void forward(float* x, const float* scale) {
    for (int i = 0; i < Width; ++i) x[i] /= scale[i];
  }
  template <int Width>
  KVC_HD static void inverse(float* x, const float* scale) {
    for (int i = 0; i < Width; ++i) x[i] *= scale[i];
  }
  // <q, x> = <fold_query(q), forward(x)> + what it returns
  template <int Width>
  KVC_HD static float fold_query(float* q, const float* scale) {
    inverse<Width>(q, scale);
    return 0;
  }
  // From a weighted sum of forward(x) to the sum of x; mass is the sum of the weights.
  template <int Width>
  KVC_HD static void unfold_output(float* o, float /*mass*/, const float* scale) {
    inverse<Width>(o, scale);
  }
};
// [wrapper]

// [dims]
// Every second channel.
struct halved {
  using axis = kvc::dims_axis;
  static constexpr auto name = kvc::text("halved");
  template <int HeadDim>
  static constexpr int width = HeadDim / 2;
  template <int HeadDim>
  static constexpr int calibration_floats = 0;

  template <int HeadDim>
  static void initialise(float* /*constants*/) {}
  template <int HeadDim>
  KVC_HD static void compress(const float* row, float* stored, const float* /*constants*/) {
    for (int i = 0; i < HeadDim / 2; ++i) stored[i] = row[2 * i];
  }
  template <int HeadDim>
  KVC_HD static void expand(const float* stored, float* row, const float* /*constants*/) {
    for (int i = 0; i < HeadDim; ++i) row[i] = i % 2 == 0 ? stored[i / 2] : 0;
  }
  template <int HeadDim>
  KVC_HD static void fold_query(const float* query, float* folded, const float* constants) {
    compress<HeadDim>(query, folded, constants);
  }
};
// [dims]

// [layers]
// Layers from First on all read the rows of layer First (YOCO, arXiv 2405.05254, has half of the layers so).
template <int First>
struct shared_from {
  using axis = kvc::layers_axis;
  static constexpr auto name = kvc::named("shared_from", First);
  KVC_HD static constexpr int leader(int layer, const kvc::int32* /*table*/) { return layer < First ? layer : First; }
};
// [layers]

// [use]
using cache_type = kvc::compose<kvc::shape<4, 8, 2, 64>, shared_from<2>, kvc::dims::split<halved, kvc::dims::full>,
                                scaled_channels<shared_exponent>>;
static_assert(cache_type::bytes_per_token == 3 * 2 * (32 + 1 + 64 + 1));  // slots, heads, bytes of a key and a value
// [use]

int main() {
  // [suites]
  std::string failures;
  failures += kvc::testing::codec_failures<shared_exponent, 64>();
  failures += kvc::testing::wrapper_failures<scaled_channels<shared_exponent>, 64>();
  failures += kvc::testing::dims_failures<halved, 64>();
  failures += kvc::testing::layers_failures<shared_from<2>>(4);
  std::cout << (failures.empty() ? "all properties hold\n" : failures);
  // [suites]
  std::cout << cache_type::name().c_str() << "\n";
  return failures.empty() ? 0 : 1;
}
