// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "progress.hpp"

namespace report {

// Models of examples/train that differ in their cache alone: trained on the same text with as many parameters, each
// read through the cache that it was trained with.

/// How much of the text each of them reads: windows of its whole context, spread evenly over the text.
constexpr std::size_t sibling_windows = 12;

/// What one of them did.
struct sibling {
  std::string name;   ///< the file's, without its end
  std::string block;  ///< "mha", "clla-int4", ...
  std::string run;    ///< JSON: where the model comes from
  std::size_t file_bytes = 0;
  int layers = 0, query_heads = 0, head_dim = 0, context = 0;
  double bytes_per_token = 0;        ///< pages as allocated at the end of a window, over its tokens
  double share_of_mha = 0;           ///< of what 16-bit keys and values of all heads and layers would take
  double loss = 0;                   ///< nats per token, over the windows
  double copied = 0;                 ///< share of random tokens that it repeats when a span of them comes again
  std::vector<bool> passkeys;        ///< whether the number was found, per depth
  double decode_attend_seconds = 0;  ///< attend for one token at the end of a window, all layers
  double step_seconds = 0;           ///< a whole step of one token there
  std::string sample;                ///< what it writes behind sample_prompt
};

inline constexpr std::string_view sample_prompt = "When a process is killed, the kernel";

/// The *.safetensors of a directory, by name. Throws where there are none.
std::vector<std::string> find_siblings(const std::string& directory);

/// Reads `text` with each, 16-bit heads first. Models of other vocabularies tokenize it by themselves.
std::vector<sibling> read_siblings(const std::vector<std::string>& paths, const std::string& text, int threads,
                                   progress& progress);

/// The table for people.
std::string sibling_table(const std::vector<sibling>& siblings);

}  // namespace report
