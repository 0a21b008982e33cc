// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdio>
#include <string>

namespace report {

/// Says what is going on and how long it will take: a line that changes on a terminal, a line per piece of
/// work elsewhere.
class progress {
 public:
  /// Null is quiet.
  explicit progress(std::FILE* to);
  ~progress() { clear(); }
  progress(const progress&) = delete;
  progress& operator=(const progress&) = delete;

  /// How many tokens the model will read, all in all. Time counts from here.
  void plan(std::size_t tokens);

  void begin(const std::string& what, std::size_t tokens);
  void advance(std::size_t tokens);
  /// The piece of work is done; `result` is what came of it.
  void end(const std::string& result);

  double seconds() const;

 private:
  using clock = std::chrono::steady_clock;

  void show();
  void clear();
  std::string remaining() const;

  std::FILE* to_;
  bool is_terminal_;
  clock::time_point start_ = clock::now(), piece_start_ = start_;
  std::string what_;
  std::size_t planned_ = 0, done_ = 0, piece_ = 0, piece_done_ = 0;
};

/// 75 seconds are "1:15".
std::string minutes(double seconds);

}  // namespace report
