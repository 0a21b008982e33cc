// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <doctest/doctest.h>

#include "device_cache.cuh"
#include "oracle.hpp"
#include "outstanding.hpp"
#include "seed.hpp"

// What must hold for attention on the GPU over every composition. A test program defines suite(), its share of them.

namespace kvc_test {

std::vector<device_composition> suite();

inline constexpr kvc::host::cache_options roomy = {.capacity = 2048, .max_sequences = 8, .max_step_rows = 256};

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

/// One layer's results of the query row `seed` at `position`, where the cache has `rows`.
inline verdict check_row(const device_composition& c, const cache_facts& f, const std::vector<head_rows>& rows,
                         int layer, std::uint64_t seed, int64 position, const kvc::attend_params& params,
                         const row_result& r) {
  const step_rows queries = make_rows(f, layer, std::span<const std::uint64_t>(&seed, 1));
  const float* out = r.out.data() + static_cast<std::ptrdiff_t>(layer) * f.query_heads * f.output_width;
  const float* lse = r.lse.data() + static_cast<std::ptrdiff_t>(layer) * f.query_heads;
  return check_query(f, rows, queries.q.data(), position, params, out, lse, c.rounding());
}

TEST_CASE("attention on the GPU is the oracle's on the decoded rows") {
  INFO("KVC_TEST_SEED=", test_seed());
  generator random(test_seed());
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
    const int64 ends[] = {
        1, page - 1, page, page + 1, 2 * page + 3, 2 * page + 11, 2 * page + 11 + random.between(1, 40)};
    for (const int64 end : ends) {
      const std::vector<std::uint64_t> seeds = part_of(row_seed(1000), begin, end);
      cache->reserve(sequence, end - begin);
      std::vector<std::vector<row_result>> results;
      std::vector<kvc::attend_params> variants = variants_of(f);
      if (is_sanitized() && end != ends[std::size(ends) - 1]) variants.resize(1);
      for (const kvc::attend_params& v : variants) results.push_back(run_layers(*cache, seeds, v));
      cache->commit();

      for (int64 position = begin; position < end; position += std::max<int64>(1, (end - begin - 1) / 2)) {
        fill(*twin, twin_sequence, part_of(row_seed(1000), twin->length(twin_sequence), position + 1), 1);
        if (!has_all_seen(f, position + 1)) continue;
        for (int layer = 0; layer < f.layers; ++layer) {
          const std::vector<head_rows> rows = gather_rows(*twin, twin_sequence, layer);
          for (std::size_t i = 0; i < variants.size(); ++i) {
            const std::size_t n = size_of(position - begin);
            const verdict v = check_row(c, f, rows, layer, seeds[n], position, variants[i], results[i][n]);
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

TEST_CASE("steps of 1 to 8 rows: each of them sees what it would have seen alone") {
  INFO("KVC_TEST_SEED=", test_seed());
  for (const device_composition& c : suite()) {
    CAPTURE(c.name);
    const auto cache = c.make(roomy);
    const auto twin = c.make_host(roomy);
    const cache_facts& f = cache->facts();
    const kvc::attend_params params = params_of(f);
    const int sequence = cache->add();
    const int twin_sequence = twin->add();
    int64 length = f.tokens_per_page - 5;
    fill(*cache, sequence, part_of(row_seed(2000), 0, length), 64);
    fill(*twin, twin_sequence, part_of(row_seed(2000), 0, length), 64);
    for (int64 count = 1; count <= 8; ++count) {
      CAPTURE(count);
      const std::vector<std::uint64_t> seeds = part_of(row_seed(2000), length, length + count);
      cache->reserve(sequence, count);
      const std::vector<row_result> results = run_layers(*cache, seeds, params);
      cache->commit();
      for (const row_result& r : results) {
        fill(*twin, twin_sequence, part_of(row_seed(2000), length, length + 1), 1);
        const std::uint64_t seed = row_seed(2000) + static_cast<std::uint64_t>(length);
        for (int layer = 0; layer < f.layers && has_all_seen(f, length + 1); ++layer) {
          const std::vector<head_rows> rows = gather_rows(*twin, twin_sequence, layer);
          const verdict v = check_row(c, f, rows, layer, seed, length, params, r);
          CHECK_MESSAGE(v.holds, "layer ", layer, ", position ", length, ": ", v.what);
        }
        ++length;
      }
    }
  }
}

TEST_CASE("mutants fail: an lse without its constant, a scale, other rows") {
  INFO("KVC_TEST_SEED=", test_seed());
  for (const device_composition& c : suite()) {
    CAPTURE(c.name);
    const auto cache = c.make(roomy);
    const cache_facts& f = cache->facts();
    const int sequence = cache->add();
    fill(*cache, sequence, part_of(row_seed(50), 0, 29), 29);
    cache->reserve(sequence, 1);
    kvc::attend_params params = params_of(f);
    params.fp32_products = true;  // attend_bytes.cu has mutants of products of bytes
    const std::vector<row_result> results = run_layers(*cache, part_of(row_seed(50), 29, 30), params);
    cache->commit();
    std::vector<head_rows> rows = gather_rows(*cache, sequence, 0);
    const step_rows queries = make_rows(f, 0, part_of(row_seed(50), 29, 30));
    const auto holds = [&](const row_result& r) {
      return check_query(f, rows, queries.q.data(), 29, params, r.out.data(), r.lse.data(), c.rounding_in_bf16).holds;
    };
    CHECK(holds(results[0]));

    row_result shifted = results[0];
    shifted.lse[0] += 1;  // as if the constant of a folded query were missing
    CHECK_FALSE(holds(shifted));
    row_result scaled = results[0];
    for (float& x : scaled.out) x *= 4;
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

TEST_CASE("long contexts: splits are joined as the oracle has it, and a row within one of them counts") {
  INFO("KVC_TEST_SEED=", test_seed());
  generator random(test_seed());
  for (const device_composition& c : suite()) {
    CAPTURE(c.name);
    const kvc::host::cache_options large = {.capacity = 10240, .max_sequences = 2, .max_step_rows = 2048};
    const auto cache = c.make(large);
    const cache_facts& f = cache->facts();
    // More than 32 splits, of which a lane of the merging warps has several. Tables of angles end before, and the
    // oracle takes its time over wide rows.
    const bool many_splits = !f.is_deferred && f.query_heads * f.query_width <= 1024 && !is_sanitized();
    int64 length = (many_splits ? 8600 : 2500) + random.between(0, 300);
    while (!has_all_seen(f, length) || !has_all_seen(f, length + 1)) ++length;
    CAPTURE(length);
    const int sequence = cache->add();
    fill(*cache, sequence, part_of(row_seed(100000), 0, length), 2048);
    double worst = 0;
    for (const int64 count : {1, 5}) {
      CAPTURE(count);
      const int splits = c.splits(count, length + count);
      REQUIRE(splits > 4);
      if (many_splits) CHECK(splits > 32);
      const std::vector<head_rows> before = gather_rows(*cache, sequence, 0);
      std::vector<std::vector<double>> means;
      for (const head_rows& h : before) means.push_back(mean_key(f, h));
      // Rows around the middle of a split; where the newest are kept alone, among those.
      std::vector<int64> wanted;
      for (int64 i = 0; i < count; ++i) {
        const int64 middle = (2 * random.between(1, splits - 2) + 1) * length / (2 * splits);
        const int64 begin = f.keep > 0 ? length - f.keep + count : middle - 24;
        const int64 end = f.keep > 0 ? length : middle + 24;
        wanted.push_back(outstanding_row(f, before[0], means[0], begin, end));
      }
      kvc::attend_params params[2] = {params_of(f), params_of(f)};
      static constexpr float sinks[] = {0.5f, -1.0f, 3.0f, 0.0f, 1.0f, -20.0f};
      if (f.query_heads <= 6) params[1].sink_logits = sinks;
      // A key that is its own value leaves queries' roundings in the sum, however many rows there are: such rows are
      // asked for one by one only.
      const int kinds = f.is_latent ? 1 : 2;
      std::vector<float> q[2], out[2], lse[2];
      const std::size_t out_row = size_of(f.query_heads * f.output_width);
      const std::size_t query_row = size_of(f.query_heads * f.query_width);
      const std::vector<std::uint64_t> seeds = part_of(row_seed(100000), length, length + count);
      for (int64 i = 0; i < count; ++i) {
        for (std::size_t h = 0; h < before.size(); ++h) {
          put_queries_for(f, before[h], means[h], wanted[size_of(i)], params[0].scale, q[0]);
        }
      }
      q[1] = make_rows(f, 0, seeds).q;
      const int past = cache->fork(sequence);
      cache->reserve(sequence, count);
      append_layers(*cache, seeds);
      for (int kind = 0; kind < kinds; ++kind) {
        out[kind].resize(size_of(count) * out_row);
        lse[kind].resize(size_of(count * f.query_heads));
        cache->attend(0, q[kind].data(), out[kind].data(), lse[kind].data(), params[kind]);
      }
      cache->commit();
      for (std::size_t i = 0; i < size_of(count); ++i) {
        const int64 position = length + static_cast<int64>(i);
        fill(*cache, past, std::span(seeds).subspan(i, 1), 1);
        if (!has_all_seen(f, position + 1)) continue;
        std::vector<head_rows> rows = gather_rows(*cache, past, 0);
        const auto check = [&](int kind) {
          return check_query(f, rows, q[kind].data() + i * query_row, position, params[kind],
                             out[kind].data() + i * out_row, lse[kind].data() + i * size_of(f.query_heads),
                             c.rounding());
        };
        for (int kind = 0; kind < kinds; ++kind) {
          const verdict v = check(kind);
          worst = std::max(worst, v.worst);
          CHECK_MESSAGE(v.holds, (kind == 0 ? "one row" : "all rows"), ", position ", position, ": ", v.what);
        }
        const std::size_t t = size_of(wanted[i]);
        for (head_rows& h : rows) {  // the oracle has another row there
          for (float& x : h.second[t]) x = -x;
          for (float& x : h.first[t]) x = -x;
        }
        CHECK_FALSE_MESSAGE(check(0).holds, "row ", t, ", position ", position);
      }
      cache->remove(past);
      length += count;
    }
    MESSAGE(c.name, ": largest error over its tolerance ", worst);
    CHECK(worst > 0);
    if (is_sanitized()) break;
  }
}

TEST_CASE("ragged batches: every sequence as if it were alone") {
  INFO("KVC_TEST_SEED=", test_seed());
  generator random(test_seed());
  for (const device_composition& c : suite()) {
    CAPTURE(c.name);
    const auto cache = c.make(roomy);
    const auto twin = c.make_host(roomy);
    const cache_facts& f = cache->facts();
    const int64 page = f.tokens_per_page;
    const int64 lengths[] = {0, 0, 1, 1, page - 1, random.between(2, 2 * page), 3 * page + 5};
    const int64 rows[] = {1, 2, 0, 1, 1, random.between(1, 8), 5};
    constexpr std::size_t sequences = std::size(lengths);
    std::vector<step_request> requests;
    std::vector<std::vector<std::uint64_t>> seeds;  // of a sequence's new rows
    std::vector<std::uint64_t> all;
    const auto first = [](std::size_t i) { return row_seed(10000 + 1000 * i); };
    for (std::size_t i = 0; i < sequences; ++i) {
      requests.push_back({cache->add(), rows[i]});
      fill(*cache, requests[i].sequence, part_of(first(i), 0, lengths[i]), 64);
      seeds.push_back(part_of(first(i), lengths[i], lengths[i] + rows[i]));
      all.insert(all.end(), seeds[i].begin(), seeds[i].end());
    }
    kvc::check(cache->try_reserve(requests), "reserve");
    const std::vector<row_result> results = run_layers(*cache, all, params_of(f));
    cache->commit();
    std::size_t at = 0;
    for (std::size_t i = 0; i < sequences; ++i) {
      const int alone = twin->add();
      fill(*twin, alone, part_of(first(i), 0, lengths[i]), 64);
      for (const std::uint64_t seed : seeds[i]) {
        const int64 position = twin->length(alone);
        fill(*twin, alone, std::span<const std::uint64_t>(&seed, 1), 1);
        for (int layer = 0; layer < f.layers && has_all_seen(f, position + 1); ++layer) {
          const verdict v =
              check_row(c, f, gather_rows(*twin, alone, layer), layer, seed, position, params_of(f), results[at]);
          CHECK_MESSAGE(v.holds, "sequence ", i, ", length ", lengths[i], ", position ", position, ", layer ", layer,
                        ": ", v.what);
        }
        ++at;
      }
      CHECK(twin->length(alone) == cache->length(requests[i].sequence));
      twin->remove(alone);
    }
    CHECK(at == results.size());
  }
}

struct flat_result {
  std::vector<float> out, lse;
};

/// Whether both have NaN, infinities and numbers at the same places.
inline bool same_classes(const std::vector<float>& a, const std::vector<float>& b) {
  bool same = a.size() == b.size();
  for (std::size_t i = 0; same && i < a.size(); ++i) {
    same = std::string_view(class_of(static_cast<double>(a[i]))) == class_of(static_cast<double>(b[i]));
  }
  return same;
}
inline bool all_finite(const std::vector<float>& x) {
  return std::all_of(x.begin(), x.end(), [](float v) { return std::isfinite(v); });
}

TEST_CASE("NaN and infinities come out where the host has them: of a step of many rows, and of one row after it") {
  INFO("KVC_TEST_SEED=", test_seed());
  for (const device_composition& c : suite()) {
    CAPTURE(c.name);
    const auto device = c.make(roomy);
    const auto host = c.make_host(roomy);
    const cache_facts& f = device->facts();
    const float strange[] = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()};
    const int64 length = f.tokens_per_page + 9;
    const int64 at = f.tokens_per_page - 3;  // rows before it must not notice
    const std::size_t key_row = size_of(f.key_heads() * f.key_width);
    const std::size_t value_row = size_of(f.kv_heads * f.head_dim);
    // Of a pruned stream, one that is kept.
    const auto channel = [&](bool first, int otherwise) {
      const stream_facts& s = first ? f.first : f.second;
      return size_of(s.drops_channels && !s.low_rank ? static_cast<int>(host->constants(0, first, 0)[0]) : otherwise);
    };
    for (int part = 0; part < 2; ++part) {    // keys, values; of a latent, its rotary key
      for (int kind = 0; kind < 2; ++kind) {  // NaN, infinity
        CAPTURE(part);
        CAPTURE(kind);
        flat_result results[2][2];  // [pass][side]
        for (int side = 0; side < 2; ++side) {
          any_cache& cache = side == 0 ? *device : *host;
          const int sequence = cache.add();
          for (int pass = 0; pass < 2; ++pass) {
            const int64 begin = pass == 0 ? 0 : length;
            const int64 end = pass == 0 ? length : length + 1;
            flat_result& r = results[pass][side];
            r.out.resize(size_of((end - begin) * f.query_heads * f.output_width));
            r.lse.resize(size_of((end - begin) * f.query_heads));
            cache.reserve(sequence, end - begin);
            for (int layer = 0; layer < f.layers; ++layer) {
              step_rows rows = make_rows(f, layer, part_of(row_seed(300), begin, end));
              if (pass == 0 && f.is_latent) {
                rows.k[size_of(at) * key_row + (part == 0 ? 1 : key_row - 1)] = strange[kind];
              } else if (pass == 0 && part == 0) {
                rows.k[size_of(at) * key_row + channel(true, 1)] = strange[kind];
              } else if (pass == 0) {
                rows.v[size_of(at) * value_row + channel(false, 2)] = strange[kind];
              }
              if (cache.writes(layer)) cache.append(layer, rows.k.data(), rows.v.data());
              if (layer == 0) cache.attend(layer, rows.q.data(), r.out.data(), r.lse.data(), params_of(f));
            }
            cache.commit();
          }
          cache.remove(sequence);
        }
        for (int pass = 0; pass < 2; ++pass) {
          CAPTURE(pass);
          const auto& [of_device, of_host] = results[pass];
          CHECK(same_classes(of_device.out, of_host.out));
          CHECK(same_classes(of_device.lse, of_host.lse));
          // An infinite key can leave nothing but rows without weight.
          const bool shows = kind == 0 || (part == 1 && !f.is_latent);
          if (shows) CHECK_FALSE(all_finite(of_device.out));
        }
        const std::vector<float>& many = results[0][0].out;
        const auto seen = static_cast<std::ptrdiff_t>(at * f.query_heads * f.output_width);
        CHECK(all_finite({many.begin(), many.begin() + seen}));
      }
    }
  }
}

}  // namespace kvc_test
