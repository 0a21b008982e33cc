// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <string>

#include "model_config.hpp"
#include "safetensors.hpp"
#include "tokenizer.hpp"

namespace engine {

/// What examples/train says of a model, checked to be something that the engine can compute.
struct trained_config : model_config {
  std::string block;       ///< mha, gqa, mqa; mla, clla, clla-int4
  bool is_latent = false;  ///< one latent and one rotary key for all heads
  int latent = 0;          ///< channels of the latent
  int rotary = 0;          ///< channels of the rotary key; of every head where nothing is latent
  int sharing = 1;         ///< neighbouring layers that read one slot
  int bits = 16;           ///< of what is stored
  bool look_back = false;  ///< stored rows are made from this token and the one before

  bool writes(int layer) const { return layer % sharing == 0; }
  int slots() const { return (layers + sharing - 1) / sharing; }
};

/// Errors name the field or the idea that the engine does not serve.
trained_config read_trained_config(const safetensors_file& file);

/// The tokenizer inside: byte-level BPE in the format of the `tokenizers` library.
bpe_parts read_trained_tokenizer(const safetensors_file& file);

}  // namespace engine
