// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "device_twin.cuh"

// Normalisation and rotary embedding on append: the device against the host. Sums and products are fp32 on both, but
// rounded in another order: the last bit of a prepared row may differ, and with it, rarely, a code.

namespace {

using namespace kvc_test;
using kvc::status;
using kvc::rotary::pairs;

/// Weights and angles, on both sides.
template <pairs Layout>
struct preparation {
  static constexpr int64 positions = 256;
  std::vector<float> weights, table;
  device_array<float> device_weights, device_table;
  kvc::append_params<Layout> host, device;

  /// Widths of rows, 0: not normalised; pairs that turn, 0: none.
  preparation(int first_width, int second_width, int count) {
    generator random(77);
    for (int i = 0; i < first_width + second_width; ++i) weights.push_back(1 + 0.3f * random.normal());
    for (int64 i = 0; i < positions * count; ++i) {
      const double angle = static_cast<double>(i / count) * std::pow(1000.0, -static_cast<double>(i % count) / count);
      table.push_back(static_cast<float>(std::cos(angle)));
      table.push_back(static_cast<float>(std::sin(angle)));
    }
    device_weights = device_array<float>(weights);
    device_table = device_array<float>(table);
    const auto params = [&](const float* w, const float* t) {
      kvc::append_params<Layout> p;
      if (first_width > 0) p.first = {w, 1e-6f};
      if (second_width > 0) p.second = {w + first_width, 1e-5f};
      if (count > 0) p.rotary = {t, positions, count};
      return p;
    };
    host = params(weights.data(), table.data());
    device = params(device_weights.data(), device_table.data());
  }
};

template <class Spec, pairs Layout, class T = kvc::bf16>
void near_host(std::uint64_t seed, const preparation<Layout>& p, bool wild = true) {
  same_bytes_as_host<Spec, T>(seed, false, wild, p.host, p.device);
}

using model = shape<2, 4, 2, 64>;
using plain = compose<model>;

float value(const std::vector<byte>& pages, std::size_t i) {
  return kvc::bf16{static_cast<kvc::uint16>(pages[2 * i] | pages[2 * i + 1] << 8)}.value();
}

}  // namespace

TEST_CASE("append: normalised and turned rows are the host's but for a rare last bit") {
  near_host<compose<model, integer<4, 32>>, pairs::half_split>(31, {64, 64, 32});
  near_host<compose<model, kv<integer<4, 32, affine, per_channel>, exact_ends<3, 5, rotated<integer<4, 64>>>>>,
            pairs::interleaved>(32, {64, 0, 16});
  near_host<compose<shape<2, 4, 2, 80>, integer<8, 16>>, pairs::half_split, float>(33, {0, 0, 40});
  near_host<kvc::clla_cache<shape<2, 16, 16, 128>>, pairs::interleaved>(34, {512, 64, 32});
  near_host<compose<model, integer<4, 32>>, pairs::half_split>(38, {64, 64, 20});  // pairs of threads that are no pair
  near_host<compose<model, integer<4, 32>>, pairs::interleaved>(39, {0, 64, 21});
}

TEST_CASE("append: heads that are merged, keys that stay before their rotary embedding") {
  near_host<compose<model, single, integer<4, 32>>, pairs::half_split>(35, {64, 64, 32}, false);
  near_host<compose<model, single, integer<4, 32, affine, per_channel>>, pairs::interleaved>(37, {64, 64, 32}, false);
  near_host<compose<model, half_split<64>, integer<4, 32>>, pairs::half_split>(36, {64, 0, 0});
}

TEST_CASE("append: a prepared row is off by a last bit at most") {
  const preparation<pairs::half_split> p(64, 64, 32);
  kvc::host::cache<plain> cache({.capacity = 256, .max_sequences = 1, .max_step_rows = 200});
  const device_twin<plain> twin(cache);
  cache.reserve(cache.add_sequence(), 200);
  const device_step step(cache.step(), twin.report());
  const layer_rows<plain, kvc::bf16> rows(cache.model(), 200, 5, false);
  for (int layer = 0; layer < 2; ++layer) {
    rows.append(cache, layer, p.host);
    REQUIRE(rows.append(twin.view(), step.view, step.bounds, layer, nullptr, p.device) == status::ok);
  }
  CHECK(twin.reported() == 0);
  const std::vector<byte> ours = twin.pages();
  const kvc::cache_view<plain> view = cache.view();
  const std::vector<byte> want(view.pages, view.pages + ours.size());
  // bf16 has 8 bits. Where two products cancel, what fp32 lost on them counts: rows are a few units long.
  int64 different = 0, wrong = 0, turned = 0;
  const auto compare = [&](const std::vector<byte>& a, const std::vector<byte>& b) {
    different = wrong = 0;
    for (std::size_t i = 0; i < a.size() / 2; ++i) {
      const float x = value(a, i), y = value(b, i);
      different += x != y ? 1 : 0;
      wrong += std::abs(x - y) > std::abs(x) * 0x1p-7f + 0x1p-20f ? 1 : 0;
    }
  };
  compare(ours, want);
  MESSAGE(different, " of ", want.size() / 2, " elements differ");
  CHECK(wrong == 0);
  CHECK(different * 200 <= static_cast<int64>(want.size() / 2));

  // The comparison can fail: the rows as they came, and turned by a table that begins one position later.
  auto later = p.device;
  later.rotary.cos_sin += 2 * later.rotary.pairs;
  later.rotary.positions -= 1;
  REQUIRE(rows.append(twin.view(), step.view, step.bounds, 0, nullptr, later) == status::ok);
  compare(twin.pages(), want);
  turned = wrong;  // slow pairs turn by less than a bit
  CHECK(turned > 200 * 2);
  REQUIRE(rows.append(twin.view(), step.view, step.bounds, 0) == status::ok);
  compare(twin.pages(), want);
  CHECK(wrong > turned);
}

TEST_CASE("append: what a preparation is refused for") {
  const preparation<pairs::half_split> p(64, 64, 32);
  kvc::host::cache<plain> cache({.capacity = 512, .max_sequences = 1, .max_step_rows = 300});
  const device_twin<plain> twin(cache);
  cache.reserve(cache.add_sequence(), 257);
  const device_step step(cache.step(), twin.report());
  const layer_rows<plain, kvc::bf16> rows(cache.model(), 257, 6, false);
  const auto answer = [&](const auto& params) {
    return rows.append(twin.view(), step.view, step.bounds, 0, nullptr, params);
  };
  CHECK(answer(p.device) == status::bad_position);
  auto wrong = p.device;
  wrong.rotary.pairs = 33;
  CHECK(answer(wrong) == status::invalid_argument);
  wrong = p.device;
  wrong.first.epsilon = -1;
  CHECK(answer(wrong) == status::invalid_argument);

  using before = compose<model, half_split<64>>;
  kvc::host::cache<before> deferred({.capacity = 256, .max_sequences = 1, .max_step_rows = 4});
  const device_twin<before> deferred_twin(deferred);
  deferred.reserve(deferred.add_sequence(), 4);
  const device_step small_step(deferred.step(), nullptr);
  const layer_rows<before, kvc::bf16> few(deferred.model(), 4, 7, false);
  CHECK(few.append(deferred_twin.view(), small_step.view, small_step.bounds, 0, nullptr, p.device) ==
        status::deferred_rotary);
  const std::vector<byte> pages = deferred_twin.pages();
  CHECK(pages == std::vector<byte>(pages.size(), byte{0}));  // nothing was launched
}
