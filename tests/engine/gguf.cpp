// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// link: kvc_engine_model
#include "gguf.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "gguf_builder.hpp"

using namespace engine;
using namespace engine_test;

namespace {

// Numbers that GGUF gives to element types.
constexpr std::uint32_t f32 = 0, f16 = 1, q4_0 = 2, q4_1 = 3, q8_0 = 8, bf16 = 30;

template <class T>
bytes raw(const std::vector<T>& values) {
  bytes out;
  for (const T value : values) put(out, value);
  return out;
}

/// The elements of a one-row tensor that holds `data`.
std::vector<float> dequantized(std::uint32_t type, std::uint64_t elements, const bytes& data) {
  const bytes file = gguf_builder().tensor("t", type, {elements}, data).build();
  const auto parsed = gguf_file::parse(file);
  return dequantize(parsed.tensors().at("t"));
}

gguf_builder good_file() {
  gguf_builder out;
  out.text("general.name", "a").u32("count", 7).strings("words", {"x", "yz"});
  out.tensor("first", f32, {2, 3}, raw<float>({1, 2, 3, 4, 5, 6}));
  out.tensor("second", f16, {2}, raw<std::uint16_t>({0x3c00, 0xc000}));
  return out;
}

std::string parse_refusal(const bytes& file) {
  return refusal([&] { gguf_file::parse(file); });
}

}  // namespace

TEST_CASE("halves are converted exactly") {
  CHECK(float_from_half(0x0000) == 0.0f);
  CHECK(std::signbit(float_from_half(0x8000)));
  CHECK(float_from_half(0x3c00) == 1.0f);
  CHECK(float_from_half(0xc100) == -2.5f);
  CHECK(float_from_half(0x7bff) == 65504.0f);
  CHECK(float_from_half(0x0400) == 0x1p-14f);  // the smallest normal number
  CHECK(float_from_half(0x0001) == 0x1p-24f);  // the smallest subnormal one
  CHECK(float_from_half(0x83ff) == -0x3ffp-24f);
  CHECK(float_from_half(0x7c00) == std::numeric_limits<float>::infinity());
  CHECK(float_from_half(0xfc00) == -std::numeric_limits<float>::infinity());
  CHECK(std::isnan(float_from_half(0x7e00)));
}

TEST_CASE("unquantized formats give their values") {
  CHECK(dequantized(f32, 3, raw<float>({1.5f, -0.0f, 3e30f})) == std::vector<float>{1.5f, -0.0f, 3e30f});
  CHECK(dequantized(f16, 2, raw<std::uint16_t>({0x3800, 0xbc00})) == std::vector<float>{0.5f, -1.0f});
  CHECK(dequantized(bf16, 2, raw<std::uint16_t>({0x3fc0, 0xc040})) == std::vector<float>{1.5f, -3.0f});
}

TEST_CASE("Q8_0 is scale times signed byte") {
  bytes block = raw<std::uint16_t>({0x3800});  // 0.5
  for (int i = 0; i < 32; ++i) put(block, static_cast<std::int8_t>(i == 0 ? -128 : i == 1 ? 127 : i));
  const auto out = dequantized(q8_0, 32, block);
  CHECK(out[0] == -64.0f);
  CHECK(out[1] == 63.5f);
  CHECK(out[31] == 15.5f);
}

TEST_CASE("Q4_0 is scale times (nibble - 8), the low nibbles first") {
  bytes file = raw<std::uint16_t>({0x3c00});  // the first block: 1
  for (int i = 0; i < 16; ++i) put(file, static_cast<std::uint8_t>(i | (15 - i) << 4));
  put<std::uint16_t>(file, 0xc000);  // the second: -2
  for (int i = 0; i < 16; ++i) put<std::uint8_t>(file, 0xf0);
  const auto out = dequantized(q4_0, 64, file);
  for (int i = 0; i < 16; ++i) {
    CHECK(out[static_cast<std::size_t>(i)] == static_cast<float>(i - 8));
    CHECK(out[static_cast<std::size_t>(i) + 16] == static_cast<float>(7 - i));
    CHECK(out[static_cast<std::size_t>(i) + 32] == 16.0f);
    CHECK(out[static_cast<std::size_t>(i) + 48] == -14.0f);
  }
}

