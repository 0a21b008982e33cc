// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "files.hpp"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>

namespace report {
namespace {

constexpr std::size_t sample_tokens = 2048, fewest_sample_tokens = 512;
constexpr std::size_t far_behind = 50000;  // tokens between the windows and a sample of the same text

std::vector<token> first_of(std::vector<token> tokens, std::size_t skipped, std::size_t wanted) {
  const std::size_t begin = std::min(skipped, tokens.size()), end = std::min(begin + wanted, tokens.size());
  return {tokens.begin() + static_cast<std::ptrdiff_t>(begin), tokens.begin() + static_cast<std::ptrdiff_t>(end)};
}

/// A quarter from each of four licences, behind its title; less where some are missing.
sample_text licences(const engine::tokenizer& words, std::size_t wanted) {
  const std::filesystem::path folder = "/usr/share/common-licenses";
  sample_text out;
  for (const char* name : {"GPL-3", "Artistic", "MPL-2.0", "GFDL-1.3"}) {
    std::error_code error;
    if (!std::filesystem::is_regular_file(folder / name, error)) continue;
    const auto part = first_of(words.encode(read_file((folder / name).string())), 200, wanted / 4);
    out.tokens.insert(out.tokens.end(), part.begin(), part.end());
    out.name += (out.name.empty() ? "the licence texts " : ", ") + std::string(name);
  }
  return out;
}

}  // namespace

std::string read_file(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) throw std::runtime_error("there is no file '" + path + "'");
  if (std::filesystem::is_directory(path, error)) throw std::runtime_error("'" + path + "' is a directory, no file");
  std::ifstream file(path, std::ios::binary);
  std::string out{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (!file) throw std::runtime_error("the file '" + path + "' cannot be read");
  return out;
}

std::size_t file_bytes(const std::string& path) {
  return static_cast<std::size_t>(std::filesystem::file_size(path));
}

std::string name_of_file(const std::string& path) {
  return std::filesystem::path(path).filename().string();
}

output_directory::output_directory(std::string path) : path_(std::move(path)) {
  std::error_code error;
  std::filesystem::create_directories(path_, error);
  const std::filesystem::path probe = std::filesystem::path(path_) / "report.part";
  if (!std::ofstream(probe, std::ios::binary))
    throw std::runtime_error("cannot write to the directory '" + path_ + "'");
  std::filesystem::remove(probe, error);
}

std::string output_directory::put(const std::string& name, const std::string& content) const {
  const std::filesystem::path path = std::filesystem::path(path_) / name, part = path.string() + ".part";
  std::error_code error;
  {
    std::ofstream file(part, std::ios::binary);
    file << content << std::flush;
    if (!file) {
      std::filesystem::remove(part, error);
      throw std::runtime_error("cannot write '" + path.string() + "'");
    }
  }
  std::filesystem::rename(part, path, error);
  if (error) throw std::runtime_error("cannot write '" + path.string() + "'");
  return path.string();
}

sample_text choose_sample(const options& options, const engine::tokenizer& words, const std::vector<token>& text,
                          std::size_t context) {
  const std::size_t wanted = std::min(sample_tokens, context);
  if (!options.sample_text.empty()) {
    const auto tokens = first_of(words.encode(read_file(options.sample_text)), 0, wanted);
    const std::size_t fewest = std::min(fewest_sample_tokens, context);
    if (tokens.size() < fewest) {
      throw std::runtime_error("the sample text has " + std::to_string(tokens.size()) + " tokens; calibration needs " +
                               std::to_string(fewest) + " at least");
    }
    return {name_of_file(options.sample_text), tokens};
  }
  sample_text out = licences(words, wanted);
  if (out.tokens.size() >= wanted / 2) return out;
  const std::size_t begin = options.skip_tokens + options.windows * options.window + far_behind;
  if (begin + wanted > text.size()) {
    throw std::runtime_error("there is no text to calibrate on: pass one with --sample-text FILE");
  }
  return {"the same text from token " + std::to_string(begin), first_of(text, begin, wanted)};
}

}  // namespace report
