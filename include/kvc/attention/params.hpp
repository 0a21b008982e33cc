// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/rotary/concept.hpp"

namespace kvc::inline v0_1 {

/// What attention needs beside queries and cache.
struct attend_params {
  float scale = 0;                     ///< of the scores, always given: 1 / sqrt(head dim of the model)
  float soft_cap = 0;                  ///< score = soft_cap * tanh(score / soft_cap); 0: none
  int64 window = 0;                    ///< sliding window of the model: newest rows a query sees; 0: all
  const float* sink_logits = nullptr;  ///< [query_heads], joins the softmax's sum and the lse; null: none
  rotary::table_view rotary = {};      ///< angles by position, where keys are stored before their rotary embedding
  bool fp32_products = false;          ///< where 8-bit products with packed codes would do (on the GPU: bf16)
};

}  // namespace kvc::inline v0_1