TEST_CASE("Q4_1 is scale times nibble plus minimum") {
  bytes block = raw<std::uint16_t>({0x3800, 0xbe00});  // 0.5 and -1.5
  for (int i = 0; i < 16; ++i) put(block, static_cast<std::uint8_t>(i | (i == 3 ? 15 : 0) << 4));
  const auto out = dequantized(q4_1, 32, block);
  for (int i = 0; i < 16; ++i) {
    CHECK(out[static_cast<std::size_t>(i)] == 0.5f * static_cast<float>(i) - 1.5f);
    CHECK(out[static_cast<std::size_t>(i) + 16] == (i == 3 ? 6.0f : -1.5f));
  }
}

TEST_CASE("a file gives back what was written into it") {
  for (const std::uint32_t version : {2u, 3u}) {
    gguf_builder builder = good_file();
    builder.version = version;
    builder.i32("minus", -5).f32("half", 0.5f).boolean("yes", true).numbers<std::int32_t>("list", 5, {3, -1});
    const bytes data = builder.build();
    const auto file = gguf_file::parse(data);
    CHECK(file.version() == version);
    CHECK(file.text("general.name") == "a");
    CHECK(file.integer("count", 0, 10) == 7);
    CHECK(file.integer("minus", -10, 10) == -5);
    CHECK(file.number("half") == 0.5);
    CHECK(file.boolean("yes"));
    CHECK(file.strings("words") == std::vector<std::string_view>{"x", "yz"});
    CHECK(file.integers("list") == std::vector<std::int64_t>{3, -1});
    CHECK(file.integer("absent", 0, 10, 4) == 4);
    CHECK(file.text("absent", "fall-back") == "fall-back");

    const std::size_t shape[] = {2, 3};
    CHECK(dequantize(file.tensor("first", shape)) == std::vector<float>{1, 2, 3, 4, 5, 6});
    CHECK(dequantize(file.tensors().at("second")) == std::vector<float>{1, -2});
  }
}

TEST_CASE("look-ups say what is wrong") {
  const bytes data = good_file().u64("huge", ~0ull).build();
  const auto file = gguf_file::parse(data);
  CHECK(refusal([&] { file.integer("none", 0, 1); }) == "GGUF: metadata 'none' is missing");
  CHECK(refusal([&] { file.integer("count", 0, 6); }) == "GGUF: metadata 'count' is 7, outside 0 to 6");
  CHECK(refusal([&] { file.integer("huge", 0, 6); }).find("outside 0 to 6") != std::string::npos);
  CHECK(refusal([&] { file.integer("general.name", 0, 6); }) == "GGUF: metadata 'general.name' is not an integer");
  CHECK(refusal([&] { file.number("count"); }) == "GGUF: metadata 'count' is not a floating-point number");
  CHECK(refusal([&] { file.boolean("count"); }) == "GGUF: metadata 'count' is not a boolean");
  CHECK(refusal([&] { file.text("count"); }) == "GGUF: metadata 'count' is not a string");
  CHECK(refusal([&] { file.strings("count"); }) == "GGUF: metadata 'count' is not an array");
  CHECK(refusal([&] { file.integers("words"); }) == "GGUF: metadata 'words' is not an array of integers");
  CHECK(refusal([&] { file.floats("words"); }).find("'words' is not an array of 32-bit") != std::string::npos);

  const std::size_t shape[] = {3, 2};
  CHECK(refusal([&] { file.tensor("third", shape); }) == "GGUF: tensor 'third' is missing");
  CHECK(refusal([&] { file.tensor("first", shape); }) ==
        "GGUF: tensor 'first' has shape [2][3] where the model needs [3][2]");
}

