// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <doctest/doctest.h>

#include "device_cache.cuh"
#include "oracle.hpp"
#include "outstanding.hpp"
#include "seed.hpp"

// What must hold for the kernels whose products take codes as they lie, against the oracle and against the kernel that
// params.fp32_products chooses. A test program says which compositions, how many queries of a stored head, and whether
// the kernel runs here.

namespace kvc_test {

std::vector<device_composition> suite();
std::vector<int64> query_counts();  ///< ascending
bool runs_here();

inline constexpr kvc::host::cache_options roomy = {.capacity = 8192, .max_sequences = 8, .max_step_rows = 2048};

/// Rows of a step that has at most so many queries of a stored head.
inline int64 rows_for(const cache_facts& f, int64 queries) {
  return std::max<int64>(1, queries * f.stored_heads / f.query_heads);
}

inline std::vector<kvc::attend_params> variants_of(const cache_facts& f) {
  static const std::vector<float> sinks = [] {
    std::vector<float> logits(64);
    for (std::size_t h = 0; h < logits.size(); ++h) logits[h] = static_cast<float>(h * 7 % 11) / 2 - 2;
    logits[5] = -20;
    return logits;
  }();
  REQUIRE(f.query_heads <= static_cast<int>(sinks.size()));
  const kvc::attend_params plain = params_of(f);
  std::vector<kvc::attend_params> all(4, plain);
  all[1].soft_cap = 2.5f;
  all[1].sink_logits = sinks.data();
  all[2].window = 77;
  all[3].scale *= 6;  // few rows have all the weight
  return all;
}

struct checked_row {
  any_cache& cache;
  int sequence;
  int layer;
  std::uint64_t seed;
  int64 position;
  const kvc::attend_params& params;
  const row_result& result;

