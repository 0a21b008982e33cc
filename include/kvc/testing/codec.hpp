// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kvc/core/math.hpp"
#include "kvc/quant/concept.hpp"
#include "kvc/testing/failures.hpp"

namespace kvc::inline v0_1::testing {

namespace detail {

/// A group of tokens as one kind of data; every kind has a name, for the example in a failure.
struct codec_data {
  const char* name;
  bool ordinary;  ///< moderate size and spread: the bound must be finite and mean something
  std::vector<float> x;
};

template <class Function>
codec_data make_data(const char* name, bool ordinary, int count, const Function& f) {
  codec_data d{name, ordinary, std::vector<float>(static_cast<std::size_t>(count))};
  for (int i = 0; i < count; ++i) d.x[static_cast<std::size_t>(i)] = f(i);
  return d;
}

inline std::vector<codec_data> codec_inputs(int tokens, int width) {
  random_source r(20250 + static_cast<uint64>(width));
  const int count = tokens * width;
  std::vector<codec_data> all;
  all.push_back(make_data("uniform", true, count, [&](int) { return r.uniform(); }));
  all.push_back(make_data("normal", true, count, [&](int) { return r.normal(); }));
  all.push_back(make_data("normal x 1000", true, count, [&](int) { return 1000.0f * r.normal(); }));
  all.push_back(make_data("normal x 0.001", true, count, [&](int) { return 0.001f * r.normal(); }));
  all.push_back(make_data("around 5", true, count, [&](int) { return 5.0f + 0.5f * r.uniform(); }));
  all.push_back(make_data("around -300", true, count, [&](int) { return -300.0f + r.uniform(); }));
  all.push_back(make_data("channels of unequal size", true, count,
                          [&](int i) { return r.normal() * std::exp2(static_cast<float>(i % width % 7) - 3.0f); }));
  all.push_back(make_data("one outlier", false, count, [&](int i) { return i == count / 3 ? 1000.0f : r.normal(); }));
  all.push_back(make_data("one outlier in each channel", false, count,
                          [&](int i) { return i / width == tokens / 2 ? 300.0f * r.uniform() : r.normal(); }));
  all.push_back(make_data("all equal", false, count, [](int) { return 3.2109375f; }));
  all.push_back(make_data("all equal, no 16-bit number", false, count, [](int) { return -0.1f; }));
  all.push_back(make_data("zeros", false, count, [](int) { return 0.0f; }));
  all.push_back(make_data("negative zeros", false, count, [](int) { return -0.0f; }));
  all.push_back(make_data("zeros but one", false, count, [&](int i) { return i == count / 2 ? -2.5f : 0.0f; }));
  all.push_back(
      make_data("a zero token among others", false, count, [&](int i) { return i < width ? 0.0f : r.normal(); }));
  all.push_back(make_data("one sign", false, count, [&](int) { return std::fabs(r.normal()) + 0.01f; }));
  all.push_back(make_data("two values", false, count, [&](int) { return r.bits() & 1 ? 0.75f : -0.25f; }));
  for (const float size : {1e-5f, 1e-8f, 1e-20f, 1e-37f, 1e-38f, 1e-40f, 3e-44f, 2.8e-45f}) {
    all.push_back(make_data("tiny (down to subnormal)", false, count, [&](int) { return size * r.uniform(); }));
  }
  for (const float size : {448.0f, 6e4f, 7e4f, 1e6f, 3e7f, 1e12f, 1e30f, 3.4e38f, 3.4028234e38f}) {
    all.push_back(make_data("large (beyond fp16)", false, count, [&](int) { return size * r.uniform(); }));
    all.push_back(make_data("large, the largest included", false, count,
                            [&](int i) { return i % 5 == 0 ? size : (i % 7 == 0 ? -size : size * r.uniform()); }));
    all.push_back(make_data("large, one sign", false, count,
                            [&](int) { return size * (0.75f + 0.25f * std::fabs(r.uniform())); }));
  }
  return all;
}

/// Memory with guards on both sides, at any alignment.
class guarded {
 public:
  static constexpr int guard = 64;
  guarded(int count, byte fill, int shift)
      : shift_(shift), count_(count), memory_(static_cast<std::size_t>(count + 2 * guard + shift), fill) {
    std::memset(memory_.data(), edge, static_cast<std::size_t>(guard + shift));
    std::memset(data() + count, edge, guard);
  }
  byte* data() { return memory_.data() + guard + shift_; }
  const byte* data() const { return memory_.data() + guard + shift_; }
  int count() const { return count_; }
  bool intact() const {
    const auto is_edge = [](byte b) { return b == edge; };
    return std::all_of(memory_.begin(), memory_.begin() + guard + shift_, is_edge) &&
           std::all_of(memory_.end() - guard, memory_.end(), is_edge);
  }
  /// Another edge, as a codec might read beyond its own bytes.
  void set_edges(byte b) {
    std::memset(memory_.data(), b, static_cast<std::size_t>(guard + shift_));
    std::memset(data() + count_, b, guard);
  }

