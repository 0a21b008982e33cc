// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <cstdlib>
#include <thread>

#include "oracle.hpp"

// Contexts beyond one split of 1024 rows, the launchers over the caller's own memory and threads, ragged batches,
// 16-bit inputs and large scores.

using namespace kvc_test;
using kvc::contiguous_rows;
using kvc::slice;
using kvc::status;

namespace {

using head = shape<1, 4, 2, 32>;
using int4 = compose<head, integer<4, 32>>;
using channels = compose<head, kv<integer<4, 32, affine, per_channel>, rotated<integer<4, 16>>>, storage<32>>;
using joint = compose<shape<1, 3, 3, 32>, kvc::heads::latent, latent<32, 8>, integer<4, 32>>;
using deferred = compose<head, interleaved<>, exact_ends<4, 5, integer<8, 32>>, storage<16>>;
using windowed = compose<head, integer<8, 32>, sinks_and_window<4, 1500>>;

constexpr int64 context = 2500;

/// Splits become items of their own where a step has few items for its slices.
template <class Spec>
bool shares_splits(const kvc::host::cache<Spec>& cache, int slices) {
  const int64 one = kvc::host::attend_workspace_bytes<Spec>(cache.model(), cache.step(), 1);
  return kvc::host::attend_workspace_bytes<Spec>(cache.model(), cache.step(), slices) > slices * one;
}

}  // namespace

TEST_CASE_TEMPLATE("long contexts are the oracle's, and the same however they are shared", Spec, int4, channels, joint,
                   deferred, windowed) {
  std::vector<row_result> reference;
  for (const int threads : {1, 2, 5}) {
    CAPTURE(threads);
    typed_cache<Spec> typed({.capacity = 4096, .max_sequences = 1, .max_step_rows = 512, .threads = threads});
    any_cache& cache = typed;
    const cache_facts& f = cache.facts();
    kvc::attend_params params = params_of(f);
    const int sequence = cache.add();
    fill(cache, sequence, seeds_from(1, context), 500);
    const std::vector<std::uint64_t> last = seeds_from(1 + context, 3);
    cache.reserve(sequence, 3);
    CHECK(shares_splits(typed.cache(), threads) == (threads > 1));
    const std::vector<row_result> results = run_layers(cache, last, params);
    if (threads == 5) {
      // The launchers, by slices: in turn, and by threads of the caller.
      const step_rows rows = make_rows(f, 0, last);
      const kvc::cache_view<Spec> view = typed.cache().view();
      const kvc::step_view step = typed.cache().step();
      const auto q = contiguous_rows(rows.q.data(), f.query_heads, f.query_width);
      for (const bool own_threads : {false, true}) {
        for (const int count : {1, 3, 7}) {
          std::vector<float> out(3 * f.query_heads * f.output_width, -1.0f), lse(3 * f.query_heads, -1.0f);
          const auto o = contiguous_rows(out.data(), f.query_heads, f.output_width);
          const int64 bytes = kvc::host::attend_workspace_bytes<Spec>(view.model, step, count);
          std::vector<float> workspace(bytes / sizeof(float), 12345.0f);
          for (const bool merge : {false, true}) {
            std::vector<std::thread> workers;
            for (int i = count - 1; i >= 0; --i) {
              const auto work = [&, i] {
                const status s = merge ? kvc::host::attend_merge<Spec, float>(view, step, 0, q, o, lse.data(), params,
                                                                              workspace.data(), bytes, slice{i, count})
                                       : kvc::host::attend<Spec, float>(view, step, 0, q, o, lse.data(), params,
                                                                        workspace.data(), bytes, slice{i, count});
                if (s != status::ok) std::abort();
              };
              if (own_threads) {
                workers.emplace_back(work);
              } else {
                work();
              }
            }
            for (std::thread& t : workers) t.join();
          }
          for (std::size_t r = 0; r < 3; ++r) {
            CHECK(std::memcmp(out.data() + r * f.query_heads * f.output_width, results[r].out.data(),
                              results[r].out.size() * sizeof(float)) == 0);
            CHECK(std::memcmp(lse.data() + r * f.query_heads, results[r].lse.data(),
                              results[r].lse.size() * sizeof(float)) == 0);
          }
        }
      }
    }
    cache.commit();
    if (threads == 1) {
      reference = results;
      const step_rows query = make_rows(f, 0, std::span(last).last(1));
      const std::vector<head_rows> rows = gather_rows(cache, sequence, 0);
      const verdict v =
          check_query(f, rows, query.q.data(), context + 2, params, results[2].out.data(), results[2].lse.data());
      CHECK_MESSAGE(v.holds, v.what);
      // In fp32; then 40 times the scores: nearly one row takes all, and nothing overflows.
      const float scale = params.scale;
      for (int i = 1; i < 4; ++i) {
        params.fp32_products = i % 2 == 1;
        params.scale = i > 1 ? 40 * scale : scale;
        CAPTURE(i);
        std::vector<float> out(f.query_heads * f.output_width), lse(f.query_heads);
        cache.reserve(sequence, 1);
        const step_rows next = make_rows(f, 0, seeds_from(9999 + static_cast<std::uint64_t>(i), 1));
        cache.append(0, next.k.data(), next.v.data());
        cache.attend(0, next.q.data(), out.data(), lse.data(), params);
        cache.commit();
        const verdict next_one = check_query(f, gather_rows(cache, sequence, 0), next.q.data(), context + 2 + i, params,
                                             out.data(), lse.data());
        CHECK_MESSAGE(next_one.holds, next_one.what);
      }
    } else {
      for (std::size_t i = 0; i < 3; ++i) CHECK(same_bits(results[i], reference[i]));
    }
  }
}

