// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "device_twin.cuh"

// Slot mappings, copies of blocks and tails, and what launchers refuse.

namespace {

using namespace kvc_test;
using kvc::status;
using model = shape<2, 4, 2, 64>;
using plain = compose<model, integer<4, 32>, storage<16>>;
using tailed = compose<model, integer<4, 32, affine, per_channel>>;

template <class Spec>
void same_slots() {
  const kvc::host::cache<Spec> cache({.capacity = 160, .max_sequences = 1}, extents_of<Spec>());
  const device_twin<Spec> twin(cache);
  const kvc::extents<Spec> e = cache.model();
  generator random(3);
  constexpr int64 rows = 61;
  std::vector<int64> mapping;
  for (int64 r = 0; r < rows; ++r) mapping.push_back((r * 37 + 5) % (cache.view().blocks * Spec::tokens_per_page));
  for (int i = 0; i < 9; ++i) mapping[static_cast<std::size_t>(random.below(rows))] = -1;
  const device_array<int64> device_mapping(mapping);
  const int heads = Spec::is_latent ? 1 : e.kv_heads;
  for (int layer = 0; layer < e.layers; ++layer) {
    if (!e.writes(layer)) continue;
    const layer_rows<Spec, kvc::bf16> in(e, rows, 100 + static_cast<std::uint64_t>(layer), true);
    const auto view = [&](const kvc::bf16* p, int width) {
      return kvc::contiguous_rows<const kvc::bf16>(p, heads, width);
    };
    REQUIRE(kvc::host::append_slots<Spec, kvc::bf16>(cache.view(), layer, view(in.k.data(), Spec::key_width),
                                                     view(in.v.data(), Spec::shape_type::head_dim), mapping.data(),
                                                     rows) == status::ok);
    REQUIRE(kvc::cuda::append_slots<Spec, kvc::bf16>(twin.view(), layer, view(in.device_k.data(), Spec::key_width),
                                                     view(in.device_v.data(), Spec::shape_type::head_dim),
                                                     device_mapping.data(), rows, nullptr,
                                                     twin.report()) == status::ok);
    CHECK(twin.reported() == 0);
  }
  const int64 bytes = kvc::page_pool_bytes<Spec>(e, cache.view().blocks);
  const std::vector<byte> on_host(cache.view().pages, cache.view().pages + bytes);
  CHECK(twin.pages() == on_host);
  std::vector<byte> altered = twin.pages();
  altered[0] ^= 0x10;
  CHECK(altered != on_host);
}

}  // namespace

TEST_CASE("slot mappings place rows where the host places them") {
  same_slots<plain>();
  same_slots<kvc::clla_cache<shape<2, 4, 4, 32>, 64, 16>>();
  same_slots<compose<model, low_rank<32>>>();  // leading channels
}

TEST_CASE("slot mappings: what is refused, and what a checked call reports") {
  const kvc::host::cache<plain> cache({.capacity = 64});
  const device_twin<plain> twin(cache);
  const std::vector<float> x(64 * 2 * 64, 1.0f);
  const device_array<float> rows(x);
  const auto in = kvc::contiguous_rows<const float>(rows.data(), 2, 64);
  const device_array<int64> beyond(std::vector<int64>{0, 64, -1});
  CHECK(kvc::cuda::append_slots<plain, float>(twin.view(), 0, in, in, nullptr, 3, nullptr) == status::null_pointer);
  const auto within = [&](int bytes) {
    return kvc::contiguous_rows(reinterpret_cast<const float*>(reinterpret_cast<const char*>(rows.data()) + bytes), 2,
                                64);
  };
  for (const int bytes : {1, 2}) {
    CAPTURE(bytes);
    CHECK(kvc::cuda::append_slots<plain, float>(twin.view(), 0, within(bytes), in, beyond.data(), 3, nullptr) ==
          status::misaligned);
    CHECK(kvc::cuda::append_slots<plain, float>(twin.view(), 0, in, within(bytes), beyond.data(), 3, nullptr) ==
          status::misaligned);
  }
  CHECK(kvc::cuda::append_slots<plain, float>(twin.view(), 9, in, in, beyond.data(), 3, nullptr) == status::bad_layer);
  CHECK(kvc::cuda::append_slots<plain, float>(twin.view(), 0, in, in, beyond.data(), -3, nullptr) ==
        status::invalid_argument);
  CHECK(kvc::cuda::append_slots<plain, float>(twin.view(), 0, in, in, beyond.data(), 3, nullptr, twin.report()) ==
        status::ok);
  CHECK(twin.reported() == kvc::cuda::detail::wrong_table);
  CHECK(kvc::cuda::append_slots<tailed, float>({}, 0, in, in, beyond.data(), 3, nullptr) == status::unsupported);
}

