// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <set>
#include <string>

#include "oracle.hpp"

// Wrong use gets its status, a sentence, and leaves everything as it was.

using namespace kvc_test;
using kvc::status;

namespace {

using plain = compose<shape<4, 4, 2, 32>, shared<2>, integer<4, 32>, storage<16>>;
using tail = compose<shape<4, 4, 2, 32>, shared<2>, integer<4, 16, affine, per_channel>, storage<16>>;
using joint = compose<shape<2, 3, 3, 32>, kvc::heads::latent, latent<32, 8>, storage<16>>;
using deferred = compose<shape<2, 4, 2, 32>, interleaved<>, storage<16>>;
using open_shape = compose<dynamic_shape<32>, mapped<dynamic>, grouped<2>>;

constexpr kvc::host::cache_options small = {.capacity = 64, .max_sequences = 2, .max_step_rows = 40};

template <class Call>
std::string sentence_of(Call&& call) {
  try {
    call();
  } catch (const kvc::error& e) {
    return e.what();
  }
  return "";
}

}  // namespace

TEST_CASE_TEMPLATE("the step protocol", Spec, plain, tail) {
  typed_cache<Spec> typed(small);
  any_cache& c = typed;
  kvc::host::cache<Spec>& cache = typed.cache();
  const cache_facts& f = c.facts();
  const kvc::attend_params params = params_of(f);
  const step_rows rows = make_rows(f, 0, seeds_from(1, 40));
  std::vector<float> out(40 * 128), lse(40 * 4);
  const int s = c.add();
  fill(c, s, seeds_from(1, 19), 19);
  const std::vector<byte> before = c.save(s);
  const auto unharmed = [&] { return c.length(s) == 19 && c.save(s) == before && c.pages_in_use() == 2; };

  // No step.
  CHECK(status_of([&] { cache.append(0, rows.k.data(), rows.v.data()); }) == status::no_step);
  CHECK(status_of([&] { cache.attend(0, rows.q.data(), out.data(), lse.data(), params); }) == status::no_step);
  CHECK(status_of([&] { cache.commit(); }) == status::no_step);
  CHECK(status_of([&] { cache.abandon(); }) == status::no_step);
  CHECK(unharmed());

  // In a step.
  c.reserve(s, 5);
  CHECK(c.try_reserve(s, 1) == status::step_open);
  CHECK(status_of([&] { c.truncate(s, 0); }) == status::step_open);
  CHECK(status_of([&] { c.fork(s); }) == status::step_open);
  CHECK(status_of([&] { c.remove(s); }) == status::step_open);
  CHECK(status_of([&] { c.save(s); }) == status::step_open);
  CHECK(status_of([&] { c.load(before); }) == status::step_open);
  CHECK(status_of([&] { cache.gather(s, 0, 0, 1, out.data(), out.data()); }) == status::step_open);
  CHECK(status_of([&] { cache.attend(0, rows.q.data(), out.data(), lse.data(), params); }) == status::not_appended);
  CHECK(status_of([&] { cache.attend(1, rows.q.data(), out.data(), lse.data(), params); }) == status::not_appended);
  CHECK(status_of([&] { cache.append(1, rows.k.data(), rows.v.data()); }) == status::follower_layer);
  CHECK(status_of([&] { cache.append(3, rows.k.data(), rows.v.data()); }) == status::follower_layer);
  for (const int layer : {-1, 4, 1 << 20}) {
    CHECK(status_of([&] { cache.append(layer, rows.k.data(), rows.v.data()); }) == status::bad_layer);
    CHECK(status_of([&] { cache.attend(layer, rows.q.data(), out.data(), lse.data(), params); }) == status::bad_layer);
  }
  const float* null = nullptr;
  CHECK(status_of([&] { cache.append(0, null, rows.v.data()); }) == status::null_pointer);
  CHECK(status_of([&] { cache.append(0, rows.k.data(), null); }) == status::null_pointer);
  CHECK(status_of([&] { cache.attend(0, rows.q.data(), out.data(), lse.data(), params); }) == status::not_appended);
  cache.append(0, rows.k.data(), rows.v.data());
  CHECK(status_of([&] { cache.attend(0, null, out.data(), lse.data(), params); }) == status::null_pointer);
  CHECK(status_of([&] { cache.attend(0, rows.q.data(), static_cast<float*>(nullptr), lse.data(), params); }) ==
        status::null_pointer);
  for (const float scale : {0.0f, -1.0f, std::numeric_limits<float>::quiet_NaN()}) {
    kvc::attend_params wrong = params;
    wrong.scale = scale;
    CHECK(status_of([&] { cache.attend(0, rows.q.data(), out.data(), lse.data(), wrong); }) ==
          status::invalid_argument);
  }
  kvc::attend_params wrong = params;
  wrong.soft_cap = -1;
  CHECK(status_of([&] { cache.attend(0, rows.q.data(), out.data(), lse.data(), wrong); }) == status::invalid_argument);
  wrong = params;
  wrong.window = -1;
  CHECK(status_of([&] { cache.attend(0, rows.q.data(), out.data(), lse.data(), wrong); }) == status::invalid_argument);
  CHECK(status_of([&] { cache.commit(); }) == status::not_appended);  // the second slot has no rows yet
  for (const std::vector<int64>& accepted : {std::vector<int64>{}, {6}, {-1}, {2, 2}}) {
    CHECK(status_of([&] { cache.commit(accepted); }) == status::invalid_argument);
  }
  cache.abandon();
  CHECK(unharmed());
}

