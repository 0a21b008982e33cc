// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gguf.hpp"
#include "merge.hpp"

namespace engine {

class tokenizer_scheme;
struct token_list;

/// A byte-level BPE from elsewhere than a GGUF file.
struct bpe_parts {
  std::vector<std::string> texts;   ///< [vocabulary], bytes spelled as printable characters
  std::vector<std::string> merges;  ///< "left right", the most urgent first
  std::string pre;                  ///< the pre-tokenizer's name
  std::vector<token> control;       ///< tokens that no plain text means
  std::optional<token> end;         ///< closes a text
};

/// Whether text like "<|im_end|>" in an input means the control token of that name, or just these characters.
enum class control_text { plain, special };

/// Text to tokens and back, as a GGUF file describes it: byte-level BPE (`gpt2`) or SentencePiece BPE (`llama`).
/// Any bytes can be encoded; after construction only a token outside the vocabulary is an error.
class tokenizer {
 public:
  /// Copies what it needs from the file. Models and pre-tokenizers that are not served are refused by name.
  explicit tokenizer(const gguf_file& file);
  explicit tokenizer(const bpe_parts& parts);
  ~tokenizer();
  tokenizer(tokenizer&&) noexcept;
  tokenizer& operator=(tokenizer&&) noexcept;

  /// No token is added at the ends.
  std::vector<token> encode(std::string_view text, control_text control = control_text::plain) const;

  /// encode with control tokens, behind the first token that the model expects of every text, if any.
  std::vector<token> prompt(std::string_view text) const;

  std::string decode(std::span<const token> tokens) const;

  /// The bytes of one token: not always a whole character. Control tokens show their names.
  std::string_view bytes_of(token id) const;

  int vocabulary() const { return static_cast<int>(bytes_.size()); }

  /// Whether the model says with this token that its text is complete.
  bool is_end(token id) const { return id == eos_ || id == eot_; }

 private:
  void list(const token_list& tokens);

  struct special {
    std::string text;
    token id = -1;
    bool control = false;  // matched only where the caller asks for control tokens
  };

  std::unique_ptr<tokenizer_scheme> scheme_;
  std::vector<std::string> bytes_;  // [vocabulary]
  std::vector<special> specials_;   // longest first
  std::optional<token> bos_, eos_, eot_;
  bool adds_bos_ = false;
};

}  // namespace engine