TEST_CASE_TEMPLATE("a ragged step gives each sequence what it would have got alone", Spec, int4, channels, joint) {
  constexpr int64 counts[] = {0, 1, 63, 700, 1};
  typed_cache<Spec> typed({.capacity = 4096, .max_sequences = 5, .max_step_rows = 1024, .threads = 2});
  any_cache& cache = typed;
  std::vector<step_request> requests;
  std::vector<std::uint64_t> seeds;
  for (int i = 0; i < 5; ++i) {
    const int id = cache.add();
    if (i == 4) fill(cache, id, seeds_from(50000, 1300), 500);
    requests.push_back({id, counts[i]});
    for (const std::uint64_t s : seeds_from(1000 * static_cast<std::uint64_t>(i + 1), counts[i])) seeds.push_back(s);
  }
  REQUIRE(cache.try_reserve(requests) == status::ok);
  const kvc::attend_params params = params_of(cache.facts());
  const std::vector<row_result> results = run_layers(cache, seeds, params);
  cache.commit();
  std::size_t at = 0;
  for (int i = 0; i < 5; ++i) {
    CAPTURE(i);
    typed_cache<Spec> alone({.capacity = 4096, .max_sequences = 1, .max_step_rows = 1024, .threads = 1});
    any_cache& one = alone;
    one.add();
    if (i == 4) fill(one, 0, seeds_from(50000, 1300), 64);
    one.reserve(0, counts[i]);
    const std::vector<row_result> wanted =
        run_layers(one, std::span(seeds).subspan(at, static_cast<std::size_t>(counts[i])), params);
    one.commit();
    bool same = true;
    for (const row_result& r : wanted) same = same && same_bits(results[at++], r);
    CHECK(same);
    CHECK(cache.save(requests[i].sequence) == one.save(0));
  }
}

TEST_CASE_TEMPLATE("16-bit inputs are the fp32 numbers that they stand for", T, kvc::bf16, kvc::fp16) {
  const auto check = [](auto spec) {
    using Spec = decltype(spec);
    typed_cache<Spec> narrow({.capacity = 256, .max_step_rows = 128});
    typed_cache<Spec> wide({.capacity = 256, .max_step_rows = 128});
    const cache_facts& f = wide.facts();
    const kvc::attend_params params = params_of(f);
    const step_rows rows = make_rows(f, 0, seeds_from(3, 90));
    const auto round = [](const std::vector<float>& x, std::vector<T>& out, std::vector<float>& back) {
      for (const float v : x) {
        out.push_back(T::from(v));
        back.push_back(out.back().value());
      }
    };
    std::vector<T> k, v, q;
    std::vector<float> k_back, v_back, q_back;
    round(rows.k, k, k_back);
    round(rows.v, v, v_back);
    round(rows.q, q, q_back);
    std::vector<float> out(90 * f.query_heads * f.output_width), lse(90 * f.query_heads), out_wide(out), lse_wide(lse);
    narrow.cache().reserve(narrow.add(), 90);
    wide.cache().reserve(wide.add(), 90);
    if constexpr (Spec::is_latent) {
      narrow.cache().append(0, k.data());
      wide.cache().append(0, k_back.data());
    } else {
      narrow.cache().append(0, k.data(), v.data());
      wide.cache().append(0, k_back.data(), v_back.data());
    }
    narrow.cache().attend(0, q.data(), out.data(), lse.data(), params);
    wide.cache().attend(0, q_back.data(), out_wide.data(), lse_wide.data(), params);
    narrow.commit();
    wide.commit();
    CHECK(same_bits(out, out_wide));
    CHECK(same_bits(lse, lse_wide));
    CHECK(narrow.save(0) == wide.save(0));
    // gather gives 16 bit too: the nearest to its fp32 answer.
    const std::size_t n = 90 * static_cast<std::size_t>(f.stored_heads);
    std::vector<float> gk(n * f.first.model_width), gv(n * f.second.model_width);
    std::vector<T> gk16(gk.size()), gv16(gv.size());
    wide.gather(0, 0, 0, 90, gk.data(), gv.data());
    wide.cache().gather(0, 0, 0, 90, gk16.data(), gv16.data());
    int differences = 0;
    for (std::size_t i = 0; i < gk.size(); ++i) differences += T::from(gk[i]).bits != gk16[i].bits;
    for (std::size_t i = 0; i < gv.size(); ++i) differences += T::from(gv[i]).bits != gv16[i].bits;
    CHECK(differences == 0);
  };
  check(int4{});
  check(channels{});
  check(joint{});
}

