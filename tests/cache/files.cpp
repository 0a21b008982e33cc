// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <functional>

#include "oracle.hpp"

// What a loader must refuse although the checksum is right: files of other caches, and files that lie.

using namespace kvc_test;
using kvc::status;

namespace {

using head = shape<2, 4, 2, 32>;
using base = compose<head, integer<4, 32>, storage<16>>;
using windowed = compose<head, integer<4, 16, affine, per_channel>, sinks_and_window<2, 20>, storage<16>>;
constexpr kvc::host::cache_options options = {.capacity = 256, .max_sequences = 2, .max_step_rows = 256};

/// Writes the checksum of a file that was changed.
void seal_file(std::vector<byte>& file) {
  const kvc::uint64 sum = kvc::detail::fnv1a(std::span(file).first(file.size() - 8));
  for (std::size_t i = 0; i < 8; ++i) file[file.size() - 8 + i] = static_cast<byte>(sum >> (8 * i));
}

/// Offsets in a file, from its own name length and layer count: see cache/serialize.hpp.
struct offsets {
  std::size_t name = 20, extents, leaders, calibration, length, payload_bytes, payload;
  explicit offsets(const std::vector<byte>& file, std::size_t layers) {
    extents = name + file[16] + 256u * file[17];
    leaders = extents + 20;
    calibration = leaders + 4 * layers;
    length = calibration + 8;
    payload_bytes = length + 8;
    payload = payload_bytes + 8;
  }
};

/// Loads a changed file; the cache must not have noticed.
status load_changed(any_cache& cache, std::vector<byte> file, const std::function<void(std::vector<byte>&)>& change) {
  change(file);
  seal_file(file);
  const int64 pages = cache.pages_in_use();
  const status s = status_of([&] { cache.load(file); });
  if (s != status::ok) {
    CHECK(cache.pages_in_use() == pages);
    const int id = cache.add();
    cache.remove(id);
  }
  return s;
}

template <class Spec>
std::vector<byte> saved(int64 length) {
  typed_cache<Spec> cache(options);
  fill(cache, cache.add(), seeds_from(1, static_cast<std::size_t>(length)), 100);
  return cache.save(0);
}

}  // namespace

TEST_CASE_TEMPLATE("other compositions and shapes are refused", Other, compose<head, integer<4, 16>, storage<16>>,
                   compose<head, integer<4, 32, symmetric>, storage<16>>, compose<head, integer<4, 32>, storage<32>>,
                   compose<head, integer<4, 32>, shared<2>, storage<16>>,
                   compose<head, integer<4, 32>, interleaved<>, storage<16>>,
                   compose<head, integer<4, 32>, sinks_and_window<0, 4096>, storage<16>>,
                   compose<head, integer<4, 32>, storage<16, kvc::layout::portable, 3>>,
                   compose<shape<2, 4, 4, 32>, integer<4, 32>, storage<16>>,
                   compose<shape<2, 8, 2, 32>, integer<4, 32>, storage<16>>,
                   compose<shape<3, 4, 2, 32>, integer<4, 32>, storage<16>>) {
  const std::vector<byte> file = saved<Other>(30);
  typed_cache<base> cache(options);
  CHECK(status_of([&] { cache.load(file); }) == status::other_cache);
  CHECK(cache.pages_in_use() == 0);
  CHECK(cache.add() == 0);
}

TEST_CASE("another map of layers is refused, and the same one from elsewhere is not") {
  using Spec = compose<dynamic_shape<32>, mapped<dynamic>>;
  static constexpr kvc::int32 one[] = {0, 1, 0};
  static constexpr kvc::int32 other[] = {0, 1, 1};
  kvc::host::cache<Spec> a({.capacity = 64}, {3, 4, 2, one});
  const std::vector<byte> file = a.save(a.add_sequence());
  kvc::host::cache<Spec> b({.capacity = 64}, {3, 4, 2, other});
  CHECK(status_of([&] { b.load(file); }) == status::other_cache);
  const std::vector<kvc::int32> copy(one, one + 3);
  kvc::host::cache<Spec> c({.capacity = 64}, {3, 4, 2, copy.data()});
  CHECK(c.load(file) == 0);
}

TEST_CASE("another calibration is refused") {
  using Spec = compose<head, centred<integer<4, 32>>>;
  const kvc::extents<Spec> e;
  kvc::calibration<Spec> means(e);
  means.first_wrappers(1, 1)[7] = 0.5f;
  kvc::host::cache<Spec> a({.capacity = 64}, e, &means);
  const std::vector<byte> file = a.save(a.add_sequence());
  kvc::host::cache<Spec> none({.capacity = 64}, e);
  CHECK(status_of([&] { none.load(file); }) == status::other_calibration);
  kvc::calibration<Spec> copy(e);
  copy.load(means.values());
  CHECK(copy.id() == means.id());
  kvc::host::cache<Spec> same({.capacity = 64}, e, &copy);
  CHECK(same.load(file) == 0);
  copy.first_wrappers(0, 0)[0] = 1e-30f;
  CHECK(copy.id() != means.id());
}

