// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "tokenizer.hpp"

#include <algorithm>
#include <stdexcept>

#include "tokenizer_schemes.hpp"

namespace engine {
namespace {

token_list read_tokens(const gguf_file& file) {
  token_list out;
  out.texts = file.strings("tokenizer.ggml.tokens");
  if (out.texts.empty() || out.texts.size() > (1u << 24)) {
    throw std::runtime_error("tokenizer: a vocabulary of " + std::to_string(out.texts.size()) +
                             " tokens is not served");
  }
  out.kinds.assign(out.texts.size(), token_kind::normal);
  if (file.has("tokenizer.ggml.token_type")) {
    const auto kinds = file.integers("tokenizer.ggml.token_type");
    if (kinds.size() != out.kinds.size()) throw std::runtime_error("tokenizer: there is not one type per token");
    std::transform(kinds.begin(), kinds.end(), out.kinds.begin(),
                   [](std::int64_t kind) { return static_cast<token_kind>(kind); });
  }
  return out;
}

/// The token that metadata `key` names, if it names one.
std::optional<token> read_token(const gguf_file& file, std::string_view key, std::size_t vocabulary) {
  if (!file.has(key)) return {};
  return static_cast<token>(file.integer(key, 0, static_cast<std::int64_t>(vocabulary) - 1));
}

std::unique_ptr<tokenizer_scheme> make_scheme(const gguf_file& file, const token_list& tokens) {
  const std::string_view model = file.text("tokenizer.ggml.model");
  if (model == "gpt2") {
    return make_byte_level_bpe(tokens, file.strings("tokenizer.ggml.merges"),
                               file.text("tokenizer.ggml.pre", "default"));
  }
  if (model == "llama") return make_sentencepiece(file, tokens);
  throw std::runtime_error("the tokenizer model " + quoted(model) + " is not served (served: gpt2, llama)");
}

}  // namespace

tokenizer::tokenizer(const gguf_file& file) {
  token_list tokens = read_tokens(file);
  const std::size_t count = tokens.texts.size();
  bos_ = read_token(file, "tokenizer.ggml.bos_token_id", count);
  eos_ = read_token(file, "tokenizer.ggml.eos_token_id", count);
  eot_ = read_token(file, "tokenizer.ggml.eot_token_id", count);
  tokens.unknown = read_token(file, "tokenizer.ggml.unknown_token_id", count);

  scheme_ = make_scheme(file, tokens);
  adds_bos_ = file.boolean("tokenizer.ggml.add_bos_token", scheme_->adds_bos());
  if (adds_bos_ && !bos_) throw std::runtime_error("tokenizer: texts begin with a token that the file does not name");

  list(tokens);
}

tokenizer::tokenizer(const bpe_parts& parts) {
  token_list tokens;
  tokens.texts.assign(parts.texts.begin(), parts.texts.end());
  tokens.kinds.assign(parts.texts.size(), token_kind::normal);
  for (const token id : parts.control) tokens.kinds.at(static_cast<std::size_t>(id)) = token_kind::control;
  eos_ = parts.end;
  scheme_ = make_byte_level_bpe(tokens, {parts.merges.begin(), parts.merges.end()}, parts.pre);
  list(tokens);
}

void tokenizer::list(const token_list& tokens) {
  const std::size_t count = tokens.texts.size();
  bytes_.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    bytes_.push_back(scheme_->bytes_of(tokens.texts[i], tokens.kinds[i]));
    const bool control = tokens.kinds[i] == token_kind::control;
    if ((control || tokens.kinds[i] == token_kind::user_defined) && !tokens.texts[i].empty()) {
      specials_.push_back({std::string(tokens.texts[i]), static_cast<token>(i), control});
    }
  }
  std::stable_sort(specials_.begin(), specials_.end(),
                   [](const special& a, const special& b) { return a.text.size() > b.text.size(); });
}

tokenizer::~tokenizer() = default;
tokenizer::tokenizer(tokenizer&&) noexcept = default;
tokenizer& tokenizer::operator=(tokenizer&&) noexcept = default;

std::vector<token> tokenizer::encode(std::string_view text, control_text control) const {
  // Most positions start no special token: one look at the first byte settles them.
  std::vector<bool> may_start(256, false);
  for (const special& s : specials_) {
    if (!s.control || control == control_text::special) may_start[static_cast<unsigned char>(s.text[0])] = true;
  }

  std::vector<token> out;
  std::size_t begin = 0;  // of the stretch that is plain text so far
  for (std::size_t at = 0; at < text.size();) {
    const special* found = nullptr;
    if (may_start[static_cast<unsigned char>(text[at])]) {
      const auto match = std::find_if(specials_.begin(), specials_.end(), [&](const special& s) {
        return (!s.control || control == control_text::special) && text.substr(at).starts_with(s.text);
      });
      if (match != specials_.end()) found = &*match;
    }
    if (found == nullptr) {
      ++at;
      continue;
    }
    scheme_->encode(text.substr(begin, at - begin), out);
    out.push_back(found->id);
    at += found->text.size();
    begin = at;
  }
  scheme_->encode(text.substr(begin), out);
  return out;
}

std::vector<token> tokenizer::prompt(std::string_view text) const {
  std::vector<token> out = encode(text, control_text::special);
  if (adds_bos_) out.insert(out.begin(), *bos_);
  return out;
}

std::string tokenizer::decode(std::span<const token> tokens) const {
  std::string out;
  for (const token id : tokens) out += bytes_of(id);
  // The space that encode put there; a text that starts with a control token keeps its own.
  if (scheme_->adds_space() && out.starts_with(' ')) out.erase(0, 1);
  return out;
}

std::string_view tokenizer::bytes_of(token id) const {
  if (id < 0 || id >= vocabulary()) {
    throw std::runtime_error("token " + std::to_string(id) + " is outside the vocabulary of " +
                             std::to_string(vocabulary()));
  }
  return bytes_[static_cast<std::size_t>(id)];
}

}  // namespace engine