TEST_CASE_TEMPLATE("sequences and capacity", Spec, plain, tail) {
  typed_cache<Spec> typed(small);
  any_cache& c = typed;
  const int s = c.add();
  CHECK(c.add() == 1);
  CHECK(status_of([&] { c.add(); }) == status::out_of_capacity);
  CHECK(status_of([&] { c.fork(s); }) == status::out_of_capacity);
  c.remove(1);
  for (const int id : {-1, 1, 2, 1 << 30}) {
    CAPTURE(id);
    CHECK(c.try_reserve(id, 1) == status::bad_sequence);
    CHECK(status_of([&] { c.remove(id); }) == status::bad_sequence);
    CHECK(status_of([&] { c.fork(id); }) == status::bad_sequence);
    CHECK(status_of([&] { c.truncate(id, 0); }) == status::bad_sequence);
    CHECK(status_of([&] { c.length(id); }) == status::bad_sequence);
    CHECK(status_of([&] { c.save(id); }) == status::bad_sequence);
    CHECK(status_of([&] { c.gather(id, 0, 0, 0, nullptr, nullptr); }) == status::bad_sequence);
  }
  // 64 rows and a page for the second sequence: 80 rows in pages of 16.
  const int t = c.add();
  fill(c, s, seeds_from(1, 60), 40);
  CHECK(c.pages_in_use() == 4);
  const std::vector<byte> before = c.save(s);
  const step_request both[] = {{s, 4}, {t, 17}};  // one page is left, two are needed
  CHECK(c.try_reserve(both) == status::out_of_capacity);
  CHECK(c.try_reserve(s, 41) == status::out_of_capacity);  // rows of a step
  CHECK(c.try_reserve(s, int64{1} << 40) == status::out_of_capacity);
  CHECK(c.try_reserve(s, -1) == status::invalid_argument);
  const step_request twice[] = {{s, 1}, {s, 1}};
  CHECK(c.try_reserve(twice) == status::invalid_argument);
  const step_request unknown[] = {{t, 1}, {9, 1}};
  CHECK(c.try_reserve(unknown) == status::bad_sequence);
  CHECK(c.pages_in_use() == 4);
  CHECK(c.length(t) == 0);
  CHECK(c.save(s) == before);
  const std::string sentence = sentence_of([&] { c.reserve(s, 41); });
  CHECK(sentence == "kvc: reserve: no free pages, sequences or step rows are left; nothing was reserved");
  const step_request fits[] = {{s, 4}, {t, 16}};
  REQUIRE(c.try_reserve(fits) == status::ok);
  CHECK(c.pages_in_use() == 5);
  c.abandon();
  CHECK(c.pages_in_use() == 4);

  // Row ranges.
  std::vector<float> k(64 * 64), v(64 * 64);
  for (const auto& range : {std::pair{-1, 3}, std::pair{3, 2}, std::pair{0, 61}, std::pair{60, 61}}) {
    CHECK(status_of([&] { c.gather(s, 0, range.first, range.second, k.data(), v.data()); }) == status::bad_position);
  }
  CHECK(status_of([&] { c.gather(s, 0, 0, 4, nullptr, v.data()); }) == status::null_pointer);
  CHECK(status_of([&] { c.gather(s, 4, 0, 4, k.data(), v.data()); }) == status::bad_layer);
  CHECK(status_of([&] { c.truncate(s, 61); }) == status::bad_position);
  CHECK(status_of([&] { c.truncate(s, -1); }) == status::bad_position);
  CHECK(sentence_of([&] { c.truncate(s, 61); }) == "kvc: truncate: 61 is not within the sequence's 60 rows");
  CHECK(sentence_of([&] { c.truncate(s, -1); }) == "kvc: truncate: -1 is not within the sequence's 60 rows");
  CHECK(c.save(s) == before);
  c.gather(s, 0, 60, 60, k.data(), v.data());  // an empty range is none of these
}

