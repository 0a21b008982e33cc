// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "matrix.hpp"

#include <algorithm>
#include <cstring>
#include <new>
#include <stdexcept>
#include <utility>

// The product is computed in blocks of some rows by one panel of outputs, whose sums stay in registers:
//
//   for each input i:  sum[r][:] += x[r][i] * panel[i][:]            r = 0 .. most_rows - 1
//
// A panel is two registers wide. Its 2 * most_rows sums, the panel's two and one of x fit the registers of the machine.

namespace engine {
namespace {

#if defined(__AVX512F__)
constexpr std::size_t lanes = 16, most_rows = 14;  // 32 registers
#elif defined(__AVX__)
constexpr std::size_t lanes = 8, most_rows = 6;  // 16 registers
#else
constexpr std::size_t lanes = 4, most_rows = 6;
#endif
constexpr std::size_t panel = 2 * lanes;
constexpr std::align_val_t alignment{64};  // a cache line: no register's load crosses two

typedef float vec __attribute__((vector_size(lanes * sizeof(float)), aligned(4), may_alias));

inline vec& at(float* p) {
  return *reinterpret_cast<vec*>(p);
}
inline const vec& at(const float* p) {
  return *reinterpret_cast<const vec*>(p);
}

/// y[Rows][width <= panel] = x[Rows][inputs] * one panel of W.
template <std::size_t Rows>
void multiply_block(const float* w, std::size_t inputs, const float* x, float* y, std::size_t y_pitch,
                    std::size_t width) {
  vec sum[Rows][2] = {};
  for (std::size_t i = 0; i < inputs; ++i, w += panel) {
    const vec left = at(w), right = at(w + lanes);
    for (std::size_t r = 0; r < Rows; ++r) {
      const float value = x[r * inputs + i];
      sum[r][0] += value * left;
      sum[r][1] += value * right;
    }
  }
  for (std::size_t r = 0; r < Rows; ++r, y += y_pitch) {
    if (width == panel) {
      at(y) = sum[r][0];
      at(y + lanes) = sum[r][1];
    } else {
      std::memcpy(y, sum[r], width * sizeof(float));
    }
  }
}

using block_function = decltype(&multiply_block<1>);

template <std::size_t... Index>
block_function block_of(std::size_t rows, std::index_sequence<Index...>) {
  static constexpr block_function functions[] = {&multiply_block<Index + 1>...};
  return functions[rows - 1];
}

}  // namespace

void matrix::aligned_delete::operator()(float* p) const {
  ::operator delete(p, alignment);
}

matrix::matrix(std::size_t outputs, std::size_t inputs, std::span<const float> values)
    : outputs_(outputs), inputs_(inputs) {
  if (values.size() != outputs * inputs) throw std::invalid_argument("matrix: not outputs x inputs values");
  const std::size_t padded = (outputs + panel - 1) / panel * panel;
  panels_.reset(static_cast<float*>(::operator new(std::max(padded * inputs, panel) * sizeof(float), alignment)));
  for (std::size_t first = 0; first < padded; first += panel) {
    float* to = panels_.get() + first * inputs;
    for (std::size_t o = first; o < first + panel; ++o) {
      for (std::size_t i = 0; i < inputs; ++i) to[i * panel + o - first] = o < outputs ? values[o * inputs + i] : 0.0f;
    }
  }
}

void matrix::copy_row(std::size_t output, float* to) const {
  const float* from = panels_.get() + output / panel * panel * inputs_ + output % panel;
  for (std::size_t i = 0; i < inputs_; ++i) to[i] = from[i * panel];
}

void matrix::multiply(const float* x, std::size_t rows, float* y, thread_pool& pool) const {
  // Blocks of nearly equal height: 256 rows are 9 blocks of 14 and 10 of 13, not 18 of 14 and one of 4.
  const std::size_t blocks = (rows + most_rows - 1) / most_rows;
  pool.split((outputs_ + panel - 1) / panel, 1, [&](std::size_t begin, std::size_t end) {
    for (std::size_t first = begin * panel; first < std::min(end * panel, outputs_); first += panel) {
      const std::size_t width = std::min(panel, outputs_ - first);
      for (std::size_t b = 0; b < blocks; ++b) {
        const std::size_t row = rows * b / blocks, count = rows * (b + 1) / blocks - row;
        block_of(count, std::make_index_sequence<most_rows>())(
            panels_.get() + first * inputs_, inputs_, x + row * inputs_, y + row * outputs_ + first, outputs_, width);
      }
    }
  });
}

}  // namespace engine
