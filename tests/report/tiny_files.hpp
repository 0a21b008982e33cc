// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <atomic>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <vector>

#include "../engine/tiny_model.hpp"

namespace report_test {

/// A directory that goes away with the test.
class temporary_directory {
 public:
  temporary_directory() {
    static std::atomic<int> count{0};
    const auto base = std::filesystem::temp_directory_path();
    do {
      path_ = base / ("kvc_report_test_" + std::to_string(std::random_device()()) + "_" + std::to_string(count++));
    } while (!std::filesystem::create_directory(path_));
  }
  ~temporary_directory() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  temporary_directory(const temporary_directory&) = delete;
  temporary_directory& operator=(const temporary_directory&) = delete;

  std::string path(const std::string& name) const { return (path_ / name).string(); }
  std::string put(const std::string& name, std::span<const char> content) const {
    std::ofstream(path(name), std::ios::binary).write(content.data(), static_cast<std::streamsize>(content.size()));
    return path(name);
  }

 private:
  std::filesystem::path path_;
};

inline std::string content_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

/// A random model of two layers, with a tokenizer in which every printable ASCII character is a token.
inline std::vector<char> tiny_file(int context) {
  std::vector<std::string> words;
  for (char c = '!'; c <= '~'; ++c) words.emplace_back(1, c);
  words.push_back("\xc4\xa0");  // a space, as byte-level vocabularies spell it
  words.push_back("\xc4\x8a");  // a line feed
  words.push_back("th");
  engine_test::tiny_model model;
  model.vocabulary = static_cast<int>(words.size());
  model.context = context;
  model.draw(7);
  engine_test::gguf_builder file = model.metadata();
  file.text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", "gpt-2");
  file.strings("tokenizer.ggml.tokens", words).strings("tokenizer.ggml.merges", {"t h"});
  model.add_tensors(file);
  const engine_test::bytes bytes = file.build();
  const char* data = reinterpret_cast<const char*>(bytes.data());
  return {data, data + bytes.size()};
}

/// Text without much sense, of the size that is asked for.
inline std::string tiny_text(std::size_t size) {
  std::mt19937 random(5);
  std::string out;
  while (out.size() < size) {
    const auto letters = 1 + random() % 9;
    for (std::size_t i = 0; i < letters; ++i) out += static_cast<char>('a' + random() % 26);
    out += random() % 12 == 0 ? '\n' : ' ';
  }
  out.resize(size);
  return out;
}

}  // namespace report_test
