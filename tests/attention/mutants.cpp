// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include "oracle.hpp"

// The check that compositions_*.cpp uses can fail: each small wrong in a page, in the rows or in the answer breaks it.

using namespace kvc_test;

namespace {

/// One layer's answer for the newest row of a sequence, and what the check needs to judge it.
struct scene {
  std::unique_ptr<any_cache> cache;
  int sequence = 0;
  int64 position = 0;
  std::vector<head_rows> rows;  ///< as they decode before anything is damaged
  step_rows query;
  kvc::attend_params params;
  std::vector<float> out, lse;

  const cache_facts& facts() const { return cache->facts(); }

  /// Attends once more, over the pages as they are now.
  void attend() {
    cache->reserve(sequence, 1);
    for (int layer = 0; layer < facts().layers; ++layer) {
      const step_rows step = make_rows(facts(), layer, seeds_from(500 + static_cast<std::uint64_t>(position), 1));
      if (cache->writes(layer)) cache->append(layer, step.k.data(), step.v.data());
    }
    cache->attend(0, query.q.data(), out.data(), lse.data(), params);
    cache->abandon();
  }
  verdict check() const { return check_query(facts(), rows, query.q.data(), position, params, out.data(), lse.data()); }
  bool holds() const { return check().holds; }
};

template <class Spec>
scene make_scene(int64 length, bool fp32_products = true) {
  scene s;
  s.cache = std::make_unique<typed_cache<Spec>>(
      kvc::host::cache_options{.capacity = 256, .max_sequences = 2, .max_step_rows = 256});
  s.sequence = s.cache->add();
  s.position = length;
  const cache_facts& f = s.facts();
  fill(*s.cache, s.sequence, seeds_from(500, static_cast<std::size_t>(length)), 50);
  // The rows as the query sees them: gathered once its own row is there, from a second sequence.
  const int grown = s.cache->add();
  fill(*s.cache, grown, seeds_from(500, static_cast<std::size_t>(length) + 1), 50);
  s.rows = gather_rows(*s.cache, grown, 0);
  s.query = make_rows(f, 0, seeds_from(500 + static_cast<std::uint64_t>(length), 1));
  s.params = params_of(f);
  s.params.fp32_products = fp32_products;
  s.out.assign(static_cast<std::size_t>(f.query_heads * f.output_width), 0.0f);
  s.lse.assign(f.query_heads, 0.0f);
  s.attend();
  return s;
}

using head = shape<1, 2, 2, 32>;
using int4 = compose<head, integer<4, 16>, storage<32>>;
using channels = compose<head, kv<integer<4, 32, affine, per_channel>, integer<4, 16>>, storage<32>>;
using rotated_centred = compose<head, rotated<centred<integer<4, 16>>>, storage<32>>;
using deferred_ranked =
    compose<head, half_split<>, kv_dims<low_rank<24>, full>, kv<integer<8, 24>, integer<4, 16>>, storage<32>>;
using joint = compose<shape<1, 2, 2, 32>, kvc::heads::latent, latent<32, 16>, integer<4, 32>, storage<32>>;
using windowed = compose<head, integer<8, 32>, sinks_and_window<3, 20>, storage<16>>;

}  // namespace

TEST_CASE_TEMPLATE("the untouched scene passes", Spec, int4, channels, rotated_centred, deferred_ranked, joint,
                   windowed) {
  for (const int64 length : {7, 41, 70}) {
    const verdict v = make_scene<Spec>(length).check();
    CHECK_MESSAGE(v.holds, v.what);
  }
}

TEST_CASE_TEMPLATE("one wrong nibble in a page fails", Spec, int4, channels, rotated_centred, deferred_ranked, joint) {
  for (const bool first : {true, false}) {
    scene s = make_scene<Spec>(70);
    byte* codes = s.cache->segment(s.sequence, 0, 0, first, 1 % s.facts().stored_heads);
    codes[(first ? s.facts().first : s.facts().second).row_bytes * 9 + 2] ^= 0x40;
    s.attend();
    CHECK_FALSE(s.holds());
    codes[(first ? s.facts().first : s.facts().second).row_bytes * 9 + 2] ^= 0x40;
    s.attend();
    CHECK(s.holds());
  }
}

TEST_CASE_TEMPLATE("one altered scale fails", Spec, int4, channels, rotated_centred, deferred_ranked, joint) {
  for (const bool first : {true, false}) {
    scene s = make_scene<Spec>(70);
    const stream_facts& f = first ? s.facts().first : s.facts().second;
    // Of the row of the first page that weighs most for the first head; of its group where a scale serves several.
    std::size_t heaviest = 0;
    double top = -1e9;
    for (std::size_t t = 0; t < 32; ++t) {
      std::vector<double> key(s.rows[0].first[t].begin(), s.rows[0].first[t].end());
      if (s.facts().is_latent) key.insert(key.end(), s.rows[0].second[t].begin(), s.rows[0].second[t].end());
      if (s.facts().is_deferred) rotate_in_double(s.facts(), key, static_cast<int64>(t));
      double score = 0;
      for (std::size_t i = 0; i < key.size(); ++i) score += key[i] * static_cast<double>(s.query.q[i]);
      if (score > top) heaviest = t;
      top = std::max(top, score);
    }
    const int64 groups = s.facts().tokens_per_page / f.tokens_per_group;
    const int64 group_bytes = (f.segment_bytes - f.codes_bytes) / groups;
    byte* scale = s.cache->segment(s.sequence, 0, 0, first, 0) + f.codes_bytes +
                  static_cast<int64>(heaviest) / f.tokens_per_group * group_bytes;
    scale[0] ^= 0x20;  // 32 of the 1024 to 2047 steps of an fp16 number: 1.6 to 3 percent
    s.attend();
    CHECK_FALSE(s.holds());
  }
}

