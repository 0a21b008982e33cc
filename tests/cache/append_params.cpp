// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "model_cache.hpp"

// Normalisation and rotary embedding on append: against the formulas in double precision, and against append of rows
// that were prepared before.

namespace {

using namespace kvc_test;
using kvc::status;
using kvc::rotary::pairs;

/// {cos, sin} of every position and pair, as a model tabulates them.
std::vector<float> angles(int64 positions, int count) {
  std::vector<float> table;
  for (int64 t = 0; t < positions; ++t) {
    for (int i = 0; i < count; ++i) {
      const double angle = static_cast<double>(t) * std::pow(1000.0, -static_cast<double>(i) / count);
      table.push_back(static_cast<float>(std::cos(angle)));
      table.push_back(static_cast<float>(std::sin(angle)));
    }
  }
  return table;
}

std::vector<float> numbers(std::uint64_t seed, std::size_t count) {
  std::vector<float> x(count);
  fill_row(seed, x.data(), static_cast<int>(count), true);
  return x;
}

/// One head's row, worked out in double.
struct plain_preparation {
  std::vector<float> weight;  ///< empty: no normalisation
  double epsilon = 0;
  std::vector<float> table;  ///< empty: no rotary embedding
  int count = 0;             ///< pairs
  bool half_split = false;

  std::vector<double> operator()(const float* x, int width, int64 position) const {
    std::vector<double> y(x, x + width);
    if (!weight.empty()) {
      double sum = 0;
      for (const double v : y) sum += v * v;
      const double root = std::sqrt(sum / width + epsilon);
      for (int i = 0; i < width; ++i) y[i] = y[i] / root * static_cast<double>(weight[i]);
    }
    const std::vector<double> z = y;
    for (int i = 0; i < (table.empty() ? 0 : count); ++i) {
      const double c = static_cast<double>(table[static_cast<std::size_t>(2 * (position * count + i))]);
      const double s = static_cast<double>(table[static_cast<std::size_t>(2 * (position * count + i) + 1)]);
      const int a = half_split ? i : 2 * i;
      const int b = half_split ? i + count : 2 * i + 1;
      y[a] = z[a] * c - z[b] * s;
      y[b] = z[a] * s + z[b] * c;
    }
    return y;
  }
};

constexpr int64 rows = 90;

template <class Spec, pairs Layout>
struct fixture {
  static constexpr int first_width = Spec::first_stream::model_width;
  static constexpr int second_width = Spec::second_stream::model_width;

  kvc::extents<Spec> model = extents_of<Spec>();
  plain_preparation first, second;
  std::vector<float> k, v;  ///< [rows][heads][key_width], [rows][heads][head_dim]

  fixture(int count, bool norms, bool turns) {
    plain_preparation& turned = Spec::is_latent ? second : first;
    if (norms) {
      first = {numbers(1, first_width), 1e-5, {}, 0, false};
      if (!Spec::is_latent) second = {numbers(2, second_width), 1e-3, {}, 0, false};
    }
    if (turns) {
      turned.table = angles(rows, count);
      turned.count = count;
      turned.half_split = Layout == pairs::half_split;
    }
    k = numbers(3, static_cast<std::size_t>(rows * heads() * Spec::key_width));
    v = numbers(4, static_cast<std::size_t>(rows * heads() * Spec::shape_type::head_dim));
  }
  int heads() const { return Spec::is_latent ? 1 : model.kv_heads; }

  kvc::append_params<Layout> params() const {
    kvc::append_params<Layout> p;
    if (!first.weight.empty()) p.first = {first.weight.data(), static_cast<float>(first.epsilon)};
    if (!second.weight.empty()) p.second = {second.weight.data(), static_cast<float>(second.epsilon)};
    const plain_preparation& turned = Spec::is_latent ? second : first;
    if (!turned.table.empty()) p.rotary = {turned.table.data(), rows, turned.count};
    return p;
  }
  const float* first_row(int64 t, int head) const { return k.data() + (t * heads() + head) * Spec::key_width; }
  const float* second_row(int64 t, int head) const {
    return Spec::is_latent ? first_row(t, head) + first_width : v.data() + (t * heads() + head) * second_width;
  }

