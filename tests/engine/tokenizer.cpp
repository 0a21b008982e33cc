// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// link: kvc_engine_model
#include "tokenizer.hpp"

#include <doctest/doctest.h>

#include <array>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "gguf_builder.hpp"
#include "merge.hpp"
#include "pretokenize.hpp"
#include "real_model.hpp"
#include "unicode.hpp"

using namespace engine;
using namespace engine_test;

namespace {

using pieces = std::vector<std::string_view>;
using tokens = std::vector<token>;

pieces split_by(std::string_view scheme, std::string_view text) {
  return split(pretokenizer_named(scheme), text);
}

/// Kinds of tokens, by the numbers of files.
constexpr std::int32_t normal = 1, unknown = 2, control = 3, user_defined = 4, byte = 6;

/// A byte-level vocabulary of few tokens. In it a space is written "Ġ".
gguf_builder byte_level(std::string_view pre) {
  gguf_builder out;
  out.text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", pre);
  out.strings("tokenizer.ggml.tokens", {"<s>", "a", "b", "c", "\xc4\xa0", "\xc4\xa0\x61", "ab", "abc", "bc", "\xc3\x83",
                                        "\xc2\xa9", "<x>", "cab", "<x>a"});
  out.numbers<std::int32_t>("tokenizer.ggml.token_type", 5,
                            {control, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, user_defined, 1, user_defined});
  out.strings("tokenizer.ggml.merges", {"b c", "\xc4\xa0 a", "a b", "ab c"});
  return out;
}

gguf_builder sentencepiece() {
  gguf_builder out;
  out.text("tokenizer.ggml.model", "llama");
  out.strings("tokenizer.ggml.tokens", {"<unk>", "<s>", "</s>", "<0xC3>", "<0xA9>", "<0xFF>", "\xe2\x96\x81", "a", "b",
                                        "ab", "\xe2\x96\x81\x61", "\xe2\x96\x81\x61\x62", "ba"});
  out.numbers<std::int32_t>("tokenizer.ggml.token_type", 5,
                            {unknown, control, control, byte, byte, byte, 1, 1, 1, 1, 1, 1, 1});
  out.numbers<float>("tokenizer.ggml.scores", 6, {0, 0, 0, 0, 0, 0, -10, -11, -12, -1, -2, -3, -0.5f});
  out.u32("tokenizer.ggml.bos_token_id", 1).u32("tokenizer.ggml.eos_token_id", 2);
  out.u32("tokenizer.ggml.unknown_token_id", 0);
  return out;
}

tokenizer made_from(const gguf_builder& builder) {
  const bytes data = builder.build();
  return tokenizer(gguf_file::parse(data));
}

}  // namespace

TEST_CASE("characters are decoded, and what is none is walked over byte by byte") {
  const auto code = [](std::string_view text) { return utf8_at(text, 0).code; };
  const auto size = [](std::string_view text) { return utf8_at(text, 0).bytes; };
  CHECK(code("a") == U'a');
  CHECK(code("\xc3\xa9") == U'\u00e9');
  CHECK(code("\xe2\x96\x81") == U'\u2581');
  CHECK(code("\xf0\x9f\x98\x80") == U'\U0001f600');
  CHECK(size("\xf0\x9f\x98\x80") == 4);
  // A lone continuation, an overlong form, a surrogate, beyond Unicode, cut short, a byte that never occurs.
  for (const char* broken :
       {"\x80", "\xc0\xaf", "\xe0\x80\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x96", "\xff"}) {
    CAPTURE(broken);
    CHECK(code(broken) == 0xfffd);
    CHECK(size(broken) == 1);
  }
  for (const char32_t c : {U'a', U'\u00e9', U'\u2581', U'\U0001f600'}) {
    std::string text;
    append_utf8(text, c);
    CHECK(code(text) == c);
    CHECK(size(text) == text.size());
  }
}