TEST_CASE_TEMPLATE("a dropped or doubled row fails", Spec, int4, channels, rotated_centred, deferred_ranked, joint) {
  for (const std::size_t t : {0u, 33u, 69u}) {
    scene dropped = make_scene<Spec>(70);
    for (head_rows& h : dropped.rows) {
      h.first.erase(h.first.begin() + static_cast<std::ptrdiff_t>(t));
      h.second.erase(h.second.begin() + static_cast<std::ptrdiff_t>(t));
    }
    dropped.position -= 1;
    CHECK_FALSE(dropped.holds());
    scene doubled = make_scene<Spec>(70);
    for (head_rows& h : doubled.rows) {
      h.first[t] = h.first[t + 1];
      h.second[t] = h.second[t + 1];
    }
    CHECK_FALSE(doubled.holds());
  }
}

TEST_CASE("an lse without the constant that centring takes off fails") {
  scene s = make_scene<rotated_centred>(40);
  REQUIRE(s.holds());
  for (int h = 0; h < 2; ++h) {
    // q . c, with c the mean in the rotated space: fold the query as the format says.
    std::vector<float> folded(s.query.q.begin() + h * 32, s.query.q.begin() + (h + 1) * 32);
    rotated<none<float>>::forward<32>(folded.data(), nullptr);
    double constant = 0;
    const std::span<const float> mean = s.cache->constants(0, true, h);
    for (int i = 0; i < 32; ++i) constant += static_cast<double>(folded[i]) * static_cast<double>(mean[i]);
    s.lse[h] -= static_cast<float>(static_cast<double>(s.params.scale) * constant);
  }
  CHECK_FALSE(s.holds());
}

TEST_CASE_TEMPLATE("an lse that is off by a thousandth fails", Spec, int4, channels, rotated_centred, deferred_ranked,
                   joint) {
  scene s = make_scene<Spec>(40);
  s.lse[1] += 0.001f;
  CHECK_FALSE(s.holds());
}

TEST_CASE_TEMPLATE("an output that is off by a thousandth of itself fails", Spec, int4, channels, rotated_centred,
                   joint) {
  scene s = make_scene<Spec>(40);
  for (float& x : s.out) x *= 1.001f;
  CHECK_FALSE(s.holds());
}

TEST_CASE_TEMPLATE("swapped heads fail", Spec, int4, channels, rotated_centred, deferred_ranked) {
  scene rows = make_scene<Spec>(40);
  std::swap(rows.rows[0], rows.rows[1]);
  CHECK_FALSE(rows.holds());
  scene queries = make_scene<Spec>(40);
  std::swap_ranges(queries.query.q.begin(), queries.query.q.begin() + 32, queries.query.q.begin() + 32);
  CHECK_FALSE(queries.holds());
}

TEST_CASE("a window that is off by one row fails") {
  for (const int off : {-1, 1}) {
    scene s = make_scene<int4>(40);
    s.params.window = 17;
    s.attend();
    REQUIRE(s.holds());
    s.params.window = 17 + off;
    CHECK_FALSE(s.holds());
    s.attend();
    CHECK(s.holds());
  }
}

TEST_CASE("a retention that is off by one row fails") {
  for (const auto& [sinks, keep] : {std::pair{3, 19}, std::pair{3, 21}, std::pair{2, 20}, std::pair{4, 20}}) {
    scene s = make_scene<windowed>(40);
    REQUIRE(s.holds());
    cache_facts wrong = s.facts();
    wrong.sinks = sinks;
    wrong.keep = keep;
    // Rows that the right retention hides were not gathered: any number will do for them.
    for (head_rows& h : s.rows) {
      for (auto& row : h.first) row.resize(32, 0.5f);
      for (auto& row : h.second) row.resize(32, 0.5f);
    }
    CHECK_FALSE(check_query(wrong, s.rows, s.query.q.data(), s.position, s.params, s.out.data(), s.lse.data()).holds);
  }
}

TEST_CASE("keys turned by the angles of the next position fail") {
  scene s = make_scene<deferred_ranked>(40);
  REQUIRE(s.holds());
  s.params.rotary.cos_sin += 32;
  s.params.rotary.positions -= 1;
  s.attend();
  CHECK_FALSE(s.holds());
}

