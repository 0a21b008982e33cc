// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// The codec suite must find each of these defects, by the name of the property that it breaks, and nothing in the codec
// without one.
#include <doctest/doctest.h>

#include <kvc/testing/codec.hpp>

namespace {

enum class defect {
  none,
  scale_off_by_one,
  code_too_large,
  codes_past_the_end,
  codes_before_the_start,
  constants_past_the_end,
  decodes_past_the_end,
  nan_swallowed,
  infinity_swallowed,
  keeps_old_bits,
  reads_beyond,
  needs_alignment,
  counts_calls,
  slice_ignores_begin,
  slice_uses_neighbour,
  part_ignores_begin,
  part_keeps_old_constants,
  bound_too_small,
  bound_negative,
  bound_of_nothing,
  bound_infinite,
  large_becomes_nan,
  no_name,
};

/// One byte per element and one fp32 scale per group of four tokens, sound but for one defect.
template <defect D>
struct faulty {
  using axis = kvc::quant_axis;
  static constexpr auto name = D == defect::no_name ? kvc::text() : kvc::text("faulty");
  static constexpr int tokens_per_group = 4;
  template <int Width>
  static constexpr int row_bytes = Width;
  template <int Width>
  static constexpr int group_bytes = 4;

  static float scale_of(const float* x, int count) {
    float largest = 1e-30f;  // and at most what 127 steps reach without an overflow
    for (int i = 0; i < count; ++i) {
      const float a = x[i] < 0 ? -x[i] : x[i];
      if (!kvc::is_finite(a)) {
        if (D == defect::nan_swallowed && a != a) continue;
        if (D == defect::infinity_swallowed && a == a) continue;
        return kvc::quiet_nan();
      }
      largest = a > largest ? a : largest;
    }
    if (D == defect::large_becomes_nan && largest > 100.0f) return kvc::quiet_nan();
    return (largest < 3.4e38f ? largest : 3.4e38f) / 127.0f * 1.000001f;
  }

  template <int Width>
  static void encode(const float* x, int begin, int end, kvc::byte* codes, kvc::byte* constants) {
    static int calls = 0;
    const float scale = scale_of(x, (end - begin) * Width);
    if (D != defect::part_keeps_old_constants || end - begin == tokens_per_group) {
      __builtin_memcpy(constants, &scale, 4);
    } else {
      float old;
      __builtin_memcpy(&old, constants, 4);
      if (!(old >= scale)) __builtin_memcpy(constants, &scale, 4);
    }
    for (int i = 0; i < (end - begin) * Width; ++i) {
      kvc::byte& code = codes[(D == defect::part_ignores_begin ? 0 : begin * Width) + i];
      const float steps = kvc::is_finite(x[i] / scale) ? x[i] / scale : 0.0f;
      const kvc::byte c = static_cast<kvc::byte>(static_cast<int>(kvc::round_even(steps)) + 128);
      code = D == defect::keeps_old_bits ? static_cast<kvc::byte>(code | c) : c;
    }
    ++calls;
    if (D == defect::counts_calls && calls % 2 == 0) codes[begin * Width] ^= 1;
    if (D == defect::code_too_large) codes[begin * Width + 3] = 255;
    if (D == defect::codes_past_the_end && end == tokens_per_group) codes[end * Width] = 1;
    if (D == defect::codes_before_the_start && begin == 0) codes[-1] = 1;
    if (D == defect::constants_past_the_end) constants[4] = 1;
    if (D == defect::needs_alignment && reinterpret_cast<kvc::size_type>(codes) % 2 != 0) codes[begin * Width] ^= 3;
  }

  template <int Width>
  static void decode(const kvc::byte* codes, const kvc::byte* constants, int begin, int end, float* x) {
    float scale;
    __builtin_memcpy(&scale, constants, 4);
    if (D == defect::scale_off_by_one) scale *= 127.0f / 126.0f;
    if (D == defect::slice_ignores_begin) codes -= begin * Width;
    for (int i = 0; i < (end - begin) * Width; ++i) {
      x[i] = static_cast<float>(codes[begin * Width + i] - 128) * scale;
    }
    if (D == defect::slice_uses_neighbour && begin > 0) x[0] = static_cast<float>(codes[0] - 128) * scale;
    if (D == defect::reads_beyond && end == tokens_per_group && codes[end * Width] == 0xff) x[1] += scale;
    if (D == defect::decodes_past_the_end) x[(end - begin) * Width] = 0;
  }

