// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <limits>

#include "oracle.hpp"

// NaN and infinities in keys, values and queries: output and lse are NaN, infinite or finite exactly where the oracle's
// are on the decoded rows, and earlier rows do not notice.

using namespace kvc_test;

namespace {

constexpr float inf = std::numeric_limits<float>::infinity();
constexpr float nan_value = std::numeric_limits<float>::quiet_NaN();
constexpr int64 length = 75;
constexpr int64 bad_row = 37;

enum class place { key, value, query };

/// Runs `length` rows in two bulk steps with one number replaced, and checks rows around it, in both kinds of products.
template <class Spec>
void check_in_active_set(place where, float number, int channel) {
  typed_cache<Spec> typed({.capacity = 256, .max_sequences = 2, .max_step_rows = 128});
  any_cache& cache = typed;
  const cache_facts& f = cache.facts();
  kvc::attend_params params = params_of(f);
  const int k_row = f.key_heads() * f.key_width;
  const int v_row = f.is_latent ? 0 : f.kv_heads * f.head_dim;
  const int q_row = f.query_heads * f.query_width;
  const int out_row = f.query_heads * f.output_width;
  step_rows rows = make_rows(f, 0, seeds_from(60, length));
  if (where == place::key) rows.k[bad_row * k_row + channel] = number;
  if (where == place::value) rows.v[bad_row * v_row + channel] = number;
  if (where == place::query) rows.q[bad_row * q_row + channel] = number;

  struct answer {
    std::vector<float> out, lse;
  } answers[2];
  const int sequence = cache.add();
  int64 begin = 0;
  for (answer& a : answers) {
    a.out.resize(static_cast<std::size_t>(length * out_row));
    a.lse.resize(static_cast<std::size_t>(length * f.query_heads));
  }
  for (const int64 end : {int64{20}, length}) {
    cache.reserve(sequence, end - begin);
    cache.append(0, rows.k.data() + begin * k_row, rows.v.data() + begin * v_row);
    for (int i = 0; i < 2; ++i) {
      params.fp32_products = i == 1;
      cache.attend(0, rows.q.data() + begin * q_row, answers[i].out.data() + begin * out_row,
                   answers[i].lse.data() + begin * f.query_heads, params);
    }
    cache.commit();
    begin = end;
  }

  const int twin = cache.add();
  int not_finite = 0;
  for (const int64 position : {int64{5}, bad_row - 1, bad_row, bad_row + 1, int64{64}, length - 1}) {
    const int64 have = cache.length(twin);
    cache.reserve(twin, position + 1 - have);
    cache.append(0, rows.k.data() + have * k_row, rows.v.data() + have * v_row);
    cache.commit();
    for (int i = 0; i < 2; ++i) {
      params.fp32_products = i == 1;
      const float* out = answers[i].out.data() + position * out_row;
      const verdict v = check_query(f, gather_rows(cache, twin, 0), rows.q.data() + position * q_row, position, params,
                                    out, answers[i].lse.data() + position * f.query_heads);
      CHECK_MESSAGE(v.holds, "position ", position, ", fp32 ", params.fp32_products, ": ", v.what);
      for (int c = 0; c < out_row; ++c) {
        if (std::isfinite(out[c])) continue;
        ++not_finite;
        CHECK_MESSAGE(position >= bad_row, "row ", position, " sees what comes later");
      }
    }
  }
  // -inf as a key or query can leave nothing but rows without weight.
  if (std::isnan(number) || where == place::value) CHECK(not_finite > 0);
}

/// In every instruction set that this machine has.
template <class Spec>
void check_number(place where, float number, int channel) {
  const kvc::host::instruction_set best = kvc::host::active_instruction_set();
  for (const kvc::host::instruction_set set : kvc::host::instruction_sets) {
    if (kvc::host::use_instruction_set(set) != kvc::status::ok) continue;
    CAPTURE(std::string(kvc::host::name_of(set)));
    check_in_active_set<Spec>(where, number, channel);
  }
  REQUIRE(kvc::host::use_instruction_set(best) == kvc::status::ok);
}

using head = shape<1, 2, 2, 32>;
template <class... P>
using one = compose<head, storage<32>, P...>;

}  // namespace

