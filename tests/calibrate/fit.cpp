// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// link: kvc::calibrate
#include "kvc/calibrate/fit.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <random>
#include <vector>

#include "kvc/kvc.hpp"

namespace {

using namespace kvc;
using model = shape<1, 4, 2, 32>;

struct data {
  std::vector<float> keys, values, queries;  // [rows][heads][32]
};

data random_rows(int rows, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  data d;
  for (int i = 0; i < rows * 2 * 32; ++i) d.keys.push_back(normal(generator) / (1.0f + (i % 32)) + 0.1f * (i % 7));
  for (int i = 0; i < rows * 2 * 32; ++i) d.values.push_back(normal(generator) + 3.0f * ((i % 32) / 8));
  for (int i = 0; i < rows * 4 * 32; ++i) d.queries.push_back(normal(generator));
  return d;
}

template <class Spec>
calibration<Spec> fitted(const data& d, int rows) {
  calibration<Spec> constants{extents<Spec>{}};
  for (int head = 0; head < 2; ++head) {
    auto samples = calibrate::head_samples::of<Spec>();
    for (int t = 0; t < rows; ++t) {
      samples.first.add(&d.keys[static_cast<std::size_t>((t * 2 + head) * 32)]);
      samples.second.add(&d.values[static_cast<std::size_t>((t * 2 + head) * 32)]);
      for (int g = 0; g < 2; ++g)
        samples.queries.add(&d.queries[static_cast<std::size_t>((t * 4 + head * 2 + g) * 32)]);
    }
    calibrate::fit(constants, 0, head, samples);
  }
  return constants;
}

/// Root mean square of gather(append(x)) - x over keys or values.
template <class Spec>
double error_of(const calibration<Spec>* constants, const data& d, int rows, bool keys) {
  host::cache<Spec> cache({.capacity = rows, .max_step_rows = rows}, {}, constants);
  const int sequence = cache.add_sequence();
  cache.reserve(sequence, rows);
  cache.append(0, d.keys.data(), d.values.data());
  cache.commit();
  std::vector<float> k(d.keys.size()), v(d.values.size());
  cache.gather(sequence, 0, 0, rows, k.data(), v.data());
  double sum = 0;
  for (std::size_t i = 0; i < k.size(); ++i) {
    const double e = keys ? k[i] - d.keys[i] : v[i] - d.values[i];
    sum += e * e;
  }
  return std::sqrt(sum / static_cast<double>(k.size()));
}

}  // namespace

TEST_SUITE("calibrate") {
  TEST_CASE("means make a centred grid finer, rotated or not, in either order of wrappers") {
    const data learn = random_rows(400, 1), judge = random_rows(128, 2);
    const auto gain = [&]<class Spec>(const Spec*) {
      const auto constants = fitted<Spec>(learn, 400);
      return error_of<Spec>(nullptr, judge, 128, false) / error_of<Spec>(&constants, judge, 128, false);
    };
    using grid = quant::integer<4, 32, quant::symmetric>;
    const compose<model, quant::centred<grid>>* plain = nullptr;
    const compose<model, quant::centred<quant::rotated<grid>>>* before = nullptr;
    const compose<model, quant::rotated<quant::centred<grid>>>* after = nullptr;
    CHECK(gain(plain) > 1.5);
    CHECK(gain(before) > 1.5);
    CHECK(gain(after) == doctest::Approx(gain(before)).epsilon(0.02));
  }

  TEST_CASE("a fitted basis keeps more of the keys than the leading channels do") {
    const data learn = random_rows(400, 3), judge = random_rows(128, 4);
    using spec = compose<model, dims::split<dims::low_rank<16>, dims::full>, quant::none<float>>;
    const auto constants = fitted<spec>(learn, 400);
    CHECK(error_of<spec>(&constants, judge, 128, true) < 0.6 * error_of<spec>(nullptr, judge, 128, true));
  }

  TEST_CASE("a full query-aware basis is exact, deferred or not") {
    const data learn = random_rows(400, 5), judge = random_rows(64, 6);
    using applied = compose<model, dims::split<dims::low_rank<32>, dims::full>, quant::none<float>>;
    using deferred =
        compose<model, dims::split<dims::low_rank<32>, dims::full>, quant::none<float>, rotary::deferred<>>;
    const auto a = fitted<applied>(learn, 400);
    const auto b = fitted<deferred>(learn, 400);
    CHECK(error_of<applied>(&a, judge, 64, true) < 1e-4);
    CHECK(error_of<deferred>(&b, judge, 64, true) < 1e-4);
    CHECK(a.id() != calibration<applied>(extents<applied>{}).id());
  }

  TEST_CASE("pruning keeps the channels that are strong in keys and queries") {
    const data learn = random_rows(400, 7);
    using spec = compose<model, dims::split<dims::pruned<8>, dims::full>>;
    auto constants = fitted<spec>(learn, 400);
    bool ascending = true;
    for (int i = 1; i < 8; ++i) {
      ascending = ascending && constants.first_dims(0, 0)[static_cast<std::size_t>(i)] >
                                   constants.first_dims(0, 0)[static_cast<std::size_t>(i - 1)];
    }
    CHECK(ascending);
    CHECK(constants.first_dims(0, 0)[0] == 0.0f);  // channel 0 has by far the largest variance
  }

  TEST_CASE("constants survive a save, and are refused by size") {
    using spec = compose<model, quant::centred<quant::integer<4, 32>>>;
    const auto constants = fitted<spec>(random_rows(50, 8), 50);
    calibration<spec> copy{extents<spec>{}};
    CHECK(copy.id() != constants.id());
    copy.load(constants.values());
    CHECK(copy.id() == constants.id());
    CHECK_THROWS_AS(copy.load(constants.values().first(3)), kvc::error);
  }
}