TEST_CASE("headers that lie are refused") {
  const std::vector<byte> file = saved<base>(30);
  const offsets at(file, 2);
  typed_cache<base> cache(options);
  const auto with_byte = [&](std::size_t offset, byte value) {
    return load_changed(cache, file, [&](std::vector<byte>& f) { f[offset] = value; });
  };
  CHECK(load_changed(cache, file, [](std::vector<byte>&) {}) == status::ok);
  cache.remove(0);
  CHECK(with_byte(0, 'X') == status::corrupt_file);                // magic
  CHECK(with_byte(8, 2) == status::corrupt_file);                  // a version to come
  CHECK(with_byte(12, 1) == status::corrupt_file);                 // byte order
  CHECK(with_byte(18, 1) == status::corrupt_file);                 // a name of 65,000 characters
  CHECK(with_byte(at.name + 5, 'x') == status::other_cache);       // another name
  CHECK(with_byte(at.extents, 3) == status::corrupt_file);         // layers: all that follows shifts
  CHECK(with_byte(at.extents + 3, 0x80) == status::corrupt_file);  // negative
  CHECK(with_byte(at.extents + 3, 0x7f) == status::corrupt_file);  // two billion
  CHECK(with_byte(at.extents + 4, 8) == status::other_cache);      // query heads
  CHECK(with_byte(at.extents + 8, 1) == status::other_cache);      // KV heads
  CHECK(with_byte(at.extents + 12, 1) == status::other_cache);     // slots
  CHECK(with_byte(at.extents + 16, 32) == status::other_cache);    // tokens per page
  CHECK(with_byte(at.extents + 16, 0) == status::corrupt_file);
  CHECK(with_byte(at.leaders + 4, 0) == status::other_cache);
  CHECK(with_byte(at.calibration, static_cast<byte>(file[at.calibration] + 1)) == status::other_calibration);
  CHECK(with_byte(at.length, 33) == status::corrupt_file);  // a third page that is not there
  CHECK(with_byte(at.length, 16) == status::corrupt_file);
  CHECK(with_byte(at.length + 7, 0x80) == status::corrupt_file);  // negative
  CHECK(with_byte(at.length + 7, 0x7f) == status::corrupt_file);  // and far too long
  CHECK(with_byte(at.payload_bytes, static_cast<byte>(file[at.payload_bytes] + 1)) == status::corrupt_file);
  CHECK(with_byte(at.payload_bytes + 7, 0xff) == status::corrupt_file);
  CHECK(with_byte(at.payload, 0) == status::corrupt_file);      // evicted, where nothing is evicted
  CHECK(with_byte(at.payload + 1, 2) == status::corrupt_file);  // neither
  CHECK(load_changed(cache, file, [](std::vector<byte>& f) { f.insert(f.end() - 8, 5, byte{0}); }) ==
        status::corrupt_file);  // more than there should be
}

TEST_CASE("a page that is still needed cannot be evicted in a file") {
  const std::vector<byte> file = saved<windowed>(120);
  const offsets at(file, 2);
  typed_cache<windowed> cache(options);
  const std::size_t page = static_cast<std::size_t>(cache.facts().page_bytes * cache.facts().slots);
  // Pages of 16 rows: sinks in page 0; a query at 120 sees rows from 101 on (page 6), and rows from 112 on are open.
  std::string flags(file.begin() + static_cast<std::ptrdiff_t>(at.payload),
                    file.begin() + static_cast<std::ptrdiff_t>(at.payload) + 8);
  REQUIRE(flags == std::string("\1\0\0\0\0\0\1\1", 8));
  for (std::size_t p = 0; p < 8; ++p) {
    CAPTURE(p);
    const bool present = flags[p] != 0;
    const status s = load_changed(cache, file, [&](std::vector<byte>& f) {
      // Drop the page, or put an empty one in, and keep all sizes right.
      std::size_t index = 0;
      for (std::size_t i = 0; i < p; ++i) index += flags[i] != 0 ? 1 : 0;
      const auto where = f.begin() + static_cast<std::ptrdiff_t>(at.payload + 8 + index * page);
      if (present) {
        f.erase(where, where + static_cast<std::ptrdiff_t>(page));
      } else {
        f.insert(where, page, byte{0});
      }
      f[at.payload + p] = present ? 0 : 1;
      const std::size_t size = f.size() - at.payload - 8;
      for (std::size_t i = 0; i < 8; ++i) f[at.payload_bytes + i] = static_cast<byte>(size >> (8 * i));
    });
    CHECK(s == (present ? status::corrupt_file : status::ok));  // a page too many is only waste
    if (s == status::ok) cache.remove(0);
  }
}

TEST_CASE("a file that does not fit is refused whole") {
  const std::vector<byte> file = saved<base>(100);
  typed_cache<base> tight({.capacity = 96, .max_sequences = 1, .max_step_rows = 64});
  CHECK(status_of([&] { tight.load(file); }) == status::out_of_capacity);
  CHECK(tight.pages_in_use() == 0);
  typed_cache<base> fits({.capacity = 112, .max_sequences = 1, .max_step_rows = 64});
  CHECK(fits.load(file) == 0);
  CHECK(fits.pages_in_use() == 7);
  CHECK(status_of([&] { fits.load(file); }) == status::out_of_capacity);
  CHECK(fits.save(0) == file);
}

TEST_CASE("what is not a file at all") {
  typed_cache<base> cache(options);
  CHECK(status_of([&] { cache.load({}); }) == status::corrupt_file);
  const std::vector<byte> zeros(1000);
  CHECK(status_of([&] { cache.load(zeros); }) == status::corrupt_file);
  const std::vector<byte> magic = {'K', 'V', 'C', 'C', 'A', 'C', 'H', 'E'};
  CHECK(status_of([&] { cache.load(magic); }) == status::corrupt_file);
}