TEST_CASE("the other pair layout fails") {
  scene s = make_scene<deferred_ranked>(40);
  cache_facts wrong = s.facts();
  wrong.half_split = false;
  CHECK_FALSE(check_query(wrong, s.rows, s.query.q.data(), s.position, s.params, s.out.data(), s.lse.data()).holds);
}

TEST_CASE("a forgotten soft cap, scale or sink fails") {
  static constexpr float sinks[] = {0.0f, 0.5f};
  scene s = make_scene<int4>(40);
  const kvc::attend_params plain = s.params;
  s.params.soft_cap = 20;
  CHECK_FALSE(s.holds());
  s.params = plain;
  s.params.sink_logits = sinks;
  CHECK_FALSE(s.holds());
  s.params = plain;
  s.params.scale *= 1.001f;
  CHECK_FALSE(s.holds());
}

TEST_CASE("NaN where a number should be, and a number where NaN should be, fail") {
  scene s = make_scene<int4>(40);
  scene number = make_scene<int4>(40);
  s.out[3] = std::numeric_limits<float>::quiet_NaN();
  CHECK_FALSE(s.holds());
  number.rows[0].second[5][2] = std::numeric_limits<float>::infinity();
  CHECK_FALSE(number.holds());
}

// The default's 8-bit products have a wider tolerance, as queries and weights are rounded: what it must still find.
// Small wrongs in the walk are found in fp32, which shares it; wrongs of the kernels by host/kernels.cpp.

TEST_CASE_TEMPLATE("8-bit products: the untouched scene passes, gross wrongs fail", Spec, int4, channels, joint) {
  for (const int64 length : {41, 70, 110}) {
    CAPTURE(length);
    const scene whole = make_scene<Spec>(length, false);
    const verdict v = whole.check();
    CHECK_MESSAGE(v.holds, v.what);

    scene tripled = make_scene<Spec>(length, false);
    for (float& x : tripled.out) x *= 3;
    CHECK_FALSE(tripled.holds());
    scene negated = make_scene<Spec>(length, false);
    for (float& x : negated.out) x = -x;
    CHECK_FALSE(negated.holds());
    scene shifted = make_scene<Spec>(length, false);
    for (float& x : shifted.lse) x += 1.5f;
    CHECK_FALSE(shifted.holds());
    scene few = make_scene<Spec>(length, false);  // all but every eighth row is lost
    for (head_rows& h : few.rows) {
      for (int64 t = length; t >= 0; --t) {
        if (t % 8 == 0) continue;
        h.first.erase(h.first.begin() + static_cast<std::ptrdiff_t>(t));
        h.second.erase(h.second.begin() + static_cast<std::ptrdiff_t>(t));
      }
    }
    few.position = static_cast<int64>(few.rows[0].first.size()) - 1;
    CHECK_FALSE(few.holds());
  }
}

/// Norms, over queries of several lengths, of what products of bytes change, and of what the codec had changed before.
struct added_error {
  double bytes = 0, bytes_lse = 0;
  double codec = 0, codec_lse = 0;
};

template <class Spec, class Exact>
added_error error_of_bytes() {
  added_error e;
  const auto square = [](double x) { return x * x; };
  for (int64 length = 40; length < 112; length += 4) {
    const scene bytes = make_scene<Spec>(length, false);
    const scene decoded = make_scene<Spec>(length, true);
    const scene exact = make_scene<Exact>(length, true);
    for (std::size_t i = 0; i < exact.out.size(); ++i) {
      e.bytes += square(bytes.out[i] - decoded.out[i]);
      e.codec += square(decoded.out[i] - exact.out[i]);
    }
    for (std::size_t i = 0; i < exact.lse.size(); ++i) {
      e.bytes_lse += square(bytes.lse[i] - decoded.lse[i]);
      e.codec_lse += square(decoded.lse[i] - exact.lse[i]);
    }
  }
  return {std::sqrt(e.bytes), std::sqrt(e.bytes_lse), std::sqrt(e.codec), std::sqrt(e.codec_lse)};
}

TEST_CASE("products of bytes change less than storing the rows has changed") {
  using exact = compose<head, none<float>, storage<32>>;
  using exact_joint = compose<shape<1, 2, 2, 32>, kvc::heads::latent, latent<32, 16>, none<float>, storage<32>>;
  const auto check = [](const added_error& e) {
    CHECK(e.bytes > 0);  // they are another way
    CHECK(e.bytes < e.codec / 2);
    CHECK(e.bytes_lse < e.codec_lse / 2);
  };
  check(error_of_bytes<int4, exact>());
  check(error_of_bytes<compose<head, integer<3, 16>, storage<32>>, exact>());
  check(error_of_bytes<compose<head, integer<2, 16>, storage<32>>, exact>());
  check(error_of_bytes<channels, exact>());
  check(error_of_bytes<joint, exact_joint>());
  // A codec that is finer than bytes of queries would be spoilt by them, so that it never meets them.
  const added_error fine = error_of_bytes<compose<head, integer<8, 16>, storage<32>>, exact>();
  CHECK(fine.bytes == 0);
  CHECK(error_of_bytes<int4, exact>().bytes > fine.codec);
}