TEST_CASE("options") {
  for (const kvc::host::cache_options o :
       {kvc::host::cache_options{.capacity = 0}, kvc::host::cache_options{.max_sequences = 0},
        kvc::host::cache_options{.max_step_rows = -5}, kvc::host::cache_options{.threads = 0}}) {
    CHECK(status_of([&] { kvc::host::cache<plain> c(o); }) == status::invalid_argument);
  }
}

TEST_CASE("extents that do not fit") {
  static constexpr kvc::int32 own[] = {0, 1, 2, 3};
  const auto validate = [](int layers, int query_heads, int kv_heads, const kvc::int32* leaders) {
    const kvc::extents<open_shape> e = {layers, query_heads, kv_heads, leaders};
    const status s = e.validate();
    CHECK(status_of([&] { kvc::host::cache<open_shape> c({}, e); }) == s);
    CHECK(status_of([&] { kvc::calibration<open_shape> c(e); }) == s);
    return s;
  };
  CHECK(validate(4, 4, 2, own) == status::ok);
  CHECK(validate(kvc::dynamic, 4, 2, own) == status::bad_extents);
  CHECK(validate(0, 4, 2, own) == status::bad_extents);
  CHECK(validate(4, 0, 2, own) == status::bad_extents);
  CHECK(validate(4, 4, 0, own) == status::bad_extents);
  CHECK(validate(4, 6, 4, own) == status::bad_extents);   // query heads no multiple of KV heads
  CHECK(validate(4, 5, 5, own) == status::bad_extents);   // grouped<2> does not divide 5 heads
  CHECK(validate(4, 12, 4, own) == status::bad_extents);  // 6 rows do not divide 4 KV heads
  CHECK(validate(4, 4, 2, nullptr) == status::null_pointer);

  // A static part is not overridden.
  kvc::extents<plain> e;
  e.layers = 2;
  CHECK(e.validate() == status::bad_extents);
  e = {};
  e.kv_heads = 4;
  CHECK(e.validate() == status::bad_extents);
  kvc::extents<compose<shape<dynamic, 4, 2, 32>, mapped<0, 1, 0>>> three;
  three.layers = 4;
  CHECK(three.validate() == status::bad_extents);
  three.layers = 3;
  CHECK(three.validate() == status::ok);
}

TEST_CASE("layer maps") {
  const auto validate = [](std::vector<kvc::int32> leaders) {
    const kvc::extents<open_shape> e = {static_cast<int>(leaders.size()), 4, 2, leaders.data()};
    return status_of([&] { kvc::host::cache<open_shape> c({.capacity = 64}, e); });
  };
  CHECK(validate({0, 0, 2, 0}) == status::ok);
  CHECK(validate({0, 0, 1}) == status::bad_layer_map);  // layer 1 writes nothing
  CHECK(validate({0, 2, 2}) == status::bad_layer_map);  // a later layer
  CHECK(validate({1, 1}) == status::bad_layer_map);     // the first layer reads what is not there yet
  CHECK(validate({0, -1}) == status::bad_layer_map);
  CHECK(validate({0, 7}) == status::bad_layer_map);
  CHECK(validate({-2147483647, 0}) == status::bad_layer_map);
}

TEST_CASE("the caller's table of leaders may go away") {
  std::vector<kvc::int32> leaders = {0, 1, 0};
  kvc::host::cache<open_shape> c({.capacity = 64}, {3, 4, 2, leaders.data()});
  std::fill(leaders.begin(), leaders.end(), -7);
  CHECK(c.model().slots() == 2);
  CHECK(c.model().slot(2) == 0);
}

