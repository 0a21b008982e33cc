// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// link: kvc_engine_trained

// Any bytes as a safetensors file: it is parsed; its tensors become fp32; its tokenizer encodes and decodes; its model
// computes two tokens. Each may refuse, by std::runtime_error, and a cache that is not built by std::invalid_argument.
// Every other exception, and what the sanitizers see, is a finding.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "refusal.hpp"
#include "trained_model.hpp"

namespace {

void use_tokenizer(const engine::safetensors_file& file, std::string_view text) {
  const engine::tokenizer words(engine::read_trained_tokenizer(file));
  const auto tokens = words.encode(text, engine::control_text::special);
  for (const auto id : tokens) expect(id >= 0 && id < words.vocabulary());
  words.decode(tokens);
}

void use_model(const engine::safetensors_file& file) {
  const int context = std::min(2, engine::read_trained_config(file).context);
  engine::trained_model model(file, 1, context);
  std::unique_ptr<engine::trained_cache> cache;
  try {
    cache = engine::make_trained_cache("own", model.config(), {.context = context});
  } catch (const std::invalid_argument&) {
    return;
  }
  for (int i = 0; i < context; ++i) {
    const engine::token id = i % model.config().vocabulary;
    const auto logits = model.forward({&id, 1}, *cache, engine::logits_wanted::last_row);
    expect(logits.size() == static_cast<std::size_t>(model.config().vocabulary));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  may_refuse([&] {
    const auto file = engine::safetensors_file::parse({bytes.begin(), bytes.end()});
    for (const auto& [name, tensor] : file.tensors()) {
      may_refuse([&, n = name, shape = tensor.shape] { file.floats(n, shape); });
    }
    may_refuse([&] { use_tokenizer(file, "ab  a'll <|end|>1234\n\xc3\xa9\xff"); });
    may_refuse([&] { use_model(file); });
  });
  return 0;
}
