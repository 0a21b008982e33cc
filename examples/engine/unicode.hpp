// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace engine {

/// What the pre-tokenizers' patterns ask of a character: \p{L}, \p{N}, \s, or none of these.
enum class char_class { letter, number, space, other };

char_class classify(char32_t code);

/// One character of a text.
struct utf8_char {
  char32_t code = 0;
  std::size_t bytes = 1;
};

/// The character that begins at `at`. A byte that begins no valid sequence is a character of its own (U+FFFD, one
/// byte), so that any bytes can be walked over.
utf8_char utf8_at(std::string_view text, std::size_t at);

void append_utf8(std::string& text, char32_t code);

}  // namespace engine