TEST_CASE("steps: what is refused, and what a checked call reports") {
  kvc::host::cache<tailed> cache({.capacity = 256, .max_sequences = 2, .max_step_rows = 40});
  const device_twin<tailed> twin(cache);
  const int id = cache.add_sequence();
  cache.reserve(id, 40);
  const device_step step(cache.step(), twin.report());
  const layer_rows<tailed, float> in(cache.model(), 40, 1, false);
  const auto append = [&](const kvc::cache_view<tailed>& v, const kvc::step_view& s, const kvc::cuda::step_bounds& b,
                          int layer) { return in.append(v, s, b, layer); };
  CHECK(append(twin.view(), step.view, step.bounds, 2) == status::bad_layer);
  const auto rows =
      kvc::contiguous_rows<const float>(in.device_k.data(), tailed::shape_type::kv_heads, tailed::key_width);
  auto within = rows;
  within.data = reinterpret_cast<const float*>(reinterpret_cast<const char*>(rows.data) + 2);
  CHECK(kvc::cuda::append<tailed, float>(twin.view(), step.view, step.bounds, 0, within, rows, nullptr) ==
        status::misaligned);
  CHECK(kvc::cuda::append<tailed, float>(twin.view(), step.view, step.bounds, 0, rows, within, nullptr) ==
        status::misaligned);
  kvc::cuda::step_bounds bounds = step.bounds;
  bounds.max_length = 1 << 20;
  CHECK(append(twin.view(), step.view, bounds, 0) == status::out_of_capacity);
  bounds = step.bounds;
  bounds.total_rows = 41;
  CHECK(append(twin.view(), step.view, bounds, 0) == status::out_of_capacity);
  bounds.total_rows = -1;
  CHECK(append(twin.view(), step.view, bounds, 0) == status::invalid_argument);
  kvc::step_view broken = step.view;
  broken.seq_lens = nullptr;
  CHECK(append(twin.view(), broken, step.bounds, 0) == status::null_pointer);
  kvc::cache_view<tailed> misaligned = twin.view();
  misaligned.pages += 1;
  CHECK(append(misaligned, step.view, step.bounds, 0) == status::misaligned);
  misaligned = twin.view();
  misaligned.staging += 2;
  CHECK(append(misaligned, step.view, step.bounds, 0) == status::misaligned);
  CHECK(twin.reported() == 0);
  CHECK(twin.back().staging == std::vector<byte>(twin.back().staging.size(), byte{0}));  // nothing was launched

  // A length beyond the bounds, a block that does not exist, a sequence that does not exist.
  const int64 length = 7;
  const device_array<int64> long_sequence(&length, 1);
  broken = step.view;
  broken.seq_lens = long_sequence.data();
  CHECK(append(twin.view(), broken, step.bounds, 0) == status::ok);
  CHECK(twin.reported() == kvc::cuda::detail::wrong_length);
  const device_array<kvc::int32> lost(std::vector<kvc::int32>(16, 99));
  broken = step.view;
  broken.block_table = lost.data();
  CHECK(append(twin.view(), broken, step.bounds, 0) == status::ok);
  CHECK(twin.reported() == kvc::cuda::detail::wrong_table);
  broken = step.view;
  broken.sequence_ids = lost.data();
  CHECK(append(twin.view(), broken, step.bounds, 0) == status::ok);
  CHECK(twin.reported() == kvc::cuda::detail::wrong_sequence);
  CHECK(kvc::cuda::commit<tailed>(twin.view(), broken, step.bounds, nullptr, nullptr) == status::ok);
  CHECK(twin.reported() == kvc::cuda::detail::wrong_sequence);
  const int64 many = 41;
  const device_array<int64> too_many(&many, 1);
  CHECK(kvc::cuda::commit<tailed>(twin.view(), step.view, step.bounds, too_many.data(), nullptr) == status::ok);
  CHECK(twin.reported() == kvc::cuda::detail::wrong_rows);
}