TEST_CASE("a calibration for other extents") {
  static constexpr kvc::int32 own[] = {0, 1, 2};
  const kvc::calibration<open_shape> three({3, 4, 2, own});
  CHECK(status_of([&] { kvc::host::cache<open_shape> c({}, {2, 4, 2, own}, &three); }) == status::other_calibration);
  CHECK(status_of([&] { kvc::host::cache<open_shape> c({}, {3, 8, 4, own}, &three); }) == status::other_calibration);
  using low = compose<shape<1, 2, 2, 32>, low_rank<16>>;
  kvc::calibration<low> c(extents_of<low>());
  const std::vector<float> values(c.values().begin(), c.values().end());
  CHECK(status_of([&] { c.load(std::span(values).first(values.size() - 1)); }) == status::other_calibration);
  CHECK(status_of([&] { c.load({}); }) == status::other_calibration);
  CHECK(std::equal(values.begin(), values.end(), c.values().begin()));
  CHECK(status_of([&] { c.first_dims(1, 0); }) == status::invalid_argument);
  CHECK(status_of([&] { c.second_dims(0, 2); }) == status::invalid_argument);
  CHECK(status_of([&] { c.first_wrappers(-1, 0); }) == status::invalid_argument);
}

TEST_CASE("rotary tables") {
  typed_cache<deferred> typed(small);
  any_cache& c = typed;
  const cache_facts& f = c.facts();
  c.reserve(c.add(), 20);
  const step_rows rows = make_rows(f, 0, seeds_from(1, 20));
  c.append(0, rows.k.data(), rows.v.data());
  std::vector<float> out(20 * 128), lse(20 * 4);
  const auto attend = [&](kvc::rotary::table_view table) {
    kvc::attend_params p = params_of(f);
    p.rotary = table;
    return status_of([&] { c.attend(0, rows.q.data(), out.data(), lse.data(), p); });
  };
  const float* table = rotary_table(32).data();
  CHECK(attend({}) == status::null_pointer);
  CHECK(attend({table, 20, 8}) == status::invalid_argument);  // pairs of another width
  CHECK(attend({table, 19, 16}) == status::bad_position);     // one position short
  CHECK(attend({table, 20, 16}) == status::ok);
}

