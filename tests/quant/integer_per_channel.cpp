// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "codec_checks.hpp"

TEST_CASE("integer codecs per channel over groups of tokens, against the independent decoder") {
  codec_checks::check_all(policy_lists::per_channel_of<kvc::quant::affine>{});
  codec_checks::check_all(policy_lists::per_channel_of<kvc::quant::symmetric>{});
  codec_checks::check_all(policy_lists::per_channel_of<kvc::quant::midrise>{});
}

TEST_CASE("constants of a channel come from its own tokens alone") {
  using codec = kvc::quant::integer<4, 32, kvc::quant::affine, kvc::quant::per_channel>;
  constexpr int width = 8;
  std::vector<float> x(32 * width);
  for (std::size_t i = 0; i < x.size(); ++i)
    x[i] = static_cast<float>(i % width) * 100.0f + static_cast<float>(i / width);
  std::vector<kvc::byte> codes(32 * codec::row_bytes<width>), constants(codec::group_bytes<width>);
  codec::encode<width>(x.data(), 0, 32, codes.data(), constants.data());
  for (int c = 0; c < width; ++c) {
    // 0..31 over 15 steps: the scale is 31/15 rounded up to fp16, whatever the channel's offset.
    const unsigned char* at = constants.data() + 4 * c;
    CHECK(codec_reference::fp16_number(codec_reference::little_endian(at, 2)) == 1059.0 / 512);
    CHECK(codec_reference::fp16_number(codec_reference::little_endian(at + 2, 2)) == 100.0 * c);
  }
}

TEST_CASE("a NaN spoils its own channel of its group alone") {
  using codec = kvc::quant::integer<2, 32, kvc::quant::affine, kvc::quant::per_channel>;
  constexpr int width = 16;
  std::vector<float> x(32 * width, 0.5f), y(32 * width);
  x[7 * width + 3] = std::nanf("");
  std::vector<kvc::byte> codes(32 * codec::row_bytes<width>), constants(codec::group_bytes<width>);
  codec::encode<width>(x.data(), 0, 32, codes.data(), constants.data());
  codec::decode<width>(codes.data(), constants.data(), 0, 32, y.data());
  for (int i = 0; i < 32 * width; ++i) {
    CAPTURE(i);
    CHECK((i % width == 3 ? y[static_cast<std::size_t>(i)] != y[static_cast<std::size_t>(i)]
                          : y[static_cast<std::size_t>(i)] == 0.5f));
  }
}