TEST_CASE("groups of tokens that do not fit into shared memory are unsupported") {
  using huge = compose<model, integer<4, 1024, affine, per_channel>, storage<1024>>;
  kvc::host::cache<huge> cache({.capacity = 1024, .max_step_rows = 4});
  const device_twin<huge> twin(cache);
  cache.reserve(cache.add_sequence(), 4);
  const device_step step(cache.step(), nullptr);
  const layer_rows<huge, float> in(cache.model(), 4, 1, false);
  CHECK(in.append(twin.view(), step.view, step.bounds, 0) == status::unsupported);
}

TEST_CASE("blocks and tails are copied whole, and nothing else") {
  kvc::host::cache<tailed> cache({.capacity = 256, .max_sequences = 4, .max_step_rows = 100});
  const int id = cache.add_sequence();
  cache.reserve(id, 100);
  for (int layer = 0; layer < 2; ++layer) layer_rows<tailed, float>(cache.model(), 100, 5, false).append(cache, layer);
  cache.commit();
  const device_twin<tailed> twin(cache);
  const auto before = twin.back();
  const device_array<kvc::int32> from(std::vector<kvc::int32>{0, -1, 1}), to(std::vector<kvc::int32>{3, 2, 4});
  CHECK(kvc::cuda::copy_pages<tailed>(twin.view(), from.data(), to.data(), 3, nullptr, twin.report()) == status::ok);
  const device_array<kvc::int32> tail_from(std::vector<kvc::int32>{0, -1}), tail_to(std::vector<kvc::int32>{2, 1});
  CHECK(kvc::cuda::copy_tails<tailed>(twin.view(), tail_from.data(), tail_to.data(), 2, nullptr, twin.report()) ==
        status::ok);
  CHECK(twin.reported() == 0);
  const auto after = twin.back();
  const kvc::cache_view<tailed> a = before.view, b = after.view;
  const int64 page = tailed::page_bytes(2);
  const auto same = [](const byte* x, const byte* y, int64 n) { return std::equal(x, x + n, y); };
  for (int slot = 0; slot < 2; ++slot) {
    const int sources[] = {0, 1, 2, 0, 1, 5, 6};
    for (int block = 0; block < static_cast<int>(a.blocks); ++block) {
      CAPTURE(block);
      CHECK(same(b.page(slot, block), a.page(slot, sources[block]), page));
    }
  }
  const int tails[] = {0, 1, 0, 3};
  for (int s = 0; s < 4; ++s) {
    CHECK(same(b.tails + s * b.tail_stride, a.tails + tails[s] * a.tail_stride, a.tail_stride));
  }
  CHECK(!same(b.page(0, 3), a.page(0, 3), page));  // what was there was other
  CHECK(kvc::cuda::copy_pages<tailed>(twin.view(), nullptr, to.data(), 3, nullptr) == status::null_pointer);
  CHECK(kvc::cuda::copy_pages<tailed>(twin.view(), from.data(), to.data(), -1, nullptr) == status::invalid_argument);
}