TEST_CASE_TEMPLATE("launchers over the caller's memory", Spec, plain, tail) {
  typed_cache<Spec> typed(small);
  const cache_facts& f = typed.facts();
  typed.reserve(typed.add(), 20);
  const kvc::cache_view<Spec> good = typed.cache().view();
  const kvc::step_view step = typed.cache().step();
  const step_rows rows = make_rows(f, 0, seeds_from(1, 20));
  const auto k = kvc::contiguous_rows(rows.k.data(), f.kv_heads, 32);
  const auto v = kvc::contiguous_rows(rows.v.data(), f.kv_heads, 32);
  const auto q = kvc::contiguous_rows(rows.q.data(), f.query_heads, 32);
  std::vector<float> out(20 * 128, 7.0f);
  const auto o = kvc::contiguous_rows(out.data(), f.query_heads, 32);
  const kvc::attend_params params = params_of(f);
  const int64 bytes = kvc::host::attend_workspace_bytes<Spec>(good.model, step, 1);
  std::vector<float> workspace(bytes / sizeof(float) + 1);
  const auto append = [&](const kvc::cache_view<Spec>& view, const kvc::step_view& s, kvc::slice part = {}) {
    return kvc::host::append<Spec, float>(view, s, 0, k, v, part);
  };
  const auto attend = [&](const kvc::cache_view<Spec>& view, const kvc::step_view& s, void* memory, int64 size,
                          kvc::slice part = {}) {
    const status first = kvc::host::attend<Spec, float>(view, s, 0, q, o, nullptr, params, memory, size, part);
    CHECK(kvc::host::attend_merge<Spec, float>(view, s, 0, q, o, nullptr, params, memory, size, part) == first);
    return first;
  };
  const auto both = [&](const kvc::cache_view<Spec>& view, const kvc::step_view& s) {
    const status a = append(view, s);
    CHECK(attend(view, s, workspace.data(), bytes) == a);
    return a;
  };
  const auto bad_view = [&](auto change) {
    kvc::cache_view<Spec> view = good;
    change(view);
    return both(view, step);
  };
  using view_type = kvc::cache_view<Spec>;
  CHECK(bad_view([](view_type& x) { x.pages = nullptr; }) == status::null_pointer);
  CHECK(bad_view([](view_type& x) { x.pages += 8; }) == status::misaligned);
  CHECK(bad_view([](view_type& x) { x.block_stride += 4; }) == status::misaligned);
  CHECK(bad_view([](view_type& x) { x.slot_stride -= 4; }) == status::misaligned);
  CHECK(bad_view([](view_type& x) { x.model.layers = 3; }) == status::bad_extents);
  if (Spec::has_tail) {
    CHECK(bad_view([](view_type& x) { x.tails = nullptr; }) == status::null_pointer);
    CHECK(bad_view([](view_type& x) { x.tails += 2; }) == status::misaligned);
    CHECK(bad_view([](view_type& x) { x.staging = nullptr; }) == status::null_pointer);
    CHECK(bad_view([](view_type& x) { x.staging_rows = 19; }) == status::out_of_capacity);
    CHECK(bad_view([](view_type& x) { x.sequences = 0; }) == status::bad_sequence);
  }
  CHECK(bad_view([](view_type& x) { x.blocks = 1; }) == status::out_of_capacity);  // the step's second block

  const auto bad_step = [&](auto change) {
    kvc::step_view s = step;
    change(s);
    return both(good, s);
  };
  static constexpr kvc::int64 from_one[] = {1, 20};
  static constexpr kvc::int64 backwards[] = {0, -1};
  static constexpr kvc::int64 negative[] = {-1};
  static constexpr kvc::int32 no_block[] = {0, -1};
  static constexpr kvc::int32 wild_block[] = {0, 1000};
  using step_type = kvc::step_view;
  CHECK(bad_step([](step_type& s) { s.sequences = -1; }) == status::invalid_argument);
  CHECK(bad_step([](step_type& s) { s.seq_lens = nullptr; }) == status::null_pointer);
  CHECK(bad_step([](step_type& s) { s.row_indptr = nullptr; }) == status::null_pointer);
  CHECK(bad_step([](step_type& s) { s.block_table = nullptr; }) == status::null_pointer);
  CHECK(bad_step([](step_type& s) { s.row_indptr = from_one; }) == status::invalid_argument);
  CHECK(bad_step([](step_type& s) { s.row_indptr = backwards; }) == status::invalid_argument);
  CHECK(bad_step([](step_type& s) { s.seq_lens = negative; }) == status::invalid_argument);
  CHECK(bad_step([](step_type& s) { s.block_table = no_block; }) == status::out_of_capacity);
  CHECK(bad_step([](step_type& s) { s.block_table = wild_block; }) == status::out_of_capacity);
  CHECK(bad_step([](step_type& s) { s.block_table_stride = 1; }) == status::out_of_capacity);
  if (Spec::has_tail) {
    static constexpr kvc::int32 stranger[] = {2};
    static constexpr kvc::int32 nobody[] = {-1};
    CHECK(bad_step([](step_type& s) { s.sequence_ids = stranger; }) == status::bad_sequence);
    CHECK(bad_step([](step_type& s) { s.sequence_ids = nobody; }) == status::bad_sequence);
  }
  for (const kvc::slice part : {kvc::slice{0, 0}, kvc::slice{1, 1}, kvc::slice{-1, 2}, kvc::slice{0, -1}}) {
    CHECK(append(good, step, part) == status::invalid_argument);
    CHECK(attend(good, step, workspace.data(), bytes, part) == status::invalid_argument);
  }

  CHECK(attend(good, step, nullptr, bytes) == status::null_pointer);
  CHECK(attend(good, step, workspace.data(), bytes - 1) == status::workspace_too_small);
  CHECK(attend(good, step, workspace.data(), 0) == status::workspace_too_small);
  CHECK(attend(good, step, reinterpret_cast<byte*>(workspace.data()) + 1, bytes) == status::misaligned);
  CHECK(out == std::vector<float>(out.size(), 7.0f));  // nothing was half written
  bool untouched = true;
  for (int64 i = 0; i < good.slot_stride * f.slots; ++i) untouched = untouched && good.pages[i] == 0;
  CHECK(untouched);

  CHECK(both(good, step) == status::ok);

  // Ending the step, and cutting.
  static constexpr kvc::int64 too_many[] = {21};
  CHECK(kvc::host::commit<Spec>(good, step, too_many) == status::invalid_argument);
  CHECK(kvc::host::commit<Spec>(good, step, negative) == status::invalid_argument);
  CHECK(kvc::host::commit<Spec>(good, step, nullptr, {2, 2}) == status::invalid_argument);
  CHECK(kvc::host::commit<Spec>(good, step, nullptr) == status::ok);
  static constexpr kvc::int64 length[] = {20};
  static constexpr kvc::int64 no_rows[] = {0, 0};
  kvc::step_view closed = step;
  closed.seq_lens = length;
  closed.row_indptr = no_rows;
  const auto truncate = [&](const kvc::step_view& s, int index, int64 kept) {
    return kvc::host::truncate<Spec>(good, s, index, kept, {});
  };
  CHECK(truncate(closed, 1, 0) == status::bad_sequence);
  CHECK(truncate(closed, -1, 0) == status::bad_sequence);
  CHECK(truncate(closed, 0, 21) == status::bad_position);
  CHECK(truncate(closed, 0, -1) == status::bad_position);
  kvc::step_view without = closed;
  without.block_table = nullptr;
  CHECK(truncate(without, 0, 5) == status::null_pointer);
  without = closed;
  without.block_table = no_block;
  CHECK(truncate(without, 0, 18) == status::evicted);
  without.block_table = wild_block;
  CHECK(truncate(without, 0, 18) == status::bad_position);
  CHECK(truncate(closed, 0, 18) == status::ok);

  // Attend over pages that are not there.
  static constexpr kvc::int64 thirty_two[] = {32};
  static constexpr kvc::int64 one_row[] = {0, 1};
  static constexpr kvc::int32 hole[] = {-1, 0, 1};
  static constexpr kvc::int32 wild[] = {1000, 0, 1};
  kvc::step_view later = step;
  later.seq_lens = thirty_two;
  later.row_indptr = one_row;
  later.block_table_stride = 3;
  later.block_table = hole;
  CHECK(attend(good, later, workspace.data(), bytes) == status::evicted);
  later.block_table = wild;
  CHECK(attend(good, later, workspace.data(), bytes) == status::invalid_argument);
}