  template <int Width>
  static void bound(const float* x, int begin, int end, float* out) {
    const float scale = scale_of(x, (end - begin) * Width);
    for (int i = 0; i < (end - begin) * Width; ++i) {
      out[i] = scale * 0.51f;
      if (D == defect::bound_too_small) out[i] = scale * 0.3f;
      if (D == defect::bound_negative) out[i] = -out[i];
      if (D == defect::bound_of_nothing) out[i] = scale * 1000.0f;
      if (D == defect::bound_infinite || !(scale >= 0)) out[i] = kvc::infinity();
    }
  }
};

template <int RowBytes, int GroupBytes>
struct sizes : faulty<defect::none> {
  template <int Width>
  static constexpr int row_bytes = RowBytes;
  template <int Width>
  static constexpr int group_bytes = GroupBytes;
};

/// Whether a line of the report names the property.
bool names(const std::string& report, const std::string& property) {
  return report.find(": " + property + ": ") != std::string::npos;
}

template <defect D>
std::string report() {
  return kvc::testing::codec_failures<faulty<D>, 16>();
}

}  // namespace

TEST_CASE("a sound codec has no failures") {
  CHECK(report<defect::none>() == "");
}

TEST_CASE("each defect is found under the name of its property") {
  const auto finds = [](const std::string& found, const char* property) {
    CAPTURE(property);
    CAPTURE(found);
    CHECK(names(found, property));
  };
  finds(report<defect::scale_off_by_one>(), "decode(encode(x)) is within bound");
  finds(report<defect::code_too_large>(), "decode(encode(x)) is within bound");
  finds(report<defect::codes_past_the_end>(), "encode writes row_bytes of codes and no more");
  finds(report<defect::codes_before_the_start>(), "encode writes row_bytes of codes and no more");
  finds(report<defect::constants_past_the_end>(), "encode writes group_bytes of constants and no more");
  finds(report<defect::decodes_past_the_end>(), "decode writes its tokens and no more");
  finds(report<defect::nan_swallowed>(), "NaN stays visible");
  finds(report<defect::infinity_swallowed>(), "an infinity does not become finite");
  finds(report<defect::keeps_old_bits>(), "codes do not depend on what was in memory before");
  finds(report<defect::reads_beyond>(), "decode reads its own bytes alone");
  finds(report<defect::needs_alignment>(), "codes may lie at any address");
  finds(report<defect::counts_calls>(), "encode is deterministic");
  finds(report<defect::slice_ignores_begin>(), "decode of some tokens is the slice of decode of all");
  finds(report<defect::slice_uses_neighbour>(), "decode of some tokens is the slice of decode of all");
  finds(report<defect::part_ignores_begin>(), "encode of some tokens leaves the codes of the others");
  finds(report<defect::part_keeps_old_constants>(), "codes of some tokens do not depend on what was in memory before");
  finds(report<defect::bound_too_small>(), "decode(encode(x)) is within bound");
  finds(report<defect::bound_negative>(), "bound is a number from 0 to infinity");
  finds(report<defect::bound_of_nothing>(), "bound says something");
  finds(report<defect::bound_infinite>(), "bound says something");
  finds(report<defect::large_becomes_nan>(), "finite rows decode to finite rows");
  finds(report<defect::no_name>(), "the name is not empty");
  finds(kvc::testing::codec_failures<sizes<0, 4>, 16>(), "row_bytes is positive");
  finds(kvc::testing::codec_failures<sizes<16, -4>, 16>(), "group_bytes is not negative");
}

TEST_CASE("a report has one line per property, with the codec, the width and an example") {
  const std::string found = report<defect::nan_swallowed>();
  CHECK(found.substr(0, 51) == "codec faulty, width 16: NaN stays visible: element ");
  CHECK(found.find('\n') == found.size() - 1);
}
