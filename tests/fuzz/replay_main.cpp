// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Runs a fuzz target without a fuzzer: on the empty input, on every file of a corpus, and on mutations of each file
// (cut short, one bit flipped, one 4-byte word overwritten by a telling value), drawn from a fixed seed.
//   replay CORPUS [mutations per file]
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

using bytes = std::vector<std::uint8_t>;

// A copy of exactly the input's size, so that a sanitizer sees the first byte that is read beyond it.
void run(const bytes& input) {
  const bytes copy(input.begin(), input.end());
  LLVMFuzzerTestOneInput(copy.data(), copy.size());
}

bytes read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return bytes(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

bytes mutate(bytes input, std::mt19937& random) {
  constexpr std::array<std::uint32_t, 6> telling = {0u, 1u, 0x7fffffffu, 0x80000000u, 0xfffffff0u, 0xffffffffu};
  const auto below = [&](std::size_t n) { return std::uniform_int_distribution<std::size_t>(0, n - 1)(random); };
  // Headers come first in a file: half of the changes go there.
  const auto place = [&] { return below(below(2) == 0 ? std::min<std::size_t>(input.size(), 256) : input.size()); };
  switch (below(3)) {
    case 0:
      input.resize(place());
      break;
    case 1:
      input[place()] ^= static_cast<std::uint8_t>(1u << below(8));
      break;
    default:
      if (input.size() >= 4) {
        std::memcpy(input.data() + std::min(place(), input.size() - 4), &telling[below(telling.size())], 4);
      }
  }
  return input;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "use: %s CORPUS [mutations per file]\n", argv[0]);
    return 2;
  }
  const std::filesystem::path corpus = argv[1];
  const int mutations = argc > 2 ? std::atoi(argv[2]) : 200;

  std::vector<std::filesystem::path> files;
  if (std::filesystem::is_directory(corpus)) {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(corpus)) {
      if (entry.is_regular_file()) files.push_back(entry.path());
    }
  }
  std::sort(files.begin(), files.end());

  run({});
  std::mt19937 random(1);
  for (const auto& file : files) {
    std::printf("%s\n", file.filename().string().c_str());
    std::fflush(stdout);  // the name of the input that brings the program down is the last line
    const bytes input = read(file);
    run(input);
    for (int i = 0; i < mutations && !input.empty(); ++i) run(mutate(input, random));
  }
  std::printf("%zu files and %d mutations of each\n", files.size(), mutations);
  return 0;
}
