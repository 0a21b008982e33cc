// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "kvc/host/pool.hpp"

#include <doctest/doctest.h>

#include <cstring>
#include <random>
#include <vector>

#include "kvc/kvc.hpp"

using namespace kvc;

namespace {

/// Lends "threads" that are the caller's own, one after the other, the last slice first.
struct lender {
  int calls = 0;

  host::lent_threads lend(int size) {
    return {size, this, [](void* self, host::lent_threads::call_type call, const void* f) {
              ++static_cast<lender*>(self)->calls;
              for (int i = 2; i >= 0; --i) call(f, {i, 3});
            }};
  }
};

}  // namespace

TEST_CASE("every slice is called once, by own threads and by lent ones") {
  lender other;
  for (const bool is_lent : {false, true}) {
    host::pool pool(3, is_lent ? other.lend(3) : host::lent_threads());
    CHECK(pool.size() == 3);
    std::vector<int> seen(3, 0);
    pool.run([&](slice part) {
      CHECK(part.count == 3);
      ++seen[static_cast<std::size_t>(part.index)];
    });
    CHECK(seen == std::vector<int>(3, 1));
  }
  CHECK(other.calls == 1);
}

TEST_CASE("a cache on lent threads gives the same bits") {
  using spec = compose<shape<1, 6, 2, 64>, quant::integer<4, 32>>;
  constexpr int rows = 70;
  std::mt19937 engine(7);
  std::normal_distribution<float> normal;
  std::vector<float> k(rows * 2 * 64), v(k.size()), q(rows * 6 * 64);
  for (auto* x : {&k, &v, &q}) {
    for (float& value : *x) value = normal(engine);
  }
  std::vector<float> out[2];
  lender other;
  for (const bool is_lent : {false, true}) {
    host::cache<spec> cache({.capacity = rows, .max_step_rows = rows}, {}, nullptr,
                            is_lent ? other.lend(3) : host::lent_threads());
    const int sequence = cache.add_sequence();
    cache.reserve(sequence, rows);
    cache.append(0, k.data(), v.data());
    out[is_lent].resize(q.size());
    attend_params params;
    params.scale = 0.125f;
    cache.attend(0, q.data(), out[is_lent].data(), nullptr, params);
    cache.commit();
    CHECK(cache.length(sequence) == rows);
  }
  CHECK(other.calls >= 3);  // append, attend, commit
  CHECK(std::memcmp(out[0].data(), out[1].data(), q.size() * sizeof(float)) == 0);
}
