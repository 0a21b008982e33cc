// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "pretokenize.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <map>
#include <span>
#include <stdexcept>
#include <string>

#include "gguf.hpp"
#include "unicode.hpp"

namespace engine {
namespace {

// The two patterns, as regular expressions with the usual backtracking:
//
//   gpt2    's|'t|'re|'ve|'m|'ll|'d | ?\p{L}+ | ?\p{N}+ | ?[^\s\p{L}\p{N}]+ | \s+(?!\S) | \s+
//   llama3  (?i:'s|'t|'re|'ve|'m|'ll|'d) | [^\r\n\p{L}\p{N}]?\p{L}+ | \p{N}{1,3} | ?[^\s\p{L}\p{N}]+[\r\n]* |
//           \s*[\r\n]+ | \s+(?!\S) | \s+
//
// (" ?" is an optional space.) Each is written out below as a function that returns where the piece that starts at `at`
// ends. That is both faster than a regex engine and free of its limits on long inputs.

struct cell {
  std::size_t offset = 0;  // in the text, in bytes
  char32_t code = 0;
  char_class kind = char_class::other;
};

using cells = std::span<const cell>;

std::vector<cell> cells_of(std::string_view text) {
  std::vector<cell> out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const utf8_char c = utf8_at(text, at);
    out.push_back({at, c.code, classify(c.code)});
    at += c.bytes;
  }
  return out;
}

bool is_newline(const cell& c) {
  return c.code == '\r' || c.code == '\n';
}

bool is(cells text, std::size_t at, char_class kind) {
  return at < text.size() && text[at].kind == kind;
}

/// The end of the run of `kind` that starts at `at` (`at` itself where there is none).
std::size_t run_end(cells text, std::size_t at, char_class kind) {
  while (is(text, at, kind)) ++at;
  return at;
}

/// The end of 's, 't, 're, 've, 'm, 'll or 'd at `at`, or `at`.
std::size_t contraction_end(cells text, std::size_t at, bool any_case) {
  const auto letter = [&](std::size_t i) -> char32_t {
    if (at + i >= text.size()) return 0;
    const char32_t code = text[at + i].code;
    return any_case && code >= 'A' && code <= 'Z' ? code + ('a' - 'A') : code;
  };
  if (letter(0) != '\'') return at;
  const char32_t a = letter(1), b = letter(2);
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return at + 2;
  if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return at + 3;
  return at;
}

/// \s+(?!\S) | \s+ : white space leaves its last character to a word that follows, unless it is the only one.
std::size_t spaces_end(cells text, std::size_t at) {
  const std::size_t end = run_end(text, at, char_class::space);
  return end == text.size() || end - at == 1 ? end : end - 1;
}

std::size_t gpt2_end(cells text, std::size_t at) {
  const std::size_t contraction = contraction_end(text, at, /*any_case=*/false);
  if (contraction > at) return contraction;
  const std::size_t body = text[at].code == ' ' ? at + 1 : at;  // behind the optional space
  for (const auto kind : {char_class::letter, char_class::number, char_class::other}) {
    if (is(text, body, kind)) return run_end(text, body, kind);
  }
  return spaces_end(text, at);
}

std::size_t llama3_end(cells text, std::size_t at, std::size_t digits_per_piece) {
  const std::size_t contraction = contraction_end(text, at, /*any_case=*/true);
  if (contraction > at) return contraction;

  if (is(text, at, char_class::letter)) return run_end(text, at, char_class::letter);
  if (is(text, at, char_class::number)) {
    return std::min(run_end(text, at, char_class::number), at + digits_per_piece);
  }
  if (!is_newline(text[at]) && is(text, at + 1, char_class::letter)) return run_end(text, at + 1, char_class::letter);

  const std::size_t body = text[at].code == ' ' ? at + 1 : at;
  if (is(text, body, char_class::other)) {
    std::size_t end = run_end(text, body, char_class::other);
    while (end < text.size() && is_newline(text[end])) ++end;
    return end;
  }

  // \s*[\r\n]+ : up to the last newline of the white space.
  const std::size_t run = run_end(text, at, char_class::space);
  for (std::size_t end = run; end > at; --end) {
    if (is_newline(text[end - 1])) return end;
  }
  return spaces_end(text, at);
}

struct named_scheme {
  const char* name;
  pretokenizer scheme;
};

constexpr pretokenizer gpt2_scheme = {};
constexpr pretokenizer smollm_scheme = {.digits_first = true};
constexpr pretokenizer llama3_scheme = {
    .words = pretokenizer::pattern::llama3, .digits_per_piece = 3, .whole_pieces = true, .adds_bos = true};
constexpr pretokenizer qwen2_scheme = {.words = pretokenizer::pattern::llama3};

constexpr std::array<named_scheme, 6> schemes = {{{"gpt-2", gpt2_scheme},
                                                  {"smollm", smollm_scheme},
                                                  {"llama-bpe", llama3_scheme},
                                                  {"llama3", llama3_scheme},
                                                  {"llama-v3", llama3_scheme},
                                                  {"qwen2", qwen2_scheme}}};

}  // namespace

pretokenizer pretokenizer_named(std::string_view name) {
  std::string served;
  for (const auto& entry : schemes) {
    if (name == entry.name) return entry.scheme;
    served += (served.empty() ? "" : ", ") + std::string(entry.name);
  }
  throw std::runtime_error("the pre-tokenizer " + quoted(name) + " is not served (served: " + served + ")");
}

std::vector<std::string_view> split(const pretokenizer& scheme, std::string_view text) {
  const std::vector<cell> all = cells_of(text);
  const auto offset = [&](std::size_t cell) { return cell < all.size() ? all[cell].offset : text.size(); };
  std::vector<std::string_view> pieces;
  const auto emit = [&](std::size_t begin, std::size_t end) {
    pieces.push_back(text.substr(offset(begin), offset(end) - offset(begin)));
  };

  // [begin, end): a stretch that the pattern sees as if it were the whole text.
  const auto split_stretch = [&](std::size_t begin, std::size_t end) {
    const cells stretch = cells(all).first(end);
    for (std::size_t at = begin; at < end;) {
      const std::size_t piece_end = scheme.words == pretokenizer::pattern::gpt2
                                        ? gpt2_end(stretch, at)
                                        : llama3_end(stretch, at, static_cast<std::size_t>(scheme.digits_per_piece));
      emit(at, piece_end);
      at = piece_end;
    }
  };

  std::size_t begin = 0;
  for (std::size_t at = 0; scheme.digits_first && at < all.size(); ++at) {
    if (all[at].kind != char_class::number) continue;
    split_stretch(begin, at);
    emit(at, at + 1);
    begin = at + 1;
  }
  split_stretch(begin, all.size());
  return pieces;
}

}  // namespace engine
