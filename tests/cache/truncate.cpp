// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include "oracle.hpp"

// What forks, cuts and evictions do to pages. (That they leave the rows right is the random operations' affair.)

using namespace kvc_test;
using kvc::status;

namespace {

using plain = compose<shape<1, 2, 2, 32>, integer<4, 32>, storage<16>>;
using tail = compose<shape<1, 2, 2, 32>, integer<4, 16, affine, per_channel>, storage<16>>;

/// Appends `more` to both sequences in a step each, and compares what they attend bit by bit.
bool go_on_alike(any_cache& a, int in_a, any_cache& b, int in_b, int64 more) {
  const std::vector<std::uint64_t> seeds = part_of(31337, 0, more);
  a.reserve(in_a, more);
  const std::vector<row_result> x = run_layers(a, seeds, params_of(a.facts()));
  a.commit();
  b.reserve(in_b, more);
  const std::vector<row_result> y = run_layers(b, seeds, params_of(b.facts()));
  b.commit();
  bool same = true;
  for (std::size_t i = 0; i < seeds.size(); ++i) same = same && same_bits(x[i], y[i]);
  return same;
}

}  // namespace

TEST_CASE_TEMPLATE("a fork shares pages until one side writes", Spec, plain, tail) {
  typed_cache<Spec> typed({.capacity = 256, .max_sequences = 3, .max_step_rows = 64});
  any_cache& c = typed;
  const int a = c.add();
  fill(c, a, part_of(1, 0, 40), 40);
  CHECK(c.pages_in_use() == 3);
  const int b = c.fork(a);
  CHECK(c.pages_in_use() == 3);
  const std::vector<byte> file = c.save(a);
  fill(c, b, part_of(900, 0, 3), 3);  // writes to the third page, and with an open tail to the second as well
  const int64 copies = c.pages_in_use() - 3;
  CHECK(copies >= 1);
  CHECK(copies <= 2);
  CHECK(c.save(a) == file);
  fill(c, a, part_of(800, 0, 30), 30);
  const std::vector<byte> of_b = c.save(b);
  c.remove(a);
  CHECK(c.save(b) == of_b);
  CHECK(c.pages_in_use() == 3);
  // A fork of a fork, cut back to nothing.
  const int d = c.fork(b);
  c.truncate(d, 0);
  CHECK(c.length(d) == 0);
  CHECK(c.pages_in_use() == 3);
  CHECK(c.save(b) == of_b);
  c.remove(b);
  CHECK(c.pages_in_use() == 0);
}

TEST_CASE_TEMPLATE("a copy on write needs a page, or the step is refused whole", Spec, plain, tail) {
  typed_cache<Spec> typed({.capacity = 32, .max_sequences = 2, .max_step_rows = 64});  // 3 pages
  any_cache& c = typed;
  const int a = c.add();
  fill(c, a, part_of(1, 0, 40), 40);
  CHECK(c.pages_in_use() == 3);
  const int b = c.fork(a);
  const std::vector<byte> file = c.save(a);
  CHECK(c.try_reserve(b, 1) == status::out_of_capacity);
  CHECK(c.save(b) == file);
  CHECK(c.pages_in_use() == 3);
  c.remove(b);
  CHECK(c.try_reserve(a, 1) == status::ok);
  c.abandon();
}

TEST_CASE_TEMPLATE("pages past the end are freed", Spec, plain, tail) {
  typed_cache<Spec> typed({.capacity = 256, .max_sequences = 1, .max_step_rows = 64});
  any_cache& c = typed;
  const int a = c.add();
  fill(c, a, part_of(1, 0, 100), 64);
  for (const int64 kept : {100, 97, 96, 64, 33, 32, 17, 16, 1, 0}) {
    c.truncate(a, kept);
    CHECK(c.length(a) == kept);
    CHECK(c.pages_in_use() == (kept + 15) / 16);
  }
  // Rows that were not accepted give their pages back.
  c.reserve(a, 40);
  CHECK(c.pages_in_use() == 3);
  append_layers(c, part_of(1, 0, 40));
  c.commit_rows(5);
  CHECK(c.pages_in_use() == 1);
}

TEST_CASE("a cut into sealed rows goes on from the rows as they decode") {
  typed_cache<tail> typed({.capacity = 256, .max_sequences = 2, .max_step_rows = 128});
  any_cache& c = typed;
  const cache_facts& f = c.facts();
  const int a = c.add();
  fill(c, a, part_of(1, 0, 100), 64);
  const std::vector<head_rows> before = gather_rows(c, a, 0);
  c.truncate(a, 27);  // rows 16 to 26 were sealed and are open again; rows 0 to 15 are, too: the newest 8 stay open
  const std::vector<head_rows> after = gather_rows(c, a, 0);
  for (int h = 0; h < 2; ++h) {
    for (std::size_t t = 0; t < 27; ++t) {
      for (std::size_t i = 0; i < 32; ++i) {
        // The tail rounds to bf16 what the page decodes to.
        const bool open = f.first.seal_boundary(27) <= static_cast<int64>(t);
        const float key = before[h].first[t][i];
        CHECK(after[h].first[t][i] == (open ? kvc::bf16::from(key).value() : key));
      }
    }
  }
}