TEST_CASE("characters have their Unicode classes") {
  CHECK(classify(U'z') == char_class::letter);
  CHECK(classify(U'\u00aa') == char_class::letter);
  CHECK(classify(U'\u4f60') == char_class::letter);
  CHECK(classify(U'7') == char_class::number);
  CHECK(classify(U'\u00b2') == char_class::number);
  CHECK(classify(U'\u0663') == char_class::number);
  CHECK(classify(U'\u2167') == char_class::number);
  CHECK(classify(U'\t') == char_class::space);
  CHECK(classify(U'\u00a0') == char_class::space);
  CHECK(classify(U'\u2028') == char_class::space);
  CHECK(classify(U'_') == char_class::other);
  CHECK(classify(U'\u0301') == char_class::other);  // a combining mark
  CHECK(classify(U'\U0001f600') == char_class::other);
}

TEST_CASE("texts are cut as the patterns say") {
  CHECK(split_by("gpt-2", "") == pieces{});
  CHECK(split_by("gpt-2", "Hello world's 123!?") == pieces{"Hello", " world", "'s", " 123", "!?"});
  CHECK(split_by("gpt-2", "a  b\n\n c ") == pieces{"a", " ", " b", "\n\n", " c", " "});
  CHECK(split_by("gpt-2", "we'll I'VE 'tis") == pieces{"we", "'ll", " I", "'", "VE", " '", "tis"});

  // Digits part the text before the pattern sees it: white space before one stays whole.
  CHECK(split_by("smollm", "a  123 b") == pieces{"a", "  ", "1", "2", "3", " b"});
  CHECK(split_by("smollm", "x\u00b2") == pieces{"x", "\u00b2"});

  CHECK(split_by("llama-bpe", "a  1234567 (b)\n\n c") ==
        pieces{"a", " ", " ", "123", "456", "7", " (", "b", ")\n\n", " c"});
  CHECK(split_by("llama-bpe", "I'VE\tgone \r\n  x") == pieces{"I", "'VE", "\tgone", " \r\n", " ", " x"});
  CHECK(split_by("qwen2", "12 ") == pieces{"1", "2", " "});
  CHECK(refusal([] { pretokenizer_named("tekken"); }) ==
        "the pre-tokenizer 'tekken' is not served (served: gpt-2, smollm, llama-bpe, llama3, llama-v3, qwen2)");
}

TEST_CASE("merging takes the best pair first, as the plain loop does") {
  std::mt19937 random(1);
  for (int round = 0; round < 200; ++round) {
    // Random rules on eight tokens: a rank, or none, for each pair.
    std::array<std::array<int, 8>, 8> rank{}, result{};
    for (std::size_t i = 0; i < 8; ++i) {
      for (std::size_t j = 0; j < 8; ++j) {
        rank[i][j] = static_cast<int>(random() % 40) - 20;  // negative: no rule; equal ranks happen
        result[i][j] = static_cast<int>(random() % 8);
      }
    }
    std::vector<symbol> symbols;
    std::vector<token> plain;
    for (std::size_t i = 0; i < 30; ++i) {
      plain.push_back(static_cast<token>(random() % 8));
      symbols.push_back({plain.back(), i, 1});
    }

    const auto index = [](token id) { return static_cast<std::size_t>(id); };
    const auto merged = merge(symbols, [&](const symbol& a, const symbol& b) -> std::optional<joined> {
      const int r = rank[index(a.id)][index(b.id)];
      if (r < 0) return {};
      return joined{static_cast<double>(r), result[index(a.id)][index(b.id)]};
    });

    for (;;) {
      std::size_t best = plain.size();
      int best_rank = 1000;
      for (std::size_t i = 0; i + 1 < plain.size(); ++i) {
        const int r = rank[index(plain[i])][index(plain[i + 1])];
        if (r >= 0 && r < best_rank) {
          best = i;
          best_rank = r;
        }
      }
      if (best == plain.size()) break;
      plain[best] = result[index(plain[best])][index(plain[best + 1])];
      plain.erase(plain.begin() + static_cast<std::ptrdiff_t>(best) + 1);
    }

    std::vector<token> got;
    std::size_t end = 0;
    for (const symbol& s : merged) {
      got.push_back(s.id);
      CHECK(s.begin == end);
      end = s.begin + s.size;
    }
    CHECK(end == 30);
    CHECK(got == plain);
  }
}

