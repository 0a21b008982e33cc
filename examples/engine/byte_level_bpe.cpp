// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// GPT-2's byte-level BPE. A text is cut into pieces (pretokenize.cpp); the bytes of a piece are its first symbols; then
// neighbours are merged in the order of the file's list of merges. Vocabularies spell bytes as printable characters
// (a space is 'Ġ'), so that they can be written as text.

#include <array>
#include <stdexcept>
#include <unordered_map>
#include <utility>

#include "pretokenize.hpp"
#include "tokenizer_schemes.hpp"
#include "unicode.hpp"

namespace engine {
namespace {

/// The printable character of each byte: itself where it is printable in Latin-1, else the next one from U+0100 on.
std::array<char32_t, 256> byte_alphabet() {
  std::array<char32_t, 256> out{};
  char32_t next = 0x100;
  for (char32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    out[byte] = printable ? byte : next++;
  }
  return out;
}

std::uint64_t pair_key(token left, token right) {
  return (std::uint64_t{static_cast<std::uint32_t>(left)} << 32) | static_cast<std::uint32_t>(right);
}

class byte_level_bpe final : public tokenizer_scheme {
 public:
  byte_level_bpe(const token_list& tokens, const std::vector<std::string_view>& lines, std::string_view pre)
      : scheme_(pretokenizer_named(pre)), unknown_(tokens.unknown) {
    std::unordered_map<std::string_view, token> id_of;
    for (std::size_t i = 0; i < tokens.texts.size(); ++i) id_of.emplace(tokens.texts[i], static_cast<token>(i));

    const auto alphabet = byte_alphabet();
    for (std::size_t byte = 0; byte < 256; ++byte) {
      byte_of_.emplace(alphabet[byte], static_cast<char>(static_cast<unsigned char>(byte)));
      std::string spelling;
      append_utf8(spelling, alphabet[byte]);
      const auto found = id_of.find(spelling);
      byte_token_[byte] = found == id_of.end() ? -1 : found->second;
    }

    merges_.reserve(lines.size());
    std::string whole;
    for (std::size_t rank = 0; rank < lines.size(); ++rank) {
      const std::size_t space = lines[rank].find(' ', 1);
      if (space == std::string_view::npos)
        throw std::runtime_error("tokenizer: merge " + std::to_string(rank) + " is no pair");
      const std::string_view left = lines[rank].substr(0, space), right = lines[rank].substr(space + 1);
      whole.assign(left).append(right);
      const auto l = id_of.find(left), r = id_of.find(right), w = id_of.find(whole);
      if (l == id_of.end() || r == id_of.end() || w == id_of.end()) {
        throw std::runtime_error("tokenizer: merge " + std::to_string(rank) +
                                 " speaks of a token that is not in the vocabulary");
      }
      merges_.emplace(pair_key(l->second, r->second), joined{static_cast<double>(rank), w->second});
    }

    if (scheme_.whole_pieces) {
      for (std::size_t i = 0; i < tokens.texts.size(); ++i) {
        if (tokens.kinds[i] != token_kind::control)
          whole_.emplace(bytes_of(tokens.texts[i], tokens.kinds[i]), static_cast<token>(i));
      }
    }
  }

  void encode(std::string_view text, std::vector<token>& out) const override {
    // Words come back: each distinct piece is merged once per call.
    std::unordered_map<std::string_view, std::vector<token>> known;
    for (const std::string_view piece : split(scheme_, text)) {
      const auto [entry, is_new] = known.try_emplace(piece);
      if (is_new) entry->second = encode_piece(piece);
      out.insert(out.end(), entry->second.begin(), entry->second.end());
    }
  }

  std::string bytes_of(std::string_view token_text, token_kind kind) const override {
    if (kind == token_kind::control || kind == token_kind::user_defined) return std::string(token_text);
    std::string out;
    for (std::size_t at = 0; at < token_text.size();) {
      const utf8_char c = utf8_at(token_text, at);
      const auto byte = byte_of_.find(c.code);
      if (byte != byte_of_.end())
        out += byte->second;
      else
        out += token_text.substr(at, c.bytes);  // not of the alphabet: means itself
      at += c.bytes;
    }
    return out;
  }

  bool adds_bos() const override { return scheme_.adds_bos; }
  bool adds_space() const override { return false; }

 private:
  std::vector<token> encode_piece(std::string_view piece) const {
    if (scheme_.whole_pieces) {
      const auto found = whole_.find(std::string(piece));
      if (found != whole_.end()) return {found->second};
    }
    std::vector<symbol> symbols(piece.size());
    for (std::size_t i = 0; i < piece.size(); ++i) {
      symbols[i] = {byte_token_[static_cast<unsigned char>(piece[i])], i, 1};
    }
    symbols = merge(symbols, [&](const symbol& left, const symbol& right) -> std::optional<joined> {
      const auto found = merges_.find(pair_key(left.id, right.id));
      if (found == merges_.end()) return {};
      return found->second;
    });
    std::vector<token> out;
    for (const symbol& s : symbols) {
      // A byte that the vocabulary cannot spell is the unknown token; without one it is lost.
      if (s.id >= 0 || unknown_) out.push_back(s.id >= 0 ? s.id : *unknown_);
    }
    return out;
  }

  pretokenizer scheme_;
  std::optional<token> unknown_;
  std::array<token, 256> byte_token_{};               // -1 where the vocabulary has none
  std::unordered_map<char32_t, char> byte_of_;        // the alphabet, backwards
  std::unordered_map<std::uint64_t, joined> merges_;  // pair_key(left, right) -> rank and result
  std::unordered_map<std::string, token> whole_;      // only where whole pieces are tokens
};

}  // namespace

std::unique_ptr<tokenizer_scheme> make_byte_level_bpe(const token_list& tokens,
                                                      const std::vector<std::string_view>& merges,
                                                      std::string_view pre) {
  return std::make_unique<byte_level_bpe>(tokens, merges, pre);
}

}  // namespace engine