 private:
  static constexpr byte edge = 0x5a;
  int shift_;
  int count_;
  std::vector<byte> memory_;
};

/// A codec at one width without its type, so that the checks below are compiled once.
struct any_codec {
  int width;
  int tokens;
  int row_bytes;
  int group_bytes;
  void (*encode)(const float* x, int begin, int end, byte* codes, byte* constants);
  void (*decode)(const byte* codes, const byte* constants, int begin, int end, float* x);
  void (*bound)(const float* x, int begin, int end, float* out);
  void (*decode_channels)(const byte* row_codes, const byte* group_constants, int channel, float* x);  ///< or null

  template <class Codec, int Width>
  static any_codec of() {
    return {Width,
            Codec::tokens_per_group,
            Codec::template row_bytes<Width>,
            Codec::template group_bytes<Width>,
            [](const float* x, int begin, int end, byte* codes, byte* constants) {
              Codec::template encode<Width>(x, begin, end, codes, constants);
            },
            Codec::template decode<Width>,
            Codec::template bound<Width>,
            [] {
              void (*function)(const byte*, const byte*, int, float*) = nullptr;
              if constexpr (quant::detail::has_decode_channels<Codec, Width>) {
                function = Codec::template decode_channels<Width>;
              }
              return function;
            }()};
  }
};

/// One encoded group of tokens.
struct encoded_group {
  const any_codec& codec;
  guarded codes;
  guarded constants;

  explicit encoded_group(const any_codec& c, byte fill, int shift = 0)
      : codec(c), codes(c.tokens * c.row_bytes, fill, shift), constants(c.group_bytes, fill, shift) {}

