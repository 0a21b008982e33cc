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
  int rotary_bits = 16;    ///< the rotary key's
  int look_back = 0;       ///< stored rows are made from this token and so many before it
  bool shift = false;      ///< ... each of them mixed, channel by channel, with the one before
  int writer = 0;          ///< hidden width of a SwiGLU net beside the projection that makes them; 0: none
  bool gate = false;       ///< every head's output is weighted by a sigmoid of the layer's input

  bool writes(int layer) const { return layer % sharing == 0; }
  /// Rows of the layer's input that a writer keeps of the tokens before.
  int history() const { return look_back + (shift ? 1 : 0); }
};

/// Errors name the field or the idea that the engine does not serve.
trained_config read_trained_config(const safetensors_file& file);

/// The tokenizer inside: byte-level BPE in the format of the `tokenizers` library.
bpe_parts read_trained_tokenizer(const safetensors_file& file);

}  // namespace engine
