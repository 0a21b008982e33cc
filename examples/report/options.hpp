// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cstddef>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace report {

/// The command line was wrong: exit status 2.
struct wrong_use : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct options {
  std::string model, text;
  std::string sample_text;          ///< empty: what sample_text.hpp finds
  std::string siblings;             ///< directory of trained models; empty: none
  std::string out = ".";            ///< directory for report.json and report.html
  std::string device = "host";      ///< or "cuda": what reads
  std::vector<std::string> caches;  ///< in the order of the table
  bool all_caches = false;          ///< none was named
  std::size_t skip_tokens = 4000;
  std::size_t window = 2048;
  std::size_t windows = 1;
  int threads = 1;
  bool passkey = true;
  bool list = false, help = false;
};

/// Throws wrong_use with one sentence.
options parse_options(std::span<const std::string> arguments);

extern const char* const usage;

}  // namespace report
