// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <string_view>
#include <vector>

namespace engine {

/// How a byte-level BPE cuts a text into pieces before it merges inside each of them. Files name the scheme in
/// `tokenizer.ggml.pre`; the patterns are in pretokenize.cpp.
struct pretokenizer {
  enum class pattern { gpt2, llama3 };

  pattern words = pattern::gpt2;
  bool digits_first = false;  ///< every \p{N} stands alone, before the pattern sees the rest (smollm)
  int digits_per_piece = 1;   ///< of the llama3 pattern: at most so many digits in one piece
  bool whole_pieces = false;  ///< a piece that is a token is that token, whatever merging would give (llama-bpe)
  bool adds_bos = false;      ///< where the file does not say
};

/// The scheme of this name, or an error that lists those served.
pretokenizer pretokenizer_named(std::string_view name);

/// The pieces in order; together they are the text.
std::vector<std::string_view> split(const pretokenizer& scheme, std::string_view text);

}  // namespace engine