  void encode(const std::vector<float>& x, int begin, int end) {
    // A copy of the very size, so that a sanitizer sees what is read beyond it.
    const std::vector<float> rows(x.begin() + begin * codec.width, x.begin() + end * codec.width);
    codec.encode(rows.data(), begin, end, codes.data(), constants.data());
  }
  void encode(const std::vector<float>& x) { encode(x, 0, codec.tokens); }
  std::vector<float> decode(int begin, int end) const {
    // With room on both sides, as a codec under test may write there: check_codec_bytes looks.
    constexpr int margin = 16;
    const int count = (end - begin) * codec.width;
    std::vector<float> x(static_cast<std::size_t>(count + 2 * margin));
    codec.decode(codes.data(), constants.data(), begin, end, x.data() + margin);
    return {x.begin() + margin, x.begin() + margin + count};
  }
  std::vector<float> decode() const { return decode(0, codec.tokens); }
  bool same_bytes(const encoded_group& other, int begin, int end) const {
    const int first = begin * codec.row_bytes;
    return std::memcmp(codes.data() + first, other.codes.data() + first,
                       static_cast<std::size_t>((end - begin) * codec.row_bytes)) == 0 &&
           std::memcmp(constants.data(), other.constants.data(), static_cast<std::size_t>(codec.group_bytes)) == 0;
  }
  bool same_bytes(const encoded_group& other) const { return same_bytes(other, 0, codec.tokens); }
};

inline double largest_of(const std::vector<float>& x) {
  double largest = 0;
  for (const float v : x) {
    if (std::isfinite(v)) largest = max_of(largest, std::fabs(static_cast<double>(v)));
  }
  return largest;
}

/// Decoding may be contracted differently in two places: the last bits of fp32 may differ.
inline bool same_rows(const std::vector<float>& a, const std::vector<float>& b, std::size_t from, double largest) {
  for (std::size_t i = 0; i < b.size(); ++i) {
    if (!close(a[from + i], b[i], 1e-6 * largest)) return false;
  }
  return true;
}

inline void check_codec_bound(failures& f, const any_codec& codec, const codec_data& data, int begin, int end) {
  encoded_group run(codec, 0);
  run.encode(data.x, begin, end);
  const std::vector<float> y = run.decode(begin, end);
  const std::vector<float> x(data.x.begin() + begin * codec.width, data.x.begin() + end * codec.width);
  std::vector<float> bound(x.size(), -1.0f);
  codec.bound(x.data(), begin, end, bound.data());
  const double largest = largest_of(x);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const int at = static_cast<int>(i);
    f.expect(bound[i] >= 0, "bound is a number from 0 to infinity", data.name, ", element ", at, ": ", bound[i]);
    const double error = std::fabs(static_cast<double>(x[i]) - static_cast<double>(y[i]));
    const bool within = error <= static_cast<double>(bound[i]) || bound[i] == HUGE_VALF;  // NaN is not within
    f.expect(within, "decode(encode(x)) is within bound", data.name, ", element ", at, ": x ", x[i], ", decoded ", y[i],
             ", bound ", bound[i]);
    if (data.ordinary) {
      f.expect(std::isfinite(y[i]), "finite rows decode to finite rows", data.name, ", element ", at);
      f.expect(static_cast<double>(bound[i]) <= 2 * largest, "bound says something", data.name, ", element ", at,
               ": bound ", bound[i], " for elements up to ", largest);
    }
  }
}

inline void check_codec_bytes(failures& f, const any_codec& codec, const codec_data& data) {
  const int tokens = codec.tokens;
  encoded_group run(codec, 0);
  run.encode(data.x);
  const std::vector<float> whole = run.decode();
  const double largest = max_of(largest_of(data.x), largest_of(whole));
  f.expect(run.codes.intact(), "encode writes row_bytes of codes and no more", data.name);
  f.expect(run.constants.intact(), "encode writes group_bytes of constants and no more", data.name);

  encoded_group again(codec, 0);
  again.encode(data.x);
  f.expect(run.same_bytes(again), "encode is deterministic", data.name);
  f.expect(same_rows(whole, again.decode(), 0, 0), "decode is deterministic", data.name);
  for (const byte fill : {byte(0xff), byte(0x7e)}) {  // as floats: NaN, and a large number
    encoded_group dirty(codec, fill);
    dirty.encode(data.x);
    f.expect(run.same_bytes(dirty), "codes do not depend on what was in memory before", data.name);
    dirty.codes.set_edges(fill);
    dirty.constants.set_edges(fill);
    f.expect(same_rows(whole, dirty.decode(), 0, largest), "decode reads its own bytes alone", data.name);
  }
  encoded_group shifted(codec, 0, 1);
  shifted.encode(data.x);
  f.expect(run.same_bytes(shifted) && same_rows(whole, shifted.decode(), 0, largest), "codes may lie at any address",
           data.name);

  // Decoding a part of the group, and nothing written beside it.
  for (int begin = 0; begin < tokens; ++begin) {
    for (const int end : {begin + 1, (begin + 1 + tokens + 1) / 2, tokens}) {
      if (begin >= end || end > tokens) continue;
      const std::size_t count = static_cast<std::size_t>((end - begin) * codec.width);
      std::vector<float> out(count + 16, 77.0f);
      codec.decode(run.codes.data(), run.constants.data(), begin, end, out.data() + 8);
      bool beside = true;
      for (std::size_t i = 0; i < 8; ++i) beside = beside && out[i] == 77.0f && out[count + 8 + i] == 77.0f;
      f.expect(beside, "decode writes its tokens and no more", data.name, ", tokens ", begin, " to ", end);
      const std::vector<float> part(out.begin() + 8, out.end() - 8);
      f.expect(same_rows(whole, part, static_cast<std::size_t>(begin * codec.width), largest),
               "decode of some tokens is the slice of decode of all", data.name, ", tokens ", begin, " to ", end);
    }
  }

  // Decoding a row in pieces, from codes that lie as in a page.
  if (codec.decode_channels != nullptr) {
    const std::vector<byte> codes(run.codes.data(), run.codes.data() + tokens * codec.row_bytes);
    const std::vector<byte> constants(run.constants.data(), run.constants.data() + codec.group_bytes);
    for (int t = 0; t < tokens; ++t) {
      for (int c = 0; c < codec.width; c += quant::chunk_channels) {
        std::vector<float> chunk(quant::chunk_channels, 77.0f);
        codec.decode_channels(codes.data() + t * codec.row_bytes, constants.data(), c, chunk.data());
        for (int i = 0; i < quant::chunk_channels; ++i) {
          const float wanted = c + i < codec.width ? whole[static_cast<std::size_t>(t * codec.width + c + i)] : 0.0f;
          f.expect(close(chunk[static_cast<std::size_t>(i)], wanted, 1e-6 * largest),
                   "decode_channels is the slice of decode, zero beyond the row", data.name, ", token ", t,
                   ", channel ", c + i);
        }
      }
    }
  }

  // Encoding a part of the group: other tokens' codes stay, and all bytes of the part are defined.
  for (const int begin : {0, 1, tokens / 2, tokens - 1}) {
    for (const int end : {tokens, begin + 1, tokens - 1}) {
      if (begin >= end || end > tokens || (begin == 0 && end == tokens)) continue;
      encoded_group part(codec, 0);
      part.encode(data.x, begin, end);
      for (const byte fill : {byte(0xff), byte(0x7e)}) {
        encoded_group dirty(codec, fill);
        dirty.encode(data.x, begin, end);
        f.expect(part.same_bytes(dirty, begin, end), "codes of some tokens do not depend on what was in memory before",
                 data.name, ", tokens ", begin, " to ", end);
        const byte* c = dirty.codes.data();
        const auto untouched = [fill](byte b) { return b == fill; };
        f.expect(std::all_of(c, c + begin * codec.row_bytes, untouched) &&
                     std::all_of(c + end * codec.row_bytes, c + tokens * codec.row_bytes, untouched),
                 "encode of some tokens leaves the codes of the others", data.name, ", tokens ", begin, " to ", end);
      }
      f.expect(part.codes.intact() && part.constants.intact(), "encode of some tokens writes no more", data.name);
      check_codec_bound(f, codec, data, begin, end);
    }
  }
}

inline void check_codec_specials(failures& f, const any_codec& codec) {
  const int count = codec.tokens * codec.width;
  const float infinite = HUGE_VALF;
  const float nan = std::nanf("");
  random_source r(7);
  for (const int at : {0, 1, codec.width - 1, count / 2, count - 1}) {
    for (const float special : {nan, -nan, infinite, -infinite}) {
      std::vector<float> x(static_cast<std::size_t>(count));
      for (float& v : x) v = r.normal();
      x[static_cast<std::size_t>(at)] = special;
      encoded_group run(codec, 0);
      run.encode(x);
      const float y = run.decode()[static_cast<std::size_t>(at)];
      if (special != special) {
        f.expect(y != y, "NaN stays visible", "element ", at, " decodes to ", y);
      } else {
        f.expect(!std::isfinite(y), "an infinity does not become finite", "element ", at, ": ", special, " decodes to ",
                 y);
      }
    }
    // A group of nothing else.
    const std::vector<float> all_nan(static_cast<std::size_t>(count), nan);
    encoded_group run(codec, 0);
    run.encode(all_nan);
    const float y = run.decode()[static_cast<std::size_t>(at)];
    f.expect(y != y, "NaN stays visible", "element ", at, " of NaN alone decodes to ", y);
  }
}

}  // namespace detail