  template <class Params>
  static void append(kvc::host::cache<Spec>& cache, int layer, const float* keys, const float* values,
                     const Params& params) {
    if constexpr (Spec::is_latent) {
      cache.append(layer, keys, params);
    } else {
      cache.append(layer, keys, values, params);
    }
  }
  /// A cache of one sequence, appended in chunks.
  template <class Params>
  std::vector<byte> saved(int64 chunk, const std::vector<float>& keys, const std::vector<float>& values,
                          const Params& p, std::vector<float>* gathered = nullptr) const {
    kvc::host::cache<Spec> cache({.capacity = 192, .max_sequences = 1, .max_step_rows = 128}, model);
    const int id = cache.add_sequence();
    for (int64 t = 0; t < rows; t += chunk) {
      cache.reserve(id, std::min(chunk, rows - t));
      for (int layer = 0; layer < model.layers; ++layer) {
        if (!model.writes(layer)) continue;
        append(cache, layer, keys.data() + t * heads() * Spec::key_width, values.data() + t * heads() * second_width,
               p);
      }
      cache.commit();
    }
    if (gathered != nullptr) {
      const std::size_t n = static_cast<std::size_t>(rows * model.stored_heads());
      gathered[0].resize(n * first_width);
      gathered[1].resize(n * second_width);
      cache.gather(id, 0, 0, rows, gathered[0].data(), gathered[1].data());
    }
    return cache.save(id);
  }
};

/// Rows that are stored in fp32, without a transform: what gather gives is what append made of them.
template <class Spec, pairs Layout>
void as_in_double(int count, bool norms, bool turns) {
  const fixture<Spec, Layout> f(count, norms, turns);
  std::vector<float> gathered[2];
  f.saved(64, f.k, f.v, f.params(), gathered);
  const int stored = f.model.stored_heads();
  const int merged = f.model.merged();
  double worst = 0, off_by_one = 0;
  for (int64 t = 0; t < rows; ++t) {
    for (int head = 0; head < stored; ++head) {
      for (const bool first : {true, false}) {
        const int width = first ? f.first_width : f.second_width;
        const plain_preparation& prepare = first ? f.first : f.second;
        const float* got = gathered[first ? 0 : 1].data() + (t * stored + head) * width;
        for (const int64 position : {t, (t + 1) % rows}) {
          std::vector<double> want(static_cast<std::size_t>(width));
          for (int m = 0; m < merged; ++m) {
            const int of = head * merged + m;
            const std::vector<double> y = prepare(first ? f.first_row(t, of) : f.second_row(t, of), width, position);
            for (int i = 0; i < width; ++i) want[i] += y[i] / merged;  // the mean, without a calibration
          }
          double norm = 0, error = 0;
          for (int i = 0; i < width; ++i) {
            norm += want[i] * want[i];
            error += (want[i] - static_cast<double>(got[i])) * (want[i] - static_cast<double>(got[i]));
          }
          double& largest = position == t ? worst : off_by_one;
          largest = std::max(largest, std::sqrt(error / norm));
        }
      }
    }
  }
  CHECK(worst < 4e-7);
  // The comparison can fail: rows that are turned by the next position's angles.
  if (turns) CHECK(off_by_one > 1e-2);
}

/// The bytes are those of append with rows that were prepared before, by chunks of any size.
template <class Spec, pairs Layout>
void as_prepared_before(int count, bool norms, bool turns) {
  const fixture<Spec, Layout> f(count, norms, turns);
  const kvc::append_params<Layout> p = f.params();
  std::vector<float> k = f.k, v = f.v;
  for (int64 t = 0; t < rows; ++t) {
    for (int head = 0; head < f.heads(); ++head) {
      float* first = k.data() + (f.first_row(t, head) - f.k.data());
      float* second = Spec::is_latent ? first + f.first_width : v.data() + (f.second_row(t, head) - f.v.data());
      kvc::detail::prepare_row<Spec, true>(p, t, first);
      kvc::detail::prepare_row<Spec, false>(p, t, second);
    }
  }
  const std::vector<byte> want = f.saved(rows, k, v, kvc::rows_as_given{});
  for (const int64 chunk : {int64{1}, int64{17}, rows}) CHECK(f.saved(chunk, f.k, f.v, p) == want);
  CHECK(f.saved(rows, f.k, f.v, kvc::rows_as_given{}) != want);
}

using model = shape<2, 4, 2, 64>;
using exact = compose<model, none<float>>;
using exact_latent = compose<shape<2, 2, 2, 32>, kvc::heads::latent, latent<48, 16>, none<float>>;

}  // namespace

