// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <kvc/kvc.hpp>
#include <random>

#include "../../bench/attend_error.hpp"
#include "compositions.hpp"

// The error that the GPU's benchmark reports, on the host's attention: at fp32 rounding where that is right, far above
// where one weight, scale or row is not.

using namespace kvc_test;

namespace {

template <class Spec>
void check_error(const float* angles = nullptr) {
  CAPTURE(Spec::name().c_str());
  kvc::host::cache<Spec> cache({.capacity = 256, .max_step_rows = 256});
  const kvc::extents<Spec> model;
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  const auto values = [&](int count) {
    std::vector<float> x(static_cast<std::size_t>(count));
    for (float& v : x) v = normal(random);
    return x;
  };
  const int id = cache.add_sequence();
  const auto append = [&](int rows) {
    cache.reserve(id, rows);
    const std::vector<float> k = values(rows * static_cast<int>(Spec::is_latent ? 1 : model.kv_heads) *
                                        Spec::key_width),
                             v = values(rows * static_cast<int>(model.kv_heads) * Spec::shape_type::head_dim);
    for (int layer = 0; layer < model.layers; ++layer) {
      if constexpr (Spec::is_latent) {
        cache.append(layer, k.data());
      } else {
        cache.append(layer, k.data(), v.data());
      }
    }
  };
  append(150);
  cache.commit();
  append(2);
  kvc::attend_params params;
  params.scale = 0.1f;
  params.fp32_products = true;
  if (angles != nullptr) params.rotary = {angles, 256, Spec::shape_type::head_dim / 2};
  std::vector<kvc::bf16> q;
  for (const float x : values(2 * static_cast<int>(model.query_heads) * Spec::query_width))
    q.push_back(kvc::bf16::from(x));
  std::vector<float> out(static_cast<std::size_t>(2 * model.query_heads * Spec::output_width));
  cache.attend(0, q.data(), out.data(), nullptr, params);

  const auto error = [&](int row = 1) {
    return kvc_bench::attend_error<Spec>(cache.view(), cache.step(), row, params,
                                         q.data() + row * model.query_heads * Spec::query_width,
                                         out.data() + row * model.query_heads * Spec::output_width);
  };
  CHECK(error(0) < 1e-5);
  CHECK(error() < 1e-5);
  params.scale = 0.101f;
  CHECK(error() > 1e-4);
  params.scale = 0.1f;
  params.window = 150;  // a row less
  CHECK(error() > 1e-4);
  params.window = 0;
  out[0] += 0.01f;  // of the first row
  CHECK(error(0) > 1e-4);
  CHECK(error() < 1e-5);
}

}  // namespace

TEST_CASE("the benchmark's error is that of attention, and finds what is wrong") {
  using model = shape<1, 4, 2, 32>;
  check_error<compose<model>>();
  check_error<compose<model, low_rank<24>, rotated<integer<4, 8>>>>();
  check_error<compose<model, kv<integer<4, 32, affine, per_channel>, exact_ends<2, 4, integer<4, 32>>>>>();
  check_error<kvc::clla_cache<shape<1, 4, 4, 32>, 64, 16>>();
  std::vector<float> angles;
  for (int i = 0; i < 256 * 16; ++i) angles.push_back(0.6f), angles.push_back(0.8f);
  check_error<compose<model, half_split<>, integer<4, 32>>>(angles.data());
}
