// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "open_trained.hpp"

#include <stdexcept>

#include "trained_model.hpp"

namespace engine {

opened_trained open_trained(const std::string& path, int threads) {
  const auto file = safetensors_file::read(path);
  opened_trained out;
  out.words = std::make_unique<tokenizer>(read_trained_tokenizer(file));
  auto model = std::make_unique<trained_model>(file, threads);
  if (out.words->vocabulary() != model->config().vocabulary) {
    throw std::runtime_error("the tokenizer has " + std::to_string(out.words->vocabulary()) + " tokens and the model " +
                             std::to_string(model->config().vocabulary));
  }
  out.block = model->config().block;
  out.run = file.text("run");
  out.config = &model->config();
  out.make_cache = [self = model.get()](const std::string& name) -> std::unique_ptr<attention_cache> {
    return make_trained_cache(name, self->config(), {.context = self->context(), .pool = &self->pool()});
  };
  out.model = std::move(model);
  return out;
}

}  // namespace engine