TEST_CASE("byte-level BPE merges by rank and spells what it cannot merge") {
  const tokenizer words = made_from(byte_level("gpt-2").u32("tokenizer.ggml.unknown_token_id", 0));
  CHECK(words.encode("abc") == tokens{1, 8});       // 'b c' before 'a b'
  CHECK(words.encode("cab a") == tokens{3, 6, 5});  // "cab" is a token, but no merge makes it
  CHECK(words.encode("\u00e9") == tokens{9, 10});
  CHECK(words.encode("z") == tokens{0});  // no token spells this byte
  CHECK(words.decode(tokens{1, 8, 5, 9, 10}) == "abc a\u00e9");
  CHECK(words.prompt("a") == tokens{1});
  CHECK(refusal([&] { words.bytes_of(14); }) == "token 14 is outside the vocabulary of 14");
  CHECK(refusal([&] { words.decode(tokens{-1}); }) == "token -1 is outside the vocabulary of 14");

  // Without an unknown token, what cannot be spelled is lost.
  CHECK(made_from(byte_level("gpt-2")).encode("za") == tokens{1});
}

TEST_CASE("llama-bpe takes whole pieces and begins with its first token") {
  const tokenizer words = made_from(byte_level("llama-bpe").u32("tokenizer.ggml.bos_token_id", 0));
  CHECK(words.encode("cab abc") == tokens{12, 5, 8});  // " abc" is no token: it is merged
  CHECK(words.prompt("a") == tokens{0, 1});
  CHECK(
      made_from(
          byte_level("llama-bpe").u32("tokenizer.ggml.bos_token_id", 0).boolean("tokenizer.ggml.add_bos_token", false))
          .prompt("a") == tokens{1});
}

TEST_CASE("control tokens are text unless the caller asks for them, the user's own tokens never") {
  const tokenizer words = made_from(byte_level("gpt-2").u32("tokenizer.ggml.eos_token_id", 0));
  CHECK(words.encode("a<x>b<s>a", control_text::special) == tokens{1, 11, 2, 0, 1});
  CHECK(words.encode("a<x>b<s>a") == tokens{1, 11, 2, 1});  // "<s>" has no spelling here
  CHECK(words.encode("<x>ab") == tokens{13, 2});            // the longest that fits
  CHECK(words.prompt("<s>a") == tokens{0, 1});
  CHECK(words.decode(tokens{1, 11, 0}) == "a<x><s>");
  CHECK(words.is_end(0));
  CHECK_FALSE(words.is_end(1));
}

TEST_CASE("SentencePiece merges by score and falls back to bytes") {
  const tokenizer words = made_from(sentencepiece());
  CHECK(words.encode("ab") == tokens{11});                 // "_ab", by way of "ab"
  CHECK(words.encode("aba") == tokens{10, 12});            // "ba" has the best score
  CHECK(words.encode("a \u00e9") == tokens{10, 6, 3, 4});  // as bytes
  CHECK(words.encode("z") == tokens{6, 0});                // not even a byte token
  CHECK(words.prompt("ab") == tokens{1, 11});
  CHECK(words.decode(words.encode("a ab \u00e9")) == "a ab \u00e9");
  CHECK(words.is_end(2));

  const tokenizer bare = made_from(sentencepiece().boolean("tokenizer.ggml.add_space_prefix", false));
  CHECK(bare.encode("ab") == tokens{9});
  CHECK(bare.decode(tokens{10}) == " a");
}

