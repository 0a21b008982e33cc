// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <doctest/doctest.h>

#include "device_cache.cuh"
#include "oracle.hpp"

// What must hold for attention on the GPU over every composition. A test program defines suite(), its share of them.

namespace kvc_test {

std::vector<device_composition> suite();

inline constexpr kvc::host::cache_options roomy = {.capacity = 1024, .max_sequences = 4, .max_step_rows = 256};

inline std::vector<kvc::attend_params> variants_of(const cache_facts& f) {
  static constexpr float sinks[] = {0.5f, -1.0f, 3.0f, 0.0f, 1.0f, -20.0f};
  const kvc::attend_params plain = params_of(f);
  std::vector<kvc::attend_params> all(5, plain);
  all[1].soft_cap = 2.5f;
  all[2].window = f.tokens_per_page / 2 + 3;
  all[3].sink_logits = sinks;
  all[4] = {plain.scale * 4, 40.0f, f.tokens_per_page + 1, sinks, plain.rotary};
  return all;
}

TEST_CASE("attention on the GPU is the oracle's on the decoded rows") {
  for (const device_composition& c : suite()) {
    CAPTURE(c.name);
    const auto cache = c.make(roomy);
    const auto twin = c.make_host(roomy);  // grows row by row and stands still where rows are gathered
    const cache_facts& f = cache->facts();
    const int64 page = f.tokens_per_page;
    const int sequence = cache->add();
    const int twin_sequence = twin->add();
    int64 begin = 0;
    double worst = 0;
    const int64 ends[] = {1, page - 1, page, page + 1, 2 * page + 3, 2 * page + 11};
    for (const int64 end : ends) {
      const std::vector<std::uint64_t> seeds = part_of(1000, begin, end);
      cache->reserve(sequence, end - begin);
      std::vector<std::vector<row_result>> results;
      const std::vector<kvc::attend_params> variants = variants_of(f);
      for (const kvc::attend_params& v : variants) results.push_back(run_layers(*cache, seeds, v));
      cache->commit();

      for (int64 position = begin; position < end; position += std::max<int64>(1, (end - begin - 1) / 2)) {
        fill(*twin, twin_sequence, part_of(1000, twin->length(twin_sequence), position + 1), 1);
        for (int layer = 0; layer < f.layers; ++layer) {
          const std::vector<head_rows> rows = gather_rows(*twin, twin_sequence, layer);
          const step_rows queries = make_rows(f, layer, part_of(1000, position, position + 1));
          for (std::size_t i = 0; i < variants.size(); ++i) {
            const row_result& r = results[i][size_of(position - begin)];
            const float* out = r.out.data() + static_cast<std::ptrdiff_t>(layer) * f.query_heads * f.output_width;
            const float* lse = r.lse.data() + static_cast<std::ptrdiff_t>(layer) * f.query_heads;
            const verdict v = check_query(f, rows, queries.q.data(), position, variants[i], out, lse, c.rounding());
            worst = std::max(worst, v.worst);
            CHECK_MESSAGE(v.holds, "variant ", i, ", layer ", layer, ", position ", position, ": ", v.what);
          }
        }
      }
      begin = end;
    }
    MESSAGE(c.name, ": largest error over its tolerance ", worst);
    CHECK(worst > 0);  // something was compared
  }
}

TEST_CASE("mutants fail: an lse without its constant, a scale, other rows") {
  for (const device_composition& c : suite()) {
    CAPTURE(c.name);
    const auto cache = c.make(roomy);
    const cache_facts& f = cache->facts();
    const int sequence = cache->add();
    fill(*cache, sequence, part_of(50, 0, 29), 29);
    cache->reserve(sequence, 1);
    kvc::attend_params params = params_of(f);
    params.fp32_products = true;  // attend_bytes.cu has mutants of products of bytes
    const std::vector<row_result> results = run_layers(*cache, part_of(50, 29, 30), params);
    cache->commit();
    std::vector<head_rows> rows = gather_rows(*cache, sequence, 0);
    const step_rows queries = make_rows(f, 0, part_of(50, 29, 30));
    const auto holds = [&](const row_result& r) {
      return check_query(f, rows, queries.q.data(), 29, params, r.out.data(), r.lse.data(), c.rounding_in_bf16).holds;
    };
    CHECK(holds(results[0]));

    row_result shifted = results[0];
    shifted.lse[0] += 1;  // as if the constant of a folded query were missing
    CHECK_FALSE(holds(shifted));
    row_result scaled = results[0];
    for (float& x : scaled.out) x *= 1.5f;
    CHECK_FALSE(holds(scaled));
    for (head_rows& h : rows) {  // the oracle has rows that the cache has not
      for (std::size_t t = 26; t < 30; ++t) {
        for (float& x : h.second[t]) x = -x;
        for (float& x : h.first[t]) x = -x;
      }
    }
    CHECK_FALSE(holds(results[0]));
  }
}

TEST_CASE("ragged batches: every sequence as if it were alone") {
  for (const device_composition& c : suite()) {
    CAPTURE(c.name);
    const auto cache = c.make(roomy);
    const cache_facts& f = cache->facts();
    const int64 page = f.tokens_per_page;
    const int64 lengths[] = {0, page - 1, 3 * page + 5, 1};
    const int64 rows[] = {2, 1, 5, 0};
    std::vector<step_request> requests;
    std::vector<std::uint64_t> seeds;
    for (int i = 0; i < 4; ++i) {
      const int s = cache->add();
      const std::uint64_t first = 10000 + 1000 * static_cast<std::uint64_t>(i);
      fill(*cache, s, part_of(first, 0, lengths[i]), 64);
      requests.push_back({s, rows[i]});
      for (const std::uint64_t seed : part_of(first, lengths[i], lengths[i] + rows[i])) seeds.push_back(seed);
    }
    kvc::check(cache->try_reserve(requests), "reserve");
    const std::vector<row_result> results = run_layers(*cache, seeds, params_of(f));
    cache->commit();
    std::size_t last = 0;
    for (int i = 0; i < 4; ++i) {
      if (rows[i] == 0) continue;
      last += size_of(rows[i]);
      const int64 position = lengths[i] + rows[i] - 1;
      for (int layer = 0; layer < f.layers; ++layer) {
        const std::vector<head_rows> decoded = gather_rows(*cache, requests[size_of(i)].sequence, layer);
        const step_rows queries = make_rows(f, layer, std::span<const std::uint64_t>(&seeds[last - 1], 1));
        const row_result& r = results[last - 1];
        const float* out = r.out.data() + static_cast<std::ptrdiff_t>(layer) * f.query_heads * f.output_width;
        const float* lse = r.lse.data() + static_cast<std::ptrdiff_t>(layer) * f.query_heads;
        const verdict v = check_query(f, decoded, queries.q.data(), position, params_of(f), out, lse, c.rounding());
        CHECK_MESSAGE(v.holds, "sequence ", i, ", layer ", layer, ": ", v.what);
      }
    }
  }
}

TEST_CASE("NaN and infinities come out where the host has them") {
  for (const device_composition& c : suite()) {
    CAPTURE(c.name);
    const auto device = c.make(roomy);
    const auto host = c.make_host(roomy);
    const cache_facts& f = device->facts();
    const float strange[] = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()};
    for (int part = 0; part < 2; ++part) {    // keys, values
      for (int kind = 0; kind < 2; ++kind) {  // NaN, infinity
        const int64 length = f.tokens_per_page + 9;
        std::vector<row_result> results[2];
        for (int side = 0; side < 2; ++side) {
          any_cache& cache = side == 0 ? *device : *host;
          const int sequence = cache.add();
          cache.reserve(sequence, length);
          const std::size_t out_row = size_of(f.query_heads * f.output_width);
          results[side].resize(1);
          results[side][0].out.resize(size_of(length) * out_row);
          results[side][0].lse.resize(size_of(length) * size_of(f.query_heads));
          for (int layer = 0; layer < f.layers; ++layer) {
            step_rows rows = make_rows(f, layer, part_of(300, 0, length));
            const int64 at = f.tokens_per_page - 3;  // rows before it must not notice
            const std::size_t row = size_of(f.key_heads() * f.key_width);
            if (part == 0 || f.is_latent) {
              rows.k[size_of(at) * row + (part == 0 ? 1 : row - 1)] = strange[kind];
            } else {
              rows.v[size_of(at) * size_of(f.kv_heads * f.head_dim) + 2] = strange[kind];
            }
            if (cache.writes(layer)) cache.append(layer, rows.k.data(), rows.v.data());
            if (layer == 0) {
              cache.attend(layer, rows.q.data(), results[side][0].out.data(), results[side][0].lse.data(),
                           params_of(f));
            }
          }
          cache.commit();
          cache.remove(sequence);
        }
        const auto same_classes = [](const std::vector<float>& a, const std::vector<float>& b) {
          std::size_t different = 0;
          for (std::size_t i = 0; i < a.size(); ++i) {
            different += class_of(static_cast<double>(a[i])) != class_of(static_cast<double>(b[i])) ? 1 : 0;
          }
          return different;
        };
        CHECK_MESSAGE(same_classes(results[0][0].out, results[1][0].out) == 0, "part ", part, ", kind ", kind);
        CHECK_MESSAGE(same_classes(results[0][0].lse, results[1][0].lse) == 0, "part ", part, ", kind ", kind);
      }
    }
  }
}

}  // namespace kvc_test
