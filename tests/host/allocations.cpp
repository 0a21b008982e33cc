// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "model_cache.hpp"

// Bytes from the allocator: this program counts every operator new.

namespace {

std::atomic<long long> calls{0};
std::atomic<long long> aligned_bytes{0};  // pages, tails, staging and workspace ask for 64-byte alignment

void* take(std::size_t size) {
  ++calls;
  if (void* p = std::malloc(size == 0 ? 1 : size)) return p;
  throw std::bad_alloc();
}
void* take_aligned(std::size_t size, std::align_val_t alignment) {
  ++calls;
  aligned_bytes += static_cast<long long>(size);
  const std::size_t a = static_cast<std::size_t>(alignment);
  if (void* p = std::aligned_alloc(a, (size + a - 1) / a * a)) return p;
  throw std::bad_alloc();
}

}  // namespace

void* operator new(std::size_t size) {
  return take(size);
}
void* operator new[](std::size_t size) {
  return take(size);
}
void* operator new(std::size_t size, std::align_val_t a) {
  return take_aligned(size, a);
}
void* operator new[](std::size_t size, std::align_val_t a) {
  return take_aligned(size, a);
}
void operator delete(void* p) noexcept {
  std::free(p);
}
void operator delete[](void* p) noexcept {
  std::free(p);
}
void operator delete(void* p, std::size_t) noexcept {
  std::free(p);
}
void operator delete[](void* p, std::size_t) noexcept {
  std::free(p);
}
void operator delete(void* p, std::align_val_t) noexcept {
  std::free(p);
}
void operator delete[](void* p, std::align_val_t) noexcept {
  std::free(p);
}
void operator delete(void* p, std::size_t, std::align_val_t) noexcept {
  std::free(p);
}
void operator delete[](void* p, std::size_t, std::align_val_t) noexcept {
  std::free(p);
}

using namespace kvc_test;

namespace {

/// operator new calls of a piece of code.
template <class Call>
long long calls_of(Call&& call) {
  const long long before = calls;
  call();
  return calls - before;
}

using plain = compose<shape<2, 4, 2, 32>, integer<4, 32>, storage<16>>;
using tail = compose<shape<2, 4, 2, 32>, exact_ends<4, 6, integer<4, 16, affine, per_channel>>, storage<16>>;
using joint = kvc::clla_cache<shape<2, 4, 4, 32>, 64, 16>;
using deferred = compose<shape<2, 4, 2, 32>, interleaved<>, rotated<integer<4, 16>>, low_rank<16>>;

}  // namespace

TEST_CASE("the counter counts") {
  const long long bytes = aligned_bytes;
  CHECK(calls_of([] { ::operator delete(::operator new(10)); }) == 1);  // called by name: never optimised away
  { kvc::host::buffer b(1000); }
  CHECK(aligned_bytes - bytes == 1000);
}

TEST_CASE_TEMPLATE("memory() is what was asked of the allocator, and the formulas say the same", Spec, plain, tail,
                   joint, deferred) {
  const kvc::extents<Spec> e;
  const kvc::host::cache_options options = {.capacity = 1000, .max_sequences = 3, .max_step_rows = 50};
  const long long before = aligned_bytes;
  kvc::host::cache<Spec> cache(options);
  const kvc::host::memory_usage m = cache.memory();
  CHECK(aligned_bytes - before == m.pages + m.tails + m.staging);
  CHECK(m.workspace == 0);
  const int64 pages = (1000 + Spec::tokens_per_page - 1) / Spec::tokens_per_page + 2;
  CHECK(m.pages == kvc::page_pool_bytes<Spec>(e, pages));
  CHECK(m.pages == pages * Spec::tokens_per_page * Spec::bytes_per_token);  // whole bytes per token in these
  CHECK(m.tails == 3 * Spec::tail_bytes_per_sequence);
  CHECK(m.staging == kvc::staging_bytes<Spec>(e, 50));
  CHECK(static_cast<double>(Spec::bytes_per_token) == Spec::bytes_per_token_per_layer * e.layers);
  CHECK(Spec::ratio_to_mha16 == doctest::Approx(Spec::bytes_per_token / (e.layers * e.query_heads * 32 * 4.0)));

  // The workspace comes with the first attend and is counted.
  std::vector<float> k(50 * 4 * 96, 0.5f), out(50 * 4 * 96);
  cache.reserve(cache.add_sequence(), 50);
  if constexpr (Spec::is_latent) {
    cache.append(0, k.data());
  } else {
    cache.append(0, k.data(), k.data());
  }
  kvc::attend_params params;
  params.scale = 0.1f;
  if constexpr (Spec::first_stream::is_deferred) params.rotary = {rotary_table(32).data(), 4096, 16};
  const long long before_attend = aligned_bytes;
  cache.attend(0, k.data(), out.data(), static_cast<float*>(nullptr), params);
  CHECK(cache.memory().workspace > 0);
  CHECK(aligned_bytes - before_attend == cache.memory().workspace);
}

