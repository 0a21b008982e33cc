// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// use: program LIBRARY...   loads them all, with all their symbols visible, and calls each twice.

#include <dlfcn.h>

#include <cmath>
#include <cstdio>
#include <kvc/kvc.hpp>
#include <vector>

using run_function = int (*)(const float*, const float*, int, unsigned char*, int, float*);

int main(int argc, char** argv) {
  using spec =
      kvc::compose<kvc::shape<1, 2, 1, 64>, kvc::quant::integer<4, 32, kvc::quant::affine, kvc::quant::per_channel>>;
  constexpr int rows = 150;
  std::vector<float> k(rows * 64), v(rows * 64);
  for (std::size_t i = 0; i < k.size(); ++i) {
    k[i] = std::sin(0.37f * static_cast<float>(i));
    v[i] = std::cos(0.11f * static_cast<float>(i)) + static_cast<float>(i % 64);
  }
  kvc::host::cache<spec> cache({.capacity = 256, .max_step_rows = 256});
  const int id = cache.add_sequence();
  cache.reserve(id, rows);
  cache.append(0, k.data(), v.data());
  cache.commit();
  const std::vector<kvc::byte> expected = cache.save(id);

  std::vector<run_function> functions;
  for (int i = 1; i < argc; ++i) {
    void* library = dlopen(argv[i], RTLD_NOW | RTLD_GLOBAL);
    void* symbol = library == nullptr ? nullptr : dlsym(library, "run");
    if (symbol == nullptr) {
      std::printf("%s: %s\n", argv[i], dlerror());
      return 1;
    }
    functions.push_back(reinterpret_cast<run_function>(symbol));
  }
  int failures = functions.size() < 2 ? 1 : 0;
  for (int round = 0; round < 2; ++round) {
    for (std::size_t i = 0; i < functions.size(); ++i) {
      std::vector<unsigned char> file(1 << 20);
      std::vector<float> out(2 * rows * 64);
      const int size = functions[i](k.data(), v.data(), rows, file.data(), static_cast<int>(file.size()), out.data());
      file.resize(size < 0 ? 0 : static_cast<std::size_t>(size));
      const bool same = std::equal(file.begin(), file.end(), expected.begin(), expected.end());
      // The query is zero: the first row's output is the first value row, up to its codec and bf16.
      float worst = 0;
      for (std::size_t c = 0; c < 64; ++c) worst = std::fmax(worst, std::fabs(out[c] - v[c]) / (1 + std::fabs(v[c])));
      std::printf("library %zu, round %d: %d bytes, %s, output off by %g\n", i, round, size,
                  same ? "the host's" : "NOT the host's", static_cast<double>(worst));
      failures += same && worst < 0.02f ? 0 : 1;
    }
  }
  return failures == 0 ? 0 : 1;
}
