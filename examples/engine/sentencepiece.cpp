// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// SentencePiece's BPE, as Llama 1 and 2 and Mistral use it. Spaces are written as U+2581; the first symbols of a text
// are its characters; two neighbours may be merged where their text is a token, the one of the highest score first.
// Characters without a token are spelled by byte tokens ("<0xE2>").

#include <array>
#include <charconv>
#include <cmath>
#include <stdexcept>
#include <unordered_map>

#include "tokenizer_schemes.hpp"
#include "unicode.hpp"

namespace engine {
namespace {

constexpr std::string_view written_space = "\xe2\x96\x81";  // U+2581

/// The byte that "<0xNN>" spells, or -1.
int byte_spelled_by(std::string_view text) {
  if (text.size() != 6 || text.substr(0, 3) != "<0x" || text[5] != '>') return -1;
  int byte = 0;
  const auto result = std::from_chars(text.data() + 3, text.data() + 5, byte, 16);
  return result.ptr == text.data() + 5 && result.ec == std::errc{} ? byte : -1;
}

class sentencepiece final : public tokenizer_scheme {
 public:
  sentencepiece(const gguf_file& file, const token_list& tokens)
      : unknown_(tokens.unknown), adds_space_(file.boolean("tokenizer.ggml.add_space_prefix", true)) {
    const std::vector<float> scores = file.floats("tokenizer.ggml.scores");
    if (scores.size() != tokens.texts.size()) throw std::runtime_error("tokenizer: there is not one score per token");
    byte_token_.fill(-1);
    for (std::size_t i = 0; i < tokens.texts.size(); ++i) {
      const int byte = tokens.kinds[i] == token_kind::byte ? byte_spelled_by(tokens.texts[i]) : -1;
      if (byte >= 0) byte_token_[static_cast<std::size_t>(byte)] = static_cast<token>(i);
      if (std::isnan(scores[i])) throw std::runtime_error("tokenizer: a score is no number");
      if (tokens.kinds[i] != token_kind::normal) continue;
      words_.emplace(tokens.texts[i], joined{-double{scores[i]}, static_cast<token>(i)});
    }
  }

  void encode(std::string_view text, std::vector<token>& out) const override {
    std::string written;
    if (adds_space_ && !text.empty()) written += written_space;
    for (const char c : text) {
      if (c == ' ')
        written += written_space;
      else
        written += c;
    }

    std::vector<symbol> symbols;
    for (std::size_t at = 0; at < written.size();) {
      const std::size_t size = utf8_at(written, at).bytes;
      const auto found = find(written, at, size);
      symbols.push_back({found ? found->id : -1, at, size});
      at += size;
    }
    symbols = merge(symbols, [&](const symbol& left, const symbol& right) {
      return find(written, left.begin, left.size + right.size);
    });

    for (const symbol& s : symbols) {
      if (s.id >= 0) {
        out.push_back(s.id);
        continue;
      }
      for (std::size_t i = s.begin; i < s.begin + s.size; ++i) {
        const token byte = byte_token_[static_cast<unsigned char>(written[i])];
        if (byte >= 0 || unknown_) out.push_back(byte >= 0 ? byte : *unknown_);
      }
    }
  }

  std::string bytes_of(std::string_view token_text, token_kind kind) const override {
    if (kind == token_kind::byte) {
      const int byte = byte_spelled_by(token_text);
      if (byte >= 0) return std::string(1, static_cast<char>(static_cast<unsigned char>(byte)));
    }
    std::string out;
    for (std::size_t at = 0; at < token_text.size();) {
      const bool space = token_text.substr(at).starts_with(written_space);
      out += space ? ' ' : token_text[at];
      at += space ? written_space.size() : 1;
    }
    return out;
  }

  bool adds_bos() const override { return true; }
  bool adds_space() const override { return adds_space_; }

 private:
  std::optional<joined> find(const std::string& written, std::size_t begin, std::size_t size) const {
    const auto found = words_.find(std::string(written, begin, size));
    if (found == words_.end()) return {};
    return found->second;
  }

  std::optional<token> unknown_;
  bool adds_space_;
  std::array<token, 256> byte_token_{};            // -1 where the vocabulary has none
  std::unordered_map<std::string, joined> words_;  // text -> minus its score, and its token
};

}  // namespace

std::unique_ptr<tokenizer_scheme> make_sentencepiece(const gguf_file& file, const token_list& tokens) {
  return std::make_unique<sentencepiece>(file, tokens);
}

}  // namespace engine
