// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "unicode.hpp"

#include <algorithm>
#include <iterator>

#include "unicode_ranges.hpp"

namespace engine {
namespace {

template <std::size_t N>
bool contains(const code_range (&ranges)[N], char32_t code) {
  const auto* after = std::upper_bound(std::begin(ranges), std::end(ranges), code,
                                       [](char32_t c, const code_range& range) { return c < range.first; });
  return after != std::begin(ranges) && code <= std::prev(after)->last;
}

bool is_space(char32_t code) {
  return (code >= 0x09 && code <= 0x0d) || code == 0x20 || code == 0x85 || code == 0xa0 || code == 0x1680 ||
         (code >= 0x2000 && code <= 0x200a) || code == 0x2028 || code == 0x2029 || code == 0x202f || code == 0x205f ||
         code == 0x3000;
}

}  // namespace

char_class classify(char32_t code) {
  if (code < 0x80) {  // nearly every character of English text
    if ((code >= 'a' && code <= 'z') || (code >= 'A' && code <= 'Z')) return char_class::letter;
    if (code >= '0' && code <= '9') return char_class::number;
    return is_space(code) ? char_class::space : char_class::other;
  }
  if (is_space(code)) return char_class::space;
  if (contains(letter_ranges, code)) return char_class::letter;
  return contains(number_ranges, code) ? char_class::number : char_class::other;
}

utf8_char utf8_at(std::string_view text, std::size_t at) {
  constexpr utf8_char broken = {0xfffd, 1};
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[at + i]); };

  const char32_t first = byte(0);
  if (first < 0x80) return {first, 1};
  const std::size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() - at < length) return broken;
  char32_t code = first & (0x7fu >> length);
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0u) != 0x80u) return broken;
    code = (code << 6) | (byte(i) & 0x3fu);
  }
  constexpr char32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = code >= 0xd800 && code <= 0xdfff;
  return code < smallest[length] || code > 0x10ffff || surrogate ? broken : utf8_char{code, length};
}

void append_utf8(std::string& text, char32_t code) {
  const auto put = [&](char32_t byte) { text += static_cast<char>(static_cast<unsigned char>(byte)); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xc0 | (code >> 6));
    put(0x80 | (code & 0x3f));
  } else if (code < 0x10000) {
    put(0xe0 | (code >> 12));
    put(0x80 | ((code >> 6) & 0x3f));
    put(0x80 | (code & 0x3f));
  } else {
    put(0xf0 | (code >> 18));
    put(0x80 | ((code >> 12) & 0x3f));
    put(0x80 | ((code >> 6) & 0x3f));
    put(0x80 | (code & 0x3f));
  }
}

}  // namespace engine
