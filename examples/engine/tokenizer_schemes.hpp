// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gguf.hpp"
#include "merge.hpp"

namespace engine {

/// The numbers of `tokenizer.ggml.token_type`.
enum class token_kind : std::int64_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

/// A file's list of tokens. The texts are views into the file.
struct token_list {
  std::vector<std::string_view> texts;  // [vocabulary]
  std::vector<token_kind> kinds;        // [vocabulary]
  std::optional<token> unknown;         // stands for what no token can spell
};

/// How one kind of tokenizer turns text between special tokens into tokens, and its ordinary tokens into bytes.
class tokenizer_scheme {
 public:
  virtual ~tokenizer_scheme() = default;
  virtual void encode(std::string_view text, std::vector<token>& out) const = 0;
  virtual std::string bytes_of(std::string_view token_text, token_kind kind) const = 0;
  virtual bool adds_bos() const = 0;    ///< where the file does not say
  virtual bool adds_space() const = 0;  ///< whether encode puts a space before the text, which decoding takes off
};

/// `merges`: "left right", the most urgent first; `pre`: the name of a pre-tokenizer.
std::unique_ptr<tokenizer_scheme> make_byte_level_bpe(const token_list& tokens,
                                                      const std::vector<std::string_view>& merges,
                                                      std::string_view pre);
std::unique_ptr<tokenizer_scheme> make_sentencepiece(const gguf_file& file, const token_list& tokens);

}  // namespace engine
