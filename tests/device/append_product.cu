// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "device_twin.cuh"

// Rows that append multiplies by a basis on tensor cores, in factors of two bf16: what is stored is the product but for
// the codec's own error and 2^-15 of |E| |x|, and it is the host's but for a rare code that is the neighbour.

namespace {

using namespace kvc_test;
using kvc::bf16;
using kvc::status;

template <class Spec, class T = bf16>
void multiplied_as_host(std::uint64_t seed, bool wild = false) {
  static_assert(kvc::cuda::detail::product_grid<Spec, T, kvc::rows_as_given>::exists);
  const kvc::calibration<Spec> constants = random_calibration<Spec>(seed);
  same_bytes_as_host<Spec, T>(seed, false, wild, {}, {}, &constants);
}

using wide = shape<1, 4, 2, 128>;
using model = shape<2, 4, 2, 64>;

/// Rows of a prompt on both sides, and where the device's decoded rows lie.
template <class Spec, class T>
struct prompt {
  static constexpr int64 count = 200;
  kvc::calibration<Spec> constants = random_calibration<Spec>(9);
  kvc::host::cache<Spec> host{
      {.capacity = 256, .max_sequences = 1, .max_step_rows = count}, extents_of<Spec>(), &constants};
  device_twin<Spec> twin{host};
  layer_rows<Spec, T> rows{host.model(), count, 5, false};

  prompt() {
    host.reserve(host.add_sequence(), count);
    rows.append(host, 0);
  }
  /// The device's pages after an append with these constants.
  std::vector<byte> append(const kvc::calibration<Spec>& c) const {
    const std::vector<float> values(c.values().begin(), c.values().end());
    const device_array<float> on_device(values);
    kvc::cache_view<Spec> view = twin.view();
    view.calibration.data = on_device.data();
    const device_step step(host.step(), twin.report());
    REQUIRE(rows.append(view, step.view, step.bounds, 0) == status::ok);
    CHECK(twin.reported() == 0);
    return twin.pages();
  }
  /// A stored row of such pages as it decodes.
  std::vector<float> decoded(std::vector<byte>& pages, int head, int64 row) const {
    using stream_type = typename Spec::first_stream;
    kvc::cache_view<Spec> view = host.view();
    view.pages = pages.data();
    const kvc::step_view step = host.step();
    std::vector<float> x(stream_type::width);
    kvc::stream_rows<Spec, true>(view, step, 0, 0, head).decode(row, 1, x.data());
    return x;
  }
};

/// How the device's pages compare: decoded elements of keys that are beyond their bound, and bytes that are not the
/// host's.
struct differences {
  int64 wrong = 0, elements = 0, other = 0, bytes = 0;
};

template <class Spec, class T>
differences compare(const prompt<Spec, T>& p, std::vector<byte> pages) {
  using stream_type = typename Spec::first_stream;
  constexpr int width = stream_type::width, model_width = stream_type::model_width;
  const kvc::cache_view<Spec> view = p.host.view();
  const int heads = view.model.kv_heads;
  differences d;
  d.other = differing(pages, std::vector<byte>(view.pages, view.pages + pages.size()));
  d.bytes = p.count * heads * 2 * stream_type::segment_bytes / Spec::tokens_per_page;
  kvc::calibration<Spec> constants = p.constants;
  for (int head = 0; head < heads; ++head) {
    const std::span<float> basis = constants.first_dims(0, head);
    for (int64 row = 0; row < p.count; ++row) {
      const T* x = p.rows.k.data() + (row * heads + head) * model_width;
      std::vector<float> z(width), bound(width);
      double slack = 0;  // the largest of the row, as it moves the constants of a group
      for (int r = 0; r < width; ++r) {
        double sum = 0, size = 0;
        for (int c = 0; c < model_width; ++c) {
          const double term = static_cast<double>(basis[static_cast<std::size_t>(r * model_width + c)]) *
                              static_cast<double>(kvc::to_float(x[c]));
          sum += term;
          size += std::abs(term);
        }
        z[static_cast<std::size_t>(r)] = static_cast<float>(sum);
        slack = std::max(slack, size * 0x1p-15);
      }
      stream_type::codec::template bound<width>(z.data(), 0, 1, bound.data());
      const std::vector<float> ours = p.decoded(pages, head, row);
      for (std::size_t r = 0; r < static_cast<std::size_t>(width); ++r) {
        const double error = std::abs(static_cast<double>(ours[r]) - static_cast<double>(z[r]));
        d.wrong += error > static_cast<double>(bound[r]) * (1 + 0x1p-10) + 2 * slack ? 1 : 0;
        ++d.elements;
      }
    }
  }
  return d;
}

template <class Spec, class T = bf16>
void stays_within_bounds() {
  constexpr kvc::text name = Spec::name();
  CAPTURE(name.c_str());
  static_assert(kvc::cuda::detail::product_grid<Spec, T, kvc::rows_as_given>::is_all);
  const prompt<Spec, T> p;
  const differences d = compare(p, p.append(p.constants));
  MESSAGE(name.c_str(), ": ", d.other, " of ", d.bytes, " bytes are not the host's");
  CHECK(d.elements > 10000);
  CHECK(d.wrong == 0);
  CHECK(d.other * 200 <= d.bytes);

  // The comparison can fail: a basis of one bf16, and two rows of it that changed places.
  kvc::calibration<Spec> coarse = p.constants, swapped = p.constants;
  for (int head = 0; head < p.host.model().kv_heads; ++head) {
    for (float& e : coarse.first_dims(0, head)) e = bf16::from(e).value();
    constexpr int width = Spec::first_stream::model_width;
    const auto basis = swapped.first_dims(0, head);
    for (int c = 0; c < width; ++c)
      std::swap(basis[static_cast<std::size_t>(c)], basis[static_cast<std::size_t>(width + c)]);
  }
  const differences of_coarse = compare(p, p.append(coarse)), of_swapped = compare(p, p.append(swapped));
  MESSAGE("with a basis of one bf16: ", of_coarse.other);
  CHECK(of_coarse.other * 200 > d.bytes);
  CHECK(of_swapped.wrong > 200);
}

}  // namespace

