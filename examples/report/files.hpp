// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <string>
#include <vector>

#include "options.hpp"
#include "scores.hpp"
#include "tokenizer.hpp"

namespace report {

/// A whole file. Errors name the path.
std::string read_file(const std::string& path);

std::size_t file_bytes(const std::string& path);

/// Without its folders.
std::string name_of_file(const std::string& path);

/// A directory that was made, if need be, and can be written to; nothing in it is touched before put().
class output_directory {
 public:
  explicit output_directory(std::string path);
  /// Writes a file whole or not at all; returns its path.
  std::string put(const std::string& name, const std::string& content) const;

 private:
  std::string path_;
};

/// Text that calibrated caches are fitted to: never the text that they are judged on.
struct sample_text {
  std::string name;
  std::vector<token> tokens;
};

/// --sample-text; or else the licences that every Debian and Ubuntu has; or else a part of the judged text, far behind
/// the windows. `text` is all of the judged text; the sample has no more tokens than `context`.
sample_text choose_sample(const options& options, const engine::tokenizer& words, const std::vector<token>& text,
                          std::size_t context);

}  // namespace report