/// Checks a codec for rows of `Width` channels. Empty if all properties hold, else one line per property that does not,
/// with its first example. What a codec must define is said at compile time by quant/concept.hpp.
///
///   CHECK(kvc::testing::codec_failures<my_codec, 128>() == "");
template <class Codec, int Width>
std::string codec_failures() {
  static_assert(quant::detail::check_codec<Codec, Width>());
  failures f("codec " + std::string(Codec::name.c_str()) + ", width " + std::to_string(Width));
  constexpr int tokens = Codec::tokens_per_group;
  constexpr int row_bytes = Codec::template row_bytes<Width>;
  constexpr int group_bytes = Codec::template group_bytes<Width>;
  f.expect(Codec::name.length > 0, "the name is not empty", "");
  f.expect(tokens >= 1, "tokens_per_group is positive", tokens);
  f.expect(row_bytes >= 1, "row_bytes is positive", row_bytes);
  f.expect(group_bytes >= 0, "group_bytes is not negative", group_bytes);
  if constexpr (tokens >= 1 && row_bytes >= 1 && group_bytes >= 0) {
    const auto codec = detail::any_codec::of<Codec, Width>();
    const std::vector<detail::codec_data> inputs = detail::codec_inputs(tokens, Width);
    for (const detail::codec_data& data : inputs) detail::check_codec_bound(f, codec, data, 0, tokens);
    for (const std::size_t i : {0, 4, 7, 11}) detail::check_codec_bytes(f, codec, inputs[i]);
    detail::check_codec_specials(f, codec);
  }
  return f.lines();
}

}  // namespace kvc::inline v0_1::testing