TEST_CASE("slot mappings") {
  typed_cache<plain> typed(small);
  const cache_facts& f = typed.facts();
  const kvc::cache_view<plain> view = typed.cache().view();
  const step_rows rows = make_rows(f, 0, seeds_from(1, 3));
  const auto k = kvc::contiguous_rows(rows.k.data(), 2, 32);
  const auto v = kvc::contiguous_rows(rows.v.data(), 2, 32);
  const auto append = [&](int layer, std::vector<kvc::int64> mapping) {
    return kvc::host::append_slots<plain, float>(view, layer, k, v, mapping.data(), static_cast<int64>(mapping.size()));
  };
  const auto untouched = [&] {
    for (int64 i = 0; i < view.slot_stride * f.slots; ++i) {
      if (view.pages[i] != 0) return false;
    }
    return true;
  };
  CHECK(append(0, {-1, -1, -1}) == status::ok);
  CHECK(untouched());
  CHECK(append(0, {0, -2, 1}) == status::bad_position);
  CHECK(append(0, {0, 1, view.blocks * 16}) == status::bad_position);
  CHECK(append(1, {0, 1, 2}) == status::follower_layer);
  CHECK(append(4, {0, 1, 2}) == status::bad_layer);
  const kvc::int64 one[] = {0};
  CHECK(kvc::host::append_slots<plain, float>(view, 0, {}, v, one, 1) == status::null_pointer);
  CHECK(kvc::host::append_slots<plain, float>(view, 0, k, {}, one, 1) == status::null_pointer);
  CHECK(kvc::host::append_slots<plain, float>(view, 0, k, v, nullptr, 1) == status::null_pointer);
  CHECK(untouched());
  CHECK(append(0, {view.blocks * 16 - 1, -1, 0}) == status::ok);
  CHECK_FALSE(untouched());
}

TEST_CASE("every status has a sentence of its own") {
  std::set<std::string> sentences;
  for (int s = 0; s <= static_cast<int>(status::device_error); ++s) {
    const std::string sentence = kvc::to_string(static_cast<status>(s));
    CHECK(sentence != "unknown status");
    sentences.insert(sentence);
  }
  CHECK(sentences.size() == static_cast<std::size_t>(status::device_error) + 1);
  CHECK(std::string(kvc::to_string(static_cast<status>(999))) == "unknown status");
}

TEST_CASE("a latent cache takes one array, and its followers write nothing") {
  typed_cache<joint> typed(small);
  typed.reserve(typed.add(), 3);
  CHECK(status_of([&] { typed.cache().append(0, static_cast<const float*>(nullptr)); }) == status::null_pointer);
  CHECK(status_of([&] { typed.cache().append(2, static_cast<const float*>(nullptr)); }) == status::bad_layer);
}
