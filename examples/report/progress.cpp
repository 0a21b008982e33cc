// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "progress.hpp"

#include <algorithm>
#include <cmath>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

namespace report {
namespace {

bool is_a_terminal(std::FILE* file) {
#if defined(__unix__) || defined(__APPLE__)
  return file != nullptr && isatty(fileno(file)) != 0;
#else
  static_cast<void>(file);
  return false;
#endif
}

}  // namespace

std::string minutes(double seconds) {
  const long whole = std::lround(std::max(0.0, seconds));
  const std::string rest = std::to_string(whole % 60);
  return std::to_string(whole / 60) + (rest.size() < 2 ? ":0" : ":") + rest;
}

progress::progress(std::FILE* to) : to_(to), is_terminal_(is_a_terminal(to)) {}

void progress::plan(std::size_t tokens) {
  planned_ = tokens;
  done_ = 0;
  start_ = clock::now();
}

void progress::begin(const std::string& what, std::size_t tokens) {
  what_ = what;
  piece_ = tokens;
  piece_done_ = 0;
  piece_start_ = clock::now();
  show();
}

void progress::advance(std::size_t tokens) {
  piece_done_ += tokens;
  done_ += tokens;
  show();
}

void progress::end(const std::string& result) {
  done_ += piece_ - std::min(piece_, piece_done_);  // what the piece did not need after all
  if (to_ == nullptr) return;
  clear();
  const double taken = std::chrono::duration<double>(clock::now() - piece_start_).count();
  std::fprintf(to_, "%s: %s (%.1f s; %s)\n", what_.c_str(), result.c_str(), taken, remaining().c_str());
  std::fflush(to_);
}

double progress::seconds() const {
  return std::chrono::duration<double>(clock::now() - start_).count();
}

void progress::show() {
  if (to_ == nullptr || !is_terminal_) return;
  std::fprintf(to_, "\r\033[K%s: %zu of %zu tokens, %s", what_.c_str(), piece_done_, piece_, remaining().c_str());
  std::fflush(to_);
}

void progress::clear() {
  if (to_ != nullptr && is_terminal_) std::fputs("\r\033[K", to_);
}

std::string progress::remaining() const {
  const double elapsed = seconds();
  std::string out = minutes(elapsed) + " elapsed";
  if (done_ > 0 && done_ < planned_) {
    out += ", about " + minutes(elapsed * static_cast<double>(planned_ - done_) / static_cast<double>(done_)) + " left";
  }
  return out;
}

}  // namespace report