  verdict check(double rounding) const { return check(gather_rows(cache, sequence, layer), rounding); }
  verdict check(const std::vector<head_rows>& rows, double rounding) const {
    const cache_facts& f = cache.facts();
    const step_rows queries = make_rows(f, layer, std::span<const std::uint64_t>(&seed, 1));
    const float* out = result.out.data() + static_cast<std::ptrdiff_t>(layer) * f.query_heads * f.output_width;
    const float* lse = result.lse.data() + static_cast<std::ptrdiff_t>(layer) * f.query_heads;
    return check_query(f, rows, queries.q.data(), position, params, out, lse, rounding);
  }
};

TEST_CASE("products of codes: ragged batches against the oracle") {
  if (!runs_here()) return;
  INFO("KVC_TEST_SEED=", test_seed());
  generator random(test_seed());
  for (const device_composition& c : suite()) {
    CAPTURE(c.name);
    const auto cache = c.make(roomy);
    const cache_facts& f = cache->facts();
    const int64 page = f.tokens_per_page;
    std::vector<int64> lengths = {
        0, page - 1, 63 + page, random.between(1, 400), random.between(400, is_sanitized() ? 1500 : 5000), 1, 0};
    std::vector<step_request> requests;
    std::vector<std::uint64_t> seeds;
    std::vector<std::size_t> last;
    for (std::size_t i = 0; i < lengths.size(); ++i) {
      const int s = cache->add();
      const std::uint64_t first = 10000 * (i + 1);
      fill(*cache, s, part_of(first, 0, lengths[i]), 512);
      // The last one has nothing but its own row.
      const int64 rows = i + 1 == lengths.size() ? 1 : random.between(1, rows_for(f, query_counts().back()));
      requests.push_back({s, rows});
      for (const std::uint64_t seed : part_of(first, lengths[i], lengths[i] + rows)) seeds.push_back(seed);
      last.push_back(seeds.size() - 1);
      lengths[i] += rows;
    }
    kvc::check(cache->try_reserve(requests), "reserve");
    const std::vector<kvc::attend_params> variants = variants_of(f);
    std::vector<std::vector<row_result>> results;
    for (const kvc::attend_params& v : variants) results.push_back(run_layers(*cache, seeds, v));
    cache->commit();
    double worst = 0;
    for (std::size_t i = 0; i < lengths.size(); ++i) {
      if (!has_all_seen(f, lengths[i])) continue;
      for (std::size_t v = 0; v < variants.size(); ++v) {
        for (int layer = 0; layer < f.layers; ++layer) {
          const checked_row row{*cache,      requests[i].sequence, layer, seeds[last[i]], lengths[i] - 1,
                                variants[v], results[v][last[i]]};
          const verdict found = row.check(c.rounding());
          worst = std::max(worst, found.worst);
          CHECK_MESSAGE(found.holds, "length ", lengths[i], ", variant ", v, ", layer ", layer, ": ", found.what);
        }
      }
    }
    MESSAGE(c.name, ": largest error over its tolerance ", worst);
    CHECK(worst > 0);
  }
}

TEST_CASE("products of codes: a row that is missing is missed") {
  if (!runs_here()) return;
  INFO("KVC_TEST_SEED=", test_seed());
  generator random(test_seed());
  for (const device_composition& c : suite()) {
    for (const int64 queries : query_counts()) {
      CAPTURE(c.name);
      CAPTURE(queries);
      const auto cache = c.make(roomy);
      const cache_facts& f = cache->facts();
      const int64 rows = rows_for(f, queries);
      int64 length = random.between(150, 700);
      while (!has_all_seen(f, length) || !has_all_seen(f, length + rows)) ++length;
      CAPTURE(length);
      const int sequence = cache->add();
      fill(*cache, sequence, part_of(row_seed(31), 0, length), 512);
      const std::vector<head_rows> before = gather_rows(*cache, sequence, 0);
      const int64 newest = f.keep > 0 ? f.keep - rows : length;  // that all queries see
      const kvc::attend_params params = params_of(f);
      std::vector<int64> wanted;  // [stored heads]
      std::vector<float> row;     // [query heads][query_width]
      for (const head_rows& head : before) {
        const std::vector<double> mean = mean_key(f, head);
        wanted.push_back(outstanding_row(f, head, mean, length - newest, length));
        put_queries_for(f, head, mean, wanted.back(), params.scale, row);
      }
      std::vector<float> q;
      for (int64 i = 0; i < rows; ++i) q.insert(q.end(), row.begin(), row.end());
      std::vector<float> out(size_of(rows * f.query_heads * f.output_width)), lse(size_of(rows * f.query_heads));
      cache->reserve(sequence, rows);
      append_layers(*cache, part_of(row_seed(31), length, length + rows));
      cache->attend(0, q.data(), out.data(), lse.data(), params);
      cache->commit();
      std::vector<head_rows> seen = gather_rows(*cache, sequence, 0);
      const auto check = [&] {
        const std::size_t at = size_of((rows - 1) * f.query_heads);
        return check_query(f, seen, q.data() + at * size_of(f.query_width), length + rows - 1, params,
                           out.data() + at * size_of(f.output_width), lse.data() + at, c.rounding());
      };
      const verdict v = check();
      CHECK_MESSAGE(v.holds, v.what);
      const std::vector<head_rows> all = seen;
      for (std::size_t h = 0; h < seen.size(); ++h) {
        for (float& x : seen[h].first[size_of(wanted[h])]) x = -x;
        for (float& x : seen[h].second[size_of(wanted[h])]) x = -x;
        CHECK_FALSE_MESSAGE(check().holds, "stored head ", h, ", row ", wanted[h]);
        seen = all;
      }
    }
  }
}

TEST_CASE("products of codes: rows of a step see what they would have seen one by one") {
  if (!runs_here()) return;
  for (const device_composition& c : suite()) {
    for (const int64 queries : query_counts()) {
      CAPTURE(c.name);
      CAPTURE(queries);
      const auto cache = c.make(roomy);
      const auto twin = c.make_host(roomy);
      const cache_facts& f = cache->facts();
      const int sequence = cache->add();
      const int twin_sequence = twin->add();
      const int64 rows = rows_for(f, queries);
      fill(*cache, sequence, part_of(7, 0, 254), 254);
      fill(*twin, twin_sequence, part_of(7, 0, 254), 254);
      const std::vector<std::uint64_t> seeds = part_of(7, 254, 254 + rows);
      cache->reserve(sequence, rows);
      const kvc::attend_params params = params_of(f);
      kvc::attend_params in_bf16 = params;
      in_bf16.fp32_products = true;
      const std::vector<row_result> results = run_layers(*cache, seeds, params);
      const std::vector<row_result> others = run_layers(*cache, seeds, in_bf16);
      cache->commit();
      bool differ = false;
      for (int64 i = 0; i < rows; ++i) {
        fill(*twin, twin_sequence, part_of(7, 254 + i, 255 + i), 1);
        if (!has_all_seen(f, 255 + i)) continue;
        const std::size_t n = size_of(i);
        const checked_row row{*twin, twin_sequence, 0, seeds[n], 254 + i, params, results[n]};
        const verdict v = row.check(c.rounding());
        CHECK_MESSAGE(v.holds, "row ", i, ": ", v.what);
        const checked_row other{*twin, twin_sequence, 0, seeds[n], 254 + i, in_bf16, others[n]};
        const verdict w = other.check(gather_rows(*twin, twin_sequence, 0), 0x1p-9);
        CHECK_MESSAGE(w.holds, "bf16, row ", i, ": ", w.what);
        differ |= results[n].out != others[n].out;
      }
      CHECK(differ);  // by their roundings: params.fp32_products chose another kernel
    }
  }
}

TEST_CASE("products of codes: what is not finite comes out where the host has it") {
  if (!runs_here()) return;
  const float strange[] = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()};
  for (const device_composition& c : suite()) {
    CAPTURE(c.name);
    for (const float x : strange) {
      for (int where = 0; where < 3; ++where) {  // key or latent, value or rotary key, query
        std::vector<float> out[2], lse[2];
        for (int side = 0; side < 2; ++side) {
          const auto cache = side == 0 ? c.make(roomy) : c.make_host(roomy);
          const cache_facts& f = cache->facts();
          const int sequence = cache->add();
          const int64 rows = rows_for(f, query_counts()[size_of(where) % query_counts().size()]);
          fill(*cache, sequence, part_of(3, 0, 100), 100);
          cache->reserve(sequence, rows);
          step_rows step = make_rows(f, 0, part_of(3, 100, 100 + rows));
          const std::size_t bad = size_of(rows / 2);  // those before it must not notice
          const std::size_t key = size_of(f.key_heads() * f.key_width);
          if (where == 2) {
            step.q[bad * size_of(f.query_heads * f.query_width) + 5] = x;
          } else if (where == 1 && !f.is_latent) {
            step.v[bad * size_of(f.kv_heads * f.head_dim) + 1] = x;
          } else {
            step.k[bad * key + (where == 0 ? 1 : key - 1)] = x;
          }
          out[side].resize(size_of(rows * f.query_heads * f.output_width));
          lse[side].resize(size_of(rows * f.query_heads));
          for (int layer = 0; layer < f.layers; ++layer) {
            if (cache->writes(layer)) cache->append(layer, step.k.data(), step.v.data());
          }
          cache->attend(0, step.q.data(), out[side].data(), lse[side].data(), params_of(f));
          cache->commit();
        }
        std::size_t strange_ones = 0;
        for (std::size_t i = 0; i < out[0].size(); ++i) {
          const std::string device = class_of(static_cast<double>(out[0][i]));
          strange_ones += device == "finite" ? 0 : 1;
          if (device != class_of(static_cast<double>(out[1][i]))) {
            FAIL_CHECK("output ", i, " is ", device, ", kind ", where, ", value ", x);
            break;
          }
        }
        CHECK(strange_ones > 0);
        for (std::size_t i = 0; i < lse[0].size(); ++i) {
          const std::string device = class_of(static_cast<double>(lse[0][i]));
          CHECK(device == class_of(static_cast<double>(lse[1][i])));
        }
      }
    }
  }
}

}  // namespace kvc_test