TEST_CASE("append: normalisation and rotary embedding are their formulas") {
  as_in_double<exact, pairs::interleaved>(32, true, true);
  as_in_double<exact, pairs::half_split>(32, true, true);
  as_in_double<exact, pairs::half_split>(8, false, true);  // the leading 16 channels
  as_in_double<exact, pairs::interleaved>(5, true, false);
  as_in_double<exact_latent, pairs::interleaved>(8, true, true);
  as_in_double<exact_latent, pairs::half_split>(4, true, true);
}

TEST_CASE("append: heads that are merged are normalised each, and turned") {
  as_in_double<compose<model, single, none<float>>, pairs::half_split>(16, true, true);
  as_in_double<compose<shape<2, 8, 4, 32>, grouped<4>, none<float>>, pairs::interleaved>(16, false, true);
}

TEST_CASE("append: the bytes of rows that were prepared before, however they are appended") {
  as_prepared_before<compose<model, rotated<integer<4, 32>>>, pairs::half_split>(32, true, true);
  as_prepared_before<compose<model, kv<integer<4, 32, affine, per_channel>, exact_ends<3, 5, integer<4, 32>>>>,
                     pairs::interleaved>(16, true, true);
  as_prepared_before<compose<model, half_split<64>, integer<8, 32>>, pairs::half_split>(0, true, false);
  as_prepared_before<kvc::clla_cache<shape<2, 4, 4, 32>, 64, 16>, pairs::interleaved>(8, true, true);
}

TEST_CASE("append: what a preparation is refused for") {
  const fixture<exact, pairs::interleaved> f(32, true, true);
  kvc::host::cache<exact> cache({.capacity = 192, .max_sequences = 1, .max_step_rows = 128}, f.model);
  const int id = cache.add_sequence();
  cache.reserve(id, rows);
  const auto keys = kvc::contiguous_rows(f.k.data(), 2, 64);
  const auto values = kvc::contiguous_rows(f.v.data(), 2, 64);
  const auto answer = [&](const kvc::append_params<>& p) {
    return kvc::host::append<exact, float>(cache.view(), cache.step(), 0, keys, values, {}, p);
  };
  CHECK(answer(f.params()) == status::ok);
  auto p = f.params();
  p.rotary.positions = rows - 1;
  CHECK(answer(p) == status::bad_position);
  for (const int count : {0, -1, 33}) {
    p = f.params();
    p.rotary.pairs = count;
    CHECK(answer(p) == status::invalid_argument);
  }
  for (const float epsilon : {-1.0f, std::nanf("")}) {
    p = f.params();
    p.first.epsilon = epsilon;
    CHECK(answer(p) == status::invalid_argument);
    p = f.params();
    p.second.epsilon = epsilon;
    CHECK(answer(p) == status::invalid_argument);
  }

  using before = compose<model, half_split<64>>;
  kvc::host::cache<before> deferred({.capacity = 192, .max_sequences = 1, .max_step_rows = 128});
  deferred.reserve(deferred.add_sequence(), rows);
  const auto turned = [&](const kvc::append_params<>& q) {
    return kvc::host::append<before, float>(deferred.view(), deferred.step(), 0, keys, values, {}, q);
  };
  CHECK(turned(f.params()) == status::deferred_rotary);
  CHECK(std::string(kvc::to_string(status::deferred_rotary)).find("before their rotary embedding") !=
        std::string::npos);
  p = f.params();
  p.rotary = {};
  CHECK(turned(p) == status::ok);
}
