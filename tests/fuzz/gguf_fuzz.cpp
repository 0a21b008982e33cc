// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// link: kvc_engine_model

// Any bytes as a GGUF file: it is parsed; its tensors are dequantized; its tokenizer encodes and decodes; its model
// computes two tokens. Each may refuse, by std::runtime_error. Every other exception, and what the sanitizers see, is a
// finding.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "exact_cache.hpp"
#include "gguf.hpp"
#include "model.hpp"
#include "refusal.hpp"
#include "tokenizer.hpp"

namespace {

void use_tokenizer(const engine::gguf_file& file, std::string_view text) {
  const engine::tokenizer words(file);
  for (const auto control : {engine::control_text::plain, engine::control_text::special}) {
    const auto tokens = words.encode(text, control);
    for (const auto id : tokens) expect(id >= 0 && id < words.vocabulary());
    words.decode(tokens);
  }
  words.prompt(text);
}

void use_model(const engine::gguf_file& file) {
  const int context = std::min(2, engine::read_model_config(file).context);
  engine::model transformer(file, {.threads = 1, .context = context});
  engine::exact_cache cache(transformer.config().attention(), context, 1);
  for (int i = 0; i < context; ++i) {
    const engine::token id = i % transformer.config().vocabulary;
    const auto logits = transformer.forward({&id, 1}, cache, engine::logits_wanted::last_row);
    expect(logits.size() == static_cast<std::size_t>(transformer.config().vocabulary));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  may_refuse([&] {
    const auto file = engine::gguf_file::parse(bytes);
    for (const auto& [name, tensor] : file.tensors()) {
      expect(engine::dequantize(tensor).size() == tensor.elements);
    }
    for (const auto& [key, value] : file.metadata()) {
      may_refuse([&, k = key] { file.strings(k); });
      may_refuse([&, k = key] { file.integers(k); });
      may_refuse([&, k = key] { file.floats(k); });
    }
    // The text to encode is the file's own end, and something with words, digits, a newline and a wide character.
    const std::size_t tail = std::min<std::size_t>(size, 64);
    const std::string_view end(reinterpret_cast<const char*>(data) + (size - tail), tail);
    may_refuse([&] { use_tokenizer(file, end); });
    may_refuse([&] { use_tokenizer(file, "ab  a'll <s>1234\n\xc3\xa9\xff"); });
    may_refuse([&] { use_model(file); });
  });
  return 0;
}
