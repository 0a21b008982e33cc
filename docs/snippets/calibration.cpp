// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// The program of docs/calibration.md: fits a composition to rows, and shows what that is worth.

#include <cmath>
#include <iostream>
#include <vector>

#include "kvc/calibrate/fit.hpp"
#include "kvc/kvc.hpp"
#include "kvc/testing/failures.hpp"

// [types]
using model = kvc::shape<1, 4, 1, 64>;
using spec = kvc::compose<model, kvc::dims::low_rank<16>, kvc::quant::centred<kvc::quant::integer<8>>>;
// [types]

// Rows that lie near a plane of 12 dimensions, around a mean: low rank can keep them.
std::vector<float> row_near_a_plane(kvc::testing::random_source& source) {
  std::vector<float> row(64);
  for (int i = 0; i < 64; ++i) row[static_cast<std::size_t>(i)] = 0.5f * std::sin(static_cast<float>(i));
  for (int axis = 1; axis <= 12; ++axis) {
    const float amount = source.normal();
    for (int i = 0; i < 64; ++i) {
      row[static_cast<std::size_t>(i)] += amount * std::cos(0.1f * static_cast<float>(axis * i + axis));
    }
  }
  return row;
}

double error_of(kvc::host::cache<spec>& cache) {
  kvc::testing::random_source source(2);
  const int sequence = cache.add_sequence();
  double error = 0, size = 0;
  for (int token = 0; token < 64; ++token) {
    const std::vector<float> row = row_near_a_plane(source);
    cache.reserve(sequence, 1);
    cache.append(0, row.data(), row.data());
    cache.commit();
    std::vector<float> k(64), v(64);
    cache.gather(sequence, 0, token, token + 1, k.data(), v.data());
    for (std::size_t i = 0; i < 64; ++i) {
      error += std::pow(static_cast<double>(k[i] - row[i]), 2);
      size += std::pow(static_cast<double>(row[i]), 2);
    }
  }
  return std::sqrt(error / size);
}

int main() {
  // [collect]
  // Moments of the rows as append takes them, and of the queries that score them; one set per slot and stored head.
  kvc::calibrate::head_samples samples = kvc::calibrate::head_samples::of<spec>();
  kvc::testing::random_source source(1);
  for (int token = 0; token < 500; ++token) {
    const std::vector<float> row = row_near_a_plane(source);
    samples.first.add(row.data());   // keys
    samples.second.add(row.data());  // values
    std::vector<float> query(64);    // queries: here without a preferred direction
    for (float& q : query) q = source.normal();
    samples.queries.add(query.data());
  }
  // [collect]

  // [fit]
  const kvc::extents<spec> extents;
  kvc::calibration<spec> constants(extents);
  for (int slot = 0; slot < constants.slots(); ++slot) {
    for (int head = 0; head < constants.stored_heads(); ++head) {
      kvc::calibrate::fit(constants, slot, head, samples);
    }
  }
  // [fit]

  // [use]
  kvc::host::cache<spec> without({.capacity = 64});
  kvc::host::cache<spec> with({.capacity = 64}, extents, &constants);
  // [use]
  std::cout.precision(2);
  std::cout << "relative error of the keys: " << error_of(without) << " without, " << error_of(with) << " with\n";
  std::cout << constants.bytes() << " bytes of constants, none per token\n";

  // [save]
  const std::span<const float> values = constants.values();  // keep these beside the model
  kvc::calibration<spec> again(extents);
  again.load(values);
  std::cout << (again.id() == constants.id() ? "the same id\n" : "another id\n");
  // [save]
}