TEST_CASE("a tokenizer that cannot be served is refused by a sentence that says why") {
  const auto said = [](const gguf_builder& builder) { return refusal([&] { made_from(builder); }); };
  CHECK(said(gguf_builder().strings("tokenizer.ggml.tokens", {"a"}).text("tokenizer.ggml.model", "t5")) ==
        "the tokenizer model 't5' is not served (served: gpt2, llama)");
  CHECK(said(gguf_builder()) == "GGUF: metadata 'tokenizer.ggml.tokens' is missing");
  CHECK(said(gguf_builder().strings("tokenizer.ggml.tokens", {})) ==
        "tokenizer: a vocabulary of 0 tokens is not served");
  CHECK(said(byte_level("deepseek-llm")).find("the pre-tokenizer 'deepseek-llm' is not served") == 0);

  gguf_builder base;
  base.text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", "gpt-2");
  base.strings("tokenizer.ggml.tokens", {"a", "b"});
  CHECK(said(gguf_builder(base).strings("tokenizer.ggml.merges", {"ab"})) == "tokenizer: merge 0 is no pair");
  CHECK(said(gguf_builder(base).strings("tokenizer.ggml.merges", {"a b"})) ==
        "tokenizer: merge 0 speaks of a token that is not in the vocabulary");
  CHECK(said(gguf_builder(base).numbers<std::int32_t>("tokenizer.ggml.token_type", 5, {1})) ==
        "tokenizer: there is not one type per token");
  CHECK(said(gguf_builder(base).u32("tokenizer.ggml.eos_token_id", 2)) ==
        "GGUF: metadata 'tokenizer.ggml.eos_token_id' is 2, outside 0 to 1");
  CHECK(said(byte_level("llama-bpe")) == "tokenizer: texts begin with a token that the file does not name");

  gguf_builder scores;
  scores.text("tokenizer.ggml.model", "llama").strings("tokenizer.ggml.tokens", {"a", "b"});
  CHECK(said(gguf_builder(scores).numbers<float>("tokenizer.ggml.scores", 6, {1})) ==
        "tokenizer: there is not one score per token");
}

TEST_CASE("SmolLM2's tokens are those of its own tokenizer") {
  const auto path = fetched_model();
  if (!path) {
    MESSAGE(no_model);
    return;
  }
  const tokenizer words(gguf_file::read(*path));
  REQUIRE(words.vocabulary() == 49152);

  // Expected tokens: the Hugging Face tokenizers library on the same vocabulary and merges.
  struct example {
    std::string_view text;
    tokens expected;
  };
  const std::vector<example> examples = {
      {"Hello world, it's 2024!\n\nNew   line",
       {19556, 905, 28, 357, 506, 216, 34, 32, 34, 36, 17, 198, 198, 5529, 256, 1761}},
      {"", {}},
      {" ", {216}},
      {"We'll DON'T they're", {1882, 3060, 422, 2154, 23, 68, 502, 2316}},
      {"  two  spaces 12 345\t\n", {216, 827, 216, 5600, 216, 33, 34, 216, 35, 36, 37, 197, 198}},
      {"na\u00efve caf\u00e9 \u4f60\u597d \u00b2\u00bd \u0663",
       {3546, 46494, 37366, 216, 18645, 250, 48392, 138, 216, 19133, 16738, 216, 164, 113}},
      {"\U0001f600\u00a0!?...\r\n\r\n", {10813, 242, 218, 15442, 17, 47, 2026, 18682}},
  };
  for (const auto& [text, expected] : examples) {
    CAPTURE(text);
    CHECK(words.encode(text) == expected);
    CHECK(words.decode(expected) == text);
    CHECK(words.prompt(text) == expected);  // nothing is added in front
  }
  CHECK(words.encode("<|im_start|>a<|im_end|>", control_text::special) == tokens{1, 81, 2});
  CHECK(words.encode("<|im_end|>").size() > 1);
  CHECK(words.is_end(2));

  // One piece without an end: merging that took the square of its length would not come back.
  const std::string long_word(1 << 20, 'a');
  const auto encoded = words.encode(long_word);
  CHECK(words.decode(encoded) == long_word);
}