TEST_CASE("the launchers over the caller's memory do what the owning cache does") {
  // Two sequences whose blocks lie backwards in a pool of the caller, keys and values interleaved in one array.
  using Spec = channels;
  using stream_cache = typed_cache<Spec>;
  constexpr int64 rows_of_a = 70, rows_of_b = 41;
  stream_cache owning({.capacity = 256, .max_sequences = 2, .max_step_rows = 128});
  const cache_facts& f = owning.facts();
  const kvc::attend_params params = params_of(f);
  const kvc::extents<Spec> model = extents_of<Spec>();
  const kvc::calibration<Spec> constants = random_calibration<Spec>(1);

  constexpr int64 blocks = 8;
  std::vector<std::max_align_t> pages(kvc::page_pool_bytes<Spec>(model, blocks) / sizeof(std::max_align_t) + 1);
  std::vector<std::max_align_t> tails(kvc::tail_pool_bytes<Spec>(model, 2) / sizeof(std::max_align_t) + 1);
  std::vector<std::max_align_t> staging(kvc::staging_bytes<Spec>(model, 128) / sizeof(std::max_align_t) + 1);
  kvc::cache_view<Spec> view;
  view.model = model;
  view.pages = reinterpret_cast<byte*>(pages.data());
  view.blocks = blocks;
  view.block_stride = f.page_bytes;
  view.slot_stride = blocks * f.page_bytes;
  view.tails = reinterpret_cast<byte*>(tails.data());
  view.tail_stride = f.tail_bytes;
  view.sequences = 2;
  view.staging = reinterpret_cast<byte*>(staging.data());
  view.staging_rows = 128;
  view.calibration = constants.view();

  const kvc::int32 ids[] = {1, 0};
  const kvc::int64 lengths[] = {0, 0};
  const kvc::int64 indptr[] = {0, rows_of_a, rows_of_a + rows_of_b};
  const kvc::int32 table[] = {7, 5, 3, -1, 6, 4, -1, -1};
  const kvc::step_view step = {2, ids, lengths, indptr, table, 4};

  const std::vector<std::uint64_t> seeds = seeds_from(77, rows_of_a + rows_of_b);
  const step_rows rows = make_rows(f, 0, seeds);
  // One array [row]{k [2][32], v [2][32]}: strides are the caller's.
  std::vector<float> both;
  for (std::size_t r = 0; r < seeds.size(); ++r) {
    both.insert(both.end(), rows.k.begin() + r * 64, rows.k.begin() + (r + 1) * 64);
    both.insert(both.end(), rows.v.begin() + r * 64, rows.v.begin() + (r + 1) * 64);
  }
  const kvc::rows_view<const float> k = {both.data(), 128, 32};
  const kvc::rows_view<const float> v = {both.data() + 64, 128, 32};
  std::vector<float> out(seeds.size() * f.query_heads * f.output_width), lse(seeds.size() * f.query_heads);
  std::vector<std::thread> workers;
  for (int i = 0; i < 3; ++i) {
    workers.emplace_back([&, i] {
      if (kvc::host::append<Spec, float>(view, step, 0, k, v, slice{i, 3}) != status::ok) std::abort();
    });
  }
  for (std::thread& t : workers) t.join();
  const int64 bytes = kvc::host::attend_workspace_bytes<Spec>(model, step, 1);
  std::vector<float> workspace(bytes / sizeof(float));
  const auto q = contiguous_rows(rows.q.data(), f.query_heads, f.query_width);
  CHECK(kvc::host::attend<Spec, float>(view, step, 0, q, contiguous_rows(out.data(), f.query_heads, f.output_width),
                                       lse.data(), params, workspace.data(), bytes) == status::ok);

  const int a = owning.add();
  const int b = owning.add();
  const step_request requests[] = {{a, rows_of_a}, {b, rows_of_b}};
  REQUIRE(owning.try_reserve(requests) == status::ok);
  const std::vector<row_result> wanted = run_layers(owning, seeds, params);
  for (std::size_t r = 0; r < seeds.size(); ++r) {
    CHECK(std::memcmp(out.data() + r * f.query_heads * f.output_width, wanted[r].out.data(),
                      wanted[r].out.size() * sizeof(float)) == 0);
  }

  // Commit of fewer rows, then a cut: the tails are those of the owning cache.
  const std::vector<int64> accepted = {rows_of_a, 30};
  for (int i = 0; i < 2; ++i) {
    CHECK(kvc::host::commit<Spec>(view, step, accepted.data(), slice{i, 2}) == status::ok);
  }
  owning.commit(accepted);
  const kvc::int64 grown[] = {rows_of_a, 30};
  const kvc::int64 nothing[] = {0, 0, 0};
  const kvc::step_view closed = {2, ids, grown, nothing, table, 4};
  kvc::held_rows held;
  held.committed<Spec>(rows_of_a);
  CHECK(kvc::host::truncate<Spec>(view, closed, 0, 61, held) == status::ok);
  owning.truncate(a, 61);
  const kvc::int64 cut[] = {61, 30};
  const kvc::step_view after = {2, ids, cut, nothing, table, 4};
  for (int i = 0; i < 2; ++i) {
    const std::size_t n = static_cast<std::size_t>(cut[i]) * 64;
    std::vector<float> k_here(n), v_here(n), k_there(n), v_there(n);
    CHECK(kvc::host::gather<Spec, float>(view, after, i, 0, 0, cut[i], contiguous_rows(k_here.data(), 2, 32),
                                         contiguous_rows(v_here.data(), 2, 32)) == status::ok);
    owning.gather(i == 0 ? a : b, 0, 0, cut[i], k_there.data(), v_there.data());
    CHECK(same_bits(k_here, k_there));
    CHECK(same_bits(v_here, v_there));
  }

  // Slot mapping, for a composition without exact rows: the same pages, and -1 leaves a row out.
  using Plain = int4;
  typed_cache<Plain> plain({.capacity = 256, .max_sequences = 1, .max_step_rows = 128});
  const cache_facts& pf = plain.facts();
  const kvc::extents<Plain> plain_model = extents_of<Plain>();
  std::vector<std::max_align_t> plain_pages(kvc::page_pool_bytes<Plain>(plain_model, 3) / sizeof(std::max_align_t) + 1);
  kvc::cache_view<Plain> slots;
  slots.model = plain_model;
  slots.pages = reinterpret_cast<byte*>(plain_pages.data());
  slots.blocks = 3;
  slots.block_stride = pf.page_bytes;
  slots.slot_stride = 3 * pf.page_bytes;
  constexpr int64 count = 100;
  const step_rows flat = make_rows(pf, 0, seeds_from(5, count));
  std::vector<kvc::int64> mapping;
  for (int64 r = 0; r < count; ++r) mapping.push_back(r == 50 ? -1 : (r < 64 ? 2 : 0) * 64 + r % 64);
  for (int i = 0; i < 2; ++i) {
    CHECK(kvc::host::append_slots<Plain, float>(slots, 0, contiguous_rows(flat.k.data(), 2, 32),
                                                contiguous_rows(flat.v.data(), 2, 32), mapping.data(), count,
                                                slice{i, 2}) == status::ok);
  }
  fill(plain, plain.add(), seeds_from(5, count), 100);
  const kvc::int32 slot_table[] = {2, 0};
  const kvc::int64 slot_length[] = {count};
  const kvc::int64 no_rows[] = {0, 0};
  const kvc::step_view committed = {1, nullptr, slot_length, no_rows, slot_table, 2};
  std::vector<float> gk(count * 64), gv(count * 64), wk(count * 64), wv(count * 64);
  CHECK(kvc::host::gather<Plain, float>(slots, committed, 0, 0, 0, count, contiguous_rows(gk.data(), 2, 32),
                                        contiguous_rows(gv.data(), 2, 32)) == status::ok);
  plain.gather(0, 0, 0, count, wk.data(), wv.data());
  for (int64 r = 0; r < count; ++r) {
    CAPTURE(r);
    CHECK((std::memcmp(gk.data() + r * 64, wk.data() + r * 64, 64 * sizeof(float)) == 0) == (r != 50));
    CHECK((std::memcmp(gv.data() + r * 64, wv.data() + r * 64, 64 * sizeof(float)) == 0) == (r != 50));
  }
}