TEST_CASE("a wrong file is refused by a sentence that says why") {
  struct corruption {
    std::string sentence;
    bytes file;
  };
  const bytes row = raw<float>({1, 2, 3, 4, 5, 6, 7, 8});
  const auto with_value = [](std::uint32_t type, const bytes& value) {
    return gguf_builder().raw_value("key", type, value).build();
  };
  const auto with_tensor = [&](std::uint32_t type, const std::vector<std::uint64_t>& shape, std::uint64_t offset) {
    return gguf_builder().tensor("data", f32, {8}, row).raw_tensor("bad", type, shape, offset).build();
  };
  const auto with = [](auto&& change) {
    gguf_builder out = good_file();
    change(out);
    return out.build();
  };

  bytes wrong_magic = good_file().build();
  wrong_magic[3] = std::byte{'g'};

  bytes nested;  // five arrays, each the only element of the one before
  for (int i = 0; i < 5; ++i) {
    put<std::uint32_t>(nested, 9);
    put<std::uint64_t>(nested, 1);
  }
  bytes long_array;  // 2^61 + 1 eight-byte numbers: the product wraps around to 8 bytes
  put<std::uint32_t>(long_array, 10);
  put<std::uint64_t>(long_array, (1ull << 61) + 1);
  put<std::uint64_t>(long_array, 0);
  bytes odd_array;
  put<std::uint32_t>(odd_array, 77);
  put<std::uint64_t>(odd_array, 1);

  const std::vector<corruption> corruptions = {
      {"the file ends inside the magic", {}},
      {"this is no GGUF file", wrong_magic},
      {"version 1 is not served (served: 2, 3)", with([](auto& b) { b.version = 1; })},
      {"version 4 is not served", with([](auto& b) { b.version = 4; })},
      {"the file is big endian", with([](auto& b) { b.version = 0x03000000; })},
      {"the tensor count is 1152921504606846976", with([](auto& b) { b.tensor_count = 1ll << 60; })},
      {"the metadata count is 100000", with([](auto& b) { b.value_count = 100000; })},
      {"a metadata key is empty", gguf_builder().u32("", 1).build()},
      {"a metadata key is longer than 65535", gguf_builder().u32(std::string(70000, 'k'), 1).build()},
      {"there is no metadata type 13", with_value(13, raw<std::uint64_t>({0}))},
      {"the file ends inside a metadata string", with_value(8, raw<std::uint64_t>({~0ull}))},
      {"the length of a metadata array is 2305843009213693953", with_value(9, long_array)},
      {"there is no metadata type 77", with_value(9, odd_array)},
      {"nested deeper than 4 levels", with_value(9, nested)},
      {"metadata key 'count' stands twice", with([](auto& b) { b.u32("count", 8); })},
      {"general.alignment is 48, no power of two", with([](auto& b) { b.u32("general.alignment", 48); })},
      {"'general.alignment' is 0, outside", with([](auto& b) { b.u32("general.alignment", 0); })},
      {"'general.alignment' is not an integer", with([](auto& b) { b.text("general.alignment", "32"); })},
      {"a tensor name is empty", gguf_builder().tensor("", f32, {8}, row).build()},
      {"tensor 'bad' has 0 dimensions", with_tensor(f32, {}, 0)},
      {"tensor 'bad' has 5 dimensions", with_tensor(f32, {1, 1, 1, 1, 1}, 0)},
      {"tensor 'bad' has an empty dimension", with_tensor(f32, {4, 0}, 0)},
      {"tensor 'bad' has more elements than the file could hold", with_tensor(f32, {1ull << 33, 1ull << 33}, 0)},
      {"tensor 'bad' has type Q4_K, which is not served (served: F32, F16, BF16, Q8_0, Q4_0, Q4_1)",
       with_tensor(12, {8}, 0)},
      {"tensor 'bad' has type number 99", with_tensor(99, {8}, 0)},
      {"tensor 'bad' has rows of 8 elements, no multiple of Q8_0's blocks of 32", with_tensor(q8_0, {4, 8}, 0)},
      {"tensor 'bad' starts at offset 4, which is not aligned to 32", with_tensor(f32, {1}, 4)},
      {"tensor 'bad' reaches beyond the end of the file", with_tensor(f32, {9}, 32)},
      {"tensor 'bad' reaches beyond the end of the file", with_tensor(f32, {1}, ~0ull - 31)},
      {"tensors 'bad' and 'data' overlap", with_tensor(f32, {1}, 0)},
      {"tensor 'first' stands twice", with([&](auto& b) { b.tensor("first", f32, {8}, row); })},
  };
  for (const auto& [sentence, file] : corruptions) {
    const std::string said = parse_refusal(file);
    CAPTURE(sentence);
    CAPTURE(said);
    CHECK(said.find(sentence) != std::string::npos);
  }
}

TEST_CASE("a file cut short anywhere is refused") {
  const bytes file = good_file().build();
  CHECK(parse_refusal(file).empty());
  for (std::size_t size = 0; size < file.size(); ++size) {
    CAPTURE(size);
    CHECK_FALSE(parse_refusal(bytes(file.begin(), file.begin() + static_cast<std::ptrdiff_t>(size))).empty());
  }
}

TEST_CASE("names from a file are shown harmlessly") {
  CHECK(quoted("a\x1b[2Jb") == "'a?[2Jb'");
  CHECK(quoted(std::string(200, 'x')) == "'" + std::string(80, 'x') + "...'");
}

TEST_CASE("a path that is no file is named") {
  CHECK(refusal([] { gguf_file::read("no/such/file.gguf"); }) == "there is no file 'no/such/file.gguf'");
  CHECK(refusal([] { gguf_file::read("."); }) == "'.' is not a regular file");
}