TEST_CASE("append: rows times a basis, in the codes of a row") {
  multiplied_as_host<compose<wide, low_rank<96>>>(41);
  multiplied_as_host<compose<wide, low_rank<64>, rotated<integer<4, 32>>>>(42);
  multiplied_as_host<compose<wide, low_rank<32>, centred<integer<8, 32, midrise>>>, kvc::fp16>(43);
  multiplied_as_host<compose<model, low_rank<24>, integer<4, 8>>, float>(44);
  multiplied_as_host<compose<shape<1, 4, 2, 80>, low_rank<40>, none<kvc::fp16>>>(45);
}

TEST_CASE("append: rows times a basis, beside others and in open tails") {
  multiplied_as_host<compose<wide, kv_dims<low_rank<96>, full>, integer<4, 32>>>(46);
  multiplied_as_host<compose<wide, kv_dims<low_rank<128>, low_rank<32>>>>(54);
  multiplied_as_host<compose<model, kv_dims<pruned<48>, low_rank<32>>, integer<4, 16>>>(47);
  multiplied_as_host<
      compose<wide, low_rank<64>, kv<integer<4, 32, affine, per_channel>, exact_ends<3, 5, integer<4, 32>>>>>(48);
  multiplied_as_host<compose<model, half_split<>, low_rank<48>, exact_ends<4, 0, rotated<integer<4, 48>>>>>(49);
}

TEST_CASE("append: where merged heads and elements of 32 bits are multiplied as before") {
  using merged = compose<shape<1, 4, 4, 64>, grouped<2>, low_rank<32>>;
  const kvc::calibration<merged> constants = random_calibration<merged>(50);
  same_bytes_as_host<merged>(50, false, false, {}, {}, &constants);
  using exact = compose<model, low_rank<32>, none<float>>;
  static_assert(!kvc::cuda::detail::product_grid<exact, bf16, kvc::rows_as_given>::exists);
  same_bytes_as_host<exact>(51, true, false);
}

TEST_CASE("append: products are within the codec's bound of the basis times the row") {
  stays_within_bounds<compose<shape<1, 4, 2, 128>, low_rank<96>>>();
  stays_within_bounds<compose<shape<1, 4, 2, 128>, low_rank<64>, none<kvc::fp16>>, float>();
  stays_within_bounds<compose<shape<1, 4, 2, 128>, low_rank<128>, fp8_e4m3<32>>>();
  stays_within_bounds<compose<shape<1, 4, 2, 64>, low_rank<48>, integer<8, 16>>, kvc::fp16>();
}

TEST_CASE("append: what is not finite spreads over a row as on the host") {
  multiplied_as_host<compose<wide, low_rank<96>>>(52, true);
  multiplied_as_host<compose<model, low_rank<24>, integer<4, 8>>, float>(53, true);
}

TEST_CASE("append: rows that are not aligned give the same bytes") {
  using spec = compose<wide, low_rank<96>>;
  const prompt<spec, bf16> p;
  const std::vector<byte> want = p.append(p.constants);
  std::vector<bf16> shifted_k(1), shifted_v(1);
  shifted_k.insert(shifted_k.end(), p.rows.k.begin(), p.rows.k.end());
  shifted_v.insert(shifted_v.end(), p.rows.v.begin(), p.rows.v.end());
  const device_array<bf16> k(shifted_k), v(shifted_v);
  const device_twin<spec> twin(p.host);
  const device_step step(p.host.step(), twin.report());
  const auto view = [](const device_array<bf16>& a) { return kvc::contiguous_rows<const bf16>(a.data() + 1, 2, 128); };
  // The twin starts as the host's copy: other rows first, so that these bytes are new.
  REQUIRE(kvc::cuda::append<spec, bf16>(twin.view(), step.view, step.bounds, 0, view(v), view(k), nullptr) ==
          status::ok);
  CHECK(twin.pages() != want);
  REQUIRE(kvc::cuda::append<spec, bf16>(twin.view(), step.view, step.bounds, 0, view(k), view(v), nullptr) ==
          status::ok);
  CHECK(twin.reported() == 0);
  CHECK(twin.pages() == want);
}