TEST_CASE_TEMPLATE("append and attend do not allocate once they are warm", Spec, plain, tail, joint, deferred) {
  for (const int threads : {1, 3}) {
    CAPTURE(threads);
    typed_cache<Spec> typed({.capacity = 900, .max_sequences = 2, .max_step_rows = 64, .threads = threads});
    kvc::host::cache<Spec>& cache = typed.cache();
    const cache_facts& f = typed.facts();
    const kvc::attend_params params = params_of(f);
    const step_rows rows = make_rows(f, 0, seeds_from(1, 1));
    std::vector<float> out(f.query_heads * f.output_width), lse(f.query_heads);
    const int s = typed.add();
    fill(typed, s, seeds_from(1, 200), 50);
    long long in_append = 0, in_attend = 0, in_commit = 0;
    const std::vector<int64> all = {1};
    for (int step = 0; step < 101; ++step) {
      cache.reserve(s, 1);
      long long append = 0, attend = 0;
      for (int layer = 0; layer < f.layers; ++layer) {
        if (typed.writes(layer)) {
          append += calls_of([&] { typed.append(layer, rows.k.data(), rows.v.data()); });
        }
        attend += calls_of([&] { cache.attend(layer, rows.q.data(), out.data(), lse.data(), params); });
      }
      const long long commit = calls_of([&] { cache.commit(all); });
      if (step == 0) continue;  // the workspace, and what vectors keep from then on
      in_append += append;
      in_attend += attend;
      in_commit += commit;
    }
    CHECK(in_append == 0);
    CHECK(in_attend == 0);
    CHECK(in_commit == 0);
  }
}

TEST_CASE_TEMPLATE("reserve allocates only where vectors grow", Spec, plain, tail) {
  typed_cache<Spec> typed({.capacity = 900, .max_sequences = 2, .max_step_rows = 64});
  kvc::host::cache<Spec>& cache = typed.cache();
  const int s = typed.add();
  const std::vector<std::uint64_t> one = seeds_from(1, 1);
  long long in_reserve = 0;
  for (int step = 0; step < 400; ++step) {
    in_reserve += calls_of([&] { cache.reserve(s, 1); });
    append_layers(typed, one);
    cache.commit();
  }
  CHECK(in_reserve <= 2 * 25 + 5);  // the block list and the table, when a page joins: 400 rows in 25 pages
}

TEST_CASE_TEMPLATE("launchers never allocate, in any state", Spec, plain, tail, joint, deferred) {
  typed_cache<Spec> typed({.capacity = 3000, .max_sequences = 2, .max_step_rows = 256});
  const cache_facts& f = typed.facts();
  const int s = typed.add();
  fill(typed, s, seeds_from(1, 1500), 250);
  const kvc::attend_params params = params_of(f);
  const step_rows rows = make_rows(f, 0, seeds_from(5, 40));
  const auto k = kvc::contiguous_rows(rows.k.data(), f.key_heads(), f.key_width);
  const auto v = kvc::contiguous_rows(rows.v.data(), f.kv_heads, f.head_dim);
  const auto q = kvc::contiguous_rows(rows.q.data(), f.query_heads, f.query_width);
  for (const int64 count : {1, 40}) {
    typed.reserve(s, count);
    const kvc::cache_view<Spec> view = typed.cache().view();
    const kvc::step_view step = typed.cache().step();
    std::vector<float> out(40 * f.query_heads * f.output_width), lse(40 * f.query_heads);
    const auto o = kvc::contiguous_rows(out.data(), f.query_heads, f.output_width);
    const int64 bytes = kvc::host::attend_workspace_bytes<Spec>(view.model, step, 3);
    std::vector<float> workspace(bytes / sizeof(float));
    std::vector<float> gk(40 * f.stored_heads * f.first.model_width), gv(40 * f.stored_heads * f.second.model_width);
    kvc::status worst = kvc::status::ok;
    const auto note = [&](kvc::status answer) { worst = answer == kvc::status::ok ? worst : answer; };
    const long long allocated = calls_of([&] {
      for (int i = 0; i < 3; ++i) {
        if constexpr (Spec::is_latent) {
          note(kvc::host::append<Spec, float>(view, step, 0, k, kvc::slice{i, 3}));
        } else {
          note(kvc::host::append<Spec, float>(view, step, 0, k, v, kvc::slice{i, 3}));
        }
      }
      for (int i = 0; i < 3; ++i) {
        note(kvc::host::attend<Spec, float>(view, step, 0, q, o, lse.data(), params, workspace.data(), bytes,
                                            kvc::slice{i, 3}));
      }
      for (int i = 0; i < 3; ++i) {
        note(kvc::host::attend_merge<Spec, float>(view, step, 0, q, o, lse.data(), params, workspace.data(), bytes,
                                                  kvc::slice{i, 3}));
      }
      note(kvc::host::gather<Spec, float>(view, step, 0, 0, 100, 140,
                                          kvc::contiguous_rows(gk.data(), f.stored_heads, f.first.model_width),
                                          kvc::contiguous_rows(gv.data(), f.stored_heads, f.second.model_width)));
      // Refusals, too.
      if (kvc::host::attend<Spec, float>(view, step, -1, q, o, nullptr, params, nullptr, 0) != kvc::status::bad_layer) {
        worst = kvc::status::invalid_argument;
      }
    });
    CHECK(worst == kvc::status::ok);
    CHECK(allocated == 0);
    typed.abandon();
  }
}