TEST_CASE_TEMPLATE("keys and values", Spec, one<none<float>>, one<none<kvc::bf16>>, one<none<kvc::fp16>>,
                   one<integer<8, 16>>, one<integer<4, 32, symmetric>>, one<integer<2, 8, midrise>>,
                   one<integer<4, 16, affine, per_channel>>, one<exact_ends<3, 9, integer<4, 32>>>, one<fp8_e4m3<>>,
                   one<fp8_e4m3<16>>, one<rotated<none<float>>>, one<rotated<integer<4, 16>>>,
                   one<centred<integer<6, 16>>>, one<graded<run<16, 6>, run<16, 3>>>,
                   one<integer<8, 16>, interleaved<>>, one<none<float>, half_split<>, kv_dims<pruned<24>, full>>,
                   one<rotated<none<float>>, low_rank<16>>) {
  for (const float number : {nan_value, inf, -inf}) {
    CAPTURE(number);
    // A channel of the first head that every dims policy keeps.
    int channel = 5;
    typed_cache<Spec> probe({.capacity = 64});
    if (Spec::first_stream::width != 32 && !probe.facts().first.low_rank) {
      channel = static_cast<int>(probe.constants(0, true, 0)[0]);
    }
    check_number<Spec>(place::key, number, channel);
    if (probe.facts().second.drops_channels && !probe.facts().second.low_rank) {
      channel = static_cast<int>(probe.constants(0, false, 0)[0]);
    }
    check_number<Spec>(place::value, number, channel);
  }
}

using joint = shape<1, 2, 2, 32>;
TEST_CASE_TEMPLATE("joint rows", Spec, compose<joint, kvc::heads::latent, latent<32, 16>, storage<32>>,
                   compose<joint, kvc::heads::latent, latent<32, 16>, integer<4, 16>, storage<32>>) {
  for (const float number : {nan_value, inf, -inf}) {
    CAPTURE(number);
    check_number<Spec>(place::key, number, 3);   // the latent, which is the value too
    check_number<Spec>(place::key, number, 40);  // the rotary key
  }
}

TEST_CASE("a dropped value channel reads as zero, even where the others are NaN") {
  using Spec = one<none<float>, kv_dims<full, pruned<24>>>;
  typed_cache<Spec> typed({.capacity = 64});
  step_rows rows = make_rows(typed.facts(), 0, seeds_from(1, 1));
  rows.q[0] = nan_value;
  std::vector<float> out(64), lse(2);
  typed.reserve(typed.add(), 1);
  typed.append(0, rows.k.data(), rows.v.data());
  typed.attend(0, rows.q.data(), out.data(), lse.data(), params_of(typed.facts()));
  const std::span<const float> kept = typed.constants(0, false, 0);
  for (int c = 0; c < 32; ++c) {
    const bool is_kept = std::find(kept.begin(), kept.end(), static_cast<float>(c)) != kept.end();
    CHECK(std::isnan(out[c]) == is_kept);
    if (!is_kept) CHECK(out[c] == 0);
  }
}

TEST_CASE_TEMPLATE("queries", Spec, one<none<float>>, one<integer<4, 16>>, one<integer<4, 16, affine, per_channel>>,
                   one<rotated<integer<4, 16>>>, one<centred<integer<6, 16>>>, one<integer<8, 16>, interleaved<>>) {
  check_number<Spec>(place::query, nan_value, 7);
}

TEST_CASE_TEMPLATE("infinite queries where no transform mixes channels", Spec, one<none<float>>, one<integer<4, 16>>) {
  check_number<Spec>(place::query, inf, 7);
  check_number<Spec>(place::query, -inf, 7);
}

TEST_CASE("a row that no query sees may hold anything") {
  // The window hides row 37 from row 64 on; NaN there must not reach them.
  using Spec = one<none<float>>;
  typed_cache<Spec> typed({.capacity = 256, .max_step_rows = 128});
  any_cache& cache = typed;
  const cache_facts& f = cache.facts();
  kvc::attend_params params = params_of(f);
  params.window = 20;
  step_rows rows = make_rows(f, 0, seeds_from(60, length));
  for (int c = 0; c < 64; ++c) rows.k[bad_row * 64 + c] = rows.v[bad_row * 64 + c] = nan_value;
  std::vector<float> out(length * 64), lse(length * 2);
  cache.reserve(cache.add(), length);
  cache.append(0, rows.k.data(), rows.v.data());
  cache.attend(0, rows.q.data(), out.data(), lse.data(), params);
  for (int64 t = 0; t < length; ++t) {
    const bool sees = t >= bad_row && t < bad_row + 20;
    CHECK(std::isnan(out[t * 64]) == sees);
    CHECK(std::isnan(lse[t * 2 + 1]) == sees);
  }
}