TEST_CASE("whole pages are evicted, and a cut that would need them is refused") {
  using Spec = compose<shape<2, 2, 2, 32>, integer<8, 32>, sinks_and_window<18, 20>, storage<16>>;
  typed_cache<Spec> typed({.capacity = 256, .max_sequences = 2, .max_step_rows = 64});
  any_cache& c = typed;
  const int a = c.add();
  for (int64 length = 1; length <= 200; ++length) {
    fill(c, a, part_of(1, length - 1, length), 1);
    // Two pages of sinks, and those that hold the rows that the query at `length` sees: length - 19 and up.
    const int64 oldest = std::max<int64>(2, std::max<int64>(0, length - 19) / 16);
    const int64 pages = (length + 15) / 16;
    CHECK(c.pages_in_use() == (pages <= 2 ? pages : 2 + pages - oldest));
  }
  const std::vector<byte> file = c.save(a);
  std::vector<float> k(200 * 64), v(200 * 64);
  CHECK(status_of([&] { c.gather(a, 0, 0, 200, k.data(), v.data()); }) == status::evicted);
  CHECK(status_of([&] { c.gather(a, 0, 40, 41, k.data(), v.data()); }) == status::evicted);
  c.gather(a, 0, 0, 18, k.data(), v.data());
  c.gather(a, 0, 181, 200, k.data(), v.data());
  // Page 11 (rows 176 to 191) is the oldest that is left: a query at 195 sees row 176.
  for (const int64 kept : {194, 180, 100, 40}) {
    CAPTURE(kept);
    CHECK(status_of([&] { c.truncate(a, kept); }) == status::evicted);
    CHECK(c.length(a) == 200);
    CHECK(c.save(a) == file);
  }
  c.truncate(a, 195);
  CHECK(c.length(a) == 195);
  typed_cache<Spec> fresh({.capacity = 256, .max_sequences = 2, .max_step_rows = 256});
  fill(fresh, fresh.add(), part_of(1, 0, 195), 256);
  CHECK(go_on_alike(c, a, fresh, 0, 30));
  // Cut to within the sinks' pages: nothing that is needed there was dropped.
  c.truncate(a, 20);
  typed_cache<Spec> young({.capacity = 256, .max_sequences = 2, .max_step_rows = 256});
  fill(young, young.add(), part_of(1, 0, 20), 256);
  CHECK(go_on_alike(c, a, young, 0, 30));
}

TEST_CASE("a window that is narrower than the open tail keeps the pages that will be sealed") {
  using Spec = compose<shape<1, 2, 2, 32>, exact_ends<0, 40, integer<4, 32, affine, per_channel>>,
                       sinks_and_window<0, 8>, storage<32>>;
  typed_cache<Spec> typed({.capacity = 512, .max_sequences = 2, .max_step_rows = 256});
  any_cache& c = typed;
  const int a = c.add();
  fill(c, a, part_of(1, 0, 300), 50);
  CHECK(c.pages_in_use() == 2);  // rows from 256 on wait in the tail
  const std::vector<byte> file = c.save(a);
  CHECK(status_of([&] { c.truncate(a, 265); }) == status::evicted);  // rows from 224 on would be open
  CHECK(c.save(a) == file);
  c.truncate(a, 297);
  typed_cache<Spec> fresh({.capacity = 512, .max_sequences = 2, .max_step_rows = 512});
  fill(fresh, fresh.add(), part_of(1, 0, 297), 512);
  CHECK(go_on_alike(c, a, fresh, 0, 100));
  CHECK(c.save(a) == fresh.save(0));
}

TEST_CASE("a fork outlives the eviction of pages that it shares") {
  using Spec = compose<shape<1, 2, 2, 32>, integer<8, 32>, sinks_and_window<2, 20>, storage<16>>;
  typed_cache<Spec> typed({.capacity = 256, .max_sequences = 2, .max_step_rows = 128});
  any_cache& c = typed;
  const int a = c.add();
  fill(c, a, part_of(1, 0, 40), 40);
  const int b = c.fork(a);
  const std::vector<byte> file = c.save(b);
  fill(c, a, part_of(1, 40, 140), 100);
  CHECK(c.save(b) == file);
  typed_cache<Spec> fresh({.capacity = 256, .max_sequences = 2, .max_step_rows = 128});
  fill(fresh, fresh.add(), part_of(1, 0, 40), 40);
  CHECK(go_on_alike(c, b, fresh, 0, 30));
  c.remove(a);
  c.remove(b);
  CHECK(c.pages_in_use() == 0);
}
