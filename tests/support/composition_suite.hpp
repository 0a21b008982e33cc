// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <doctest/doctest.h>

#include "oracle.hpp"

// What must hold for every composition. A test program defines suite(), its share of the compositions.

namespace kvc_test {

std::vector<composition> suite();

inline constexpr kvc::host::cache_options roomy = {.capacity = 1024, .max_sequences = 4, .max_step_rows = 256};

/// Model rows of a whole sequence and layer: what append took.
inline step_rows rows_of(const cache_facts& f, int layer, std::uint64_t first, int64 length) {
  return make_rows(f, layer, part_of(first, 0, length));
}

/// Checks gathered rows against what append took, within the codecs' bounds.
inline verdict check_gather(any_cache& cache, int layer, const std::vector<head_rows>& heads, const step_rows& rows,
                            bool one_group = false, double factor = 1) {
  verdict v;
  const cache_facts& f = cache.facts();
  for (int h = 0; h < f.stored_heads; ++h) {
    for (const bool first : {true, false}) {
      const auto& got = first ? heads[h].first : heads[h].second;
      const std::span<const float> source = first || f.is_latent
                                                ? std::span<const float>(rows.k)
                                                : std::span<const float>(rows.v.data(), rows.v.size() - 1);
      for (std::size_t t = 0; t < got.size(); ++t) {
        if (got[t].empty()) continue;  // evicted
        const expected_row e = cache.expect(layer, first, h, static_cast<int64>(t), source, one_group);
        double distance = 0;
        for (std::size_t c = 0; c < e.row.size(); ++c) {
          const double error = static_cast<double>(got[t][c]) - e.row[c];
          distance += error * error;
          if (factor == 1 && !e.channel_error.empty()) {
            compare(static_cast<double>(got[t][c]), e.row[c], e.channel_error[c], first ? "key" : "value",
                    static_cast<int>(t), v);
          }
        }
        compare(std::sqrt(distance), 0, factor * e.norm_error, first ? "key norm" : "value norm", static_cast<int>(t),
                v);
      }
    }
  }
  return v;
}

struct attend_variant {
  const char* name;
  kvc::attend_params params;
};

inline std::vector<attend_variant> variants_of(const cache_facts& f) {
  static constexpr float sinks[] = {0.5f, -1.0f, 3.0f, 0.0f, 1.0f, -20.0f};
  const kvc::attend_params plain = params_of(f);
  std::vector<attend_variant> all(5, {"plain", plain});
  all[1].name = "soft cap";
  all[1].params.soft_cap = 2.5f;
  all[2].name = "sliding window";
  all[2].params.window = f.tokens_per_page / 2 + 3;
  all[3].name = "sink logits";
  all[3].params.sink_logits = sinks;
  all[4].name = "large scores, cap, window and sinks";
  all[4].params = {plain.scale * 12, 40.0f, f.tokens_per_page + 1, sinks, plain.rotary};
  if (f.first.is_packed || f.second.is_packed) {  // again, within fp32's tolerance
    for (int i = 0; i < 5; ++i) {
      all.push_back(all[size_of(i)]);
      all.back().params.fp32_products = true;
    }
  }
  return all;
}

TEST_CASE("attention is the oracle's on the decoded rows, and gather is within the codecs' bounds") {
  for (const composition& c : suite()) {
    CAPTURE(c.name);
    const auto cache = c.make(roomy);
    const auto twin = c.make(roomy);  // grows row by row and stands still where rows are gathered
    const cache_facts& f = cache->facts();
    const int64 page = f.tokens_per_page;
    const int sequence = cache->add();
    const int twin_sequence = twin->add();
    generator random(7);
    int64 begin = 0;
    double worst = 0;
    for (const int64 end : {int64{1}, page - 1, page, page + 1, 2 * page, 2 * page + 11}) {
      const std::vector<std::uint64_t> seeds = part_of(1000, begin, end);
      cache->reserve(sequence, end - begin);
      std::vector<std::vector<row_result>> results;
      const std::vector<attend_variant> variants = variants_of(f);
      for (const attend_variant& v : variants) results.push_back(run_layers(*cache, seeds, v.params));
      cache->commit();

      std::vector<int64> positions = {begin, end - 1};
      if (end - begin > 2) positions.insert(positions.begin() + 1, random.between(begin + 1, end - 2));
      if (positions[0] == positions.back()) positions.pop_back();
      for (const int64 position : positions) {
        fill(*twin, twin_sequence, part_of(1000, twin->length(twin_sequence), position + 1), 1);
        for (int layer = 0; layer < f.layers; ++layer) {
          const std::vector<head_rows> rows = gather_rows(*twin, twin_sequence, layer);
          if (twin->writes(layer)) {
            const verdict g = check_gather(*twin, layer, rows, rows_of(f, layer, 1000, position + 1));
            CHECK_MESSAGE(g.holds, "gather, layer ", layer, ", length ", position + 1, ": ", g.what);
          }
          const step_rows queries = make_rows(f, layer, part_of(1000, position, position + 1));
          for (std::size_t i = 0; i < variants.size(); ++i) {
            const row_result& r = results[i][size_of(position - begin)];
            const verdict v =
                check_query(f, rows, queries.q.data(), position, variants[i].params,
                            r.out.data() + static_cast<std::ptrdiff_t>(layer) * f.query_heads * f.output_width,
                            r.lse.data() + static_cast<std::ptrdiff_t>(layer) * f.query_heads);
            worst = std::max(worst, v.worst);
            CHECK_MESSAGE(v.holds, variants[i].name, ", layer ", layer, ", position ", position, ": ", v.what);
          }
        }
      }
      begin = end;
    }
    CHECK(worst > 0);  // something was compared
  }
}

TEST_CASE("bytes and outputs do not depend on how rows were appended") {
  for (const composition& c : suite()) {
    CAPTURE(c.name);
    const auto reference = c.make(roomy);
    const cache_facts& f = reference->facts();
    const int64 length = 2 * f.tokens_per_page + 19;
    kvc::attend_params params = params_of(f);
    const int one = reference->add();
    std::vector<row_result> wanted;
    for (int64 t = 0; t < length; ++t) {
      reference->reserve(one, 1);
      wanted.push_back(run_layers(*reference, part_of(5, t, t + 1), params)[0]);
      reference->commit();
    }
    const std::vector<byte> file = reference->save(one);

    // Chunks: in bulk, random, and random with rows that are not accepted; one thread and three; alone, and beside two
    // other sequences in a ragged step.
    for (int run = 0; run < 5; ++run) {
      CAPTURE(run);
      generator random(100 + static_cast<std::uint64_t>(run));
      kvc::host::cache_options options = roomy;
      options.threads = run % 2 == 0 ? 1 : 3;
      const bool ragged = run >= 3;
      const bool speculative = run == 2 || run == 4;
      const auto cache = c.make(options);
      const int sequence = cache->add();
      const int before = ragged ? cache->add() : -1;
      const int after = ragged ? cache->add() : -1;
      int64 t = 0;
      while (t < length) {
        const int64 accepted = std::min(length - t, run == 0               ? length
                                                    : random.below(3) == 0 ? 1
                                                                           : random.between(1, 40));
        const int64 rows = accepted + (speculative ? random.between(0, 9) : 0);
        std::vector<std::uint64_t> seeds;
        std::vector<step_request> requests;
        std::vector<int64> kept;
        const auto add = [&](int id, std::uint64_t first, int64 begin, int64 n, int64 keep) {
          const std::vector<std::uint64_t> more = part_of(first, begin, begin + n);
          seeds.insert(seeds.end(), more.begin(), more.end());
          requests.push_back({id, n});
          kept.push_back(keep);
        };
        if (ragged) {
          const int64 n = random.between(0, 5);
          add(before, 90001, cache->length(before), n, n);
        }
        const std::size_t at = seeds.size();
        add(sequence, 5, t, accepted, accepted);
        const std::vector<std::uint64_t> refused = part_of(777777, t, t + rows - accepted);
        seeds.insert(seeds.end(), refused.begin(), refused.end());
        requests.back().rows = rows;
        if (ragged) {
          const int64 n = random.between(0, 3);
          add(after, 80001, cache->length(after), n, n);
        }
        REQUIRE(cache->try_reserve(requests) == kvc::status::ok);
        const std::vector<row_result> results = run_layers(*cache, seeds, params);
        if (speculative || random.below(2) == 0) {
          cache->commit(kept);
        } else {
          cache->commit();
        }
        for (int64 i = 0; i < accepted; ++i) {
          const bool same = same_bits(results[at + size_of(i)], wanted[size_of(t + i)]);
          if (!same) {
            CHECK_MESSAGE(same, "row ", t + i, " of a step of ", rows, " rows from ", t);
            break;
          }
        }
        t += accepted;
      }
      CHECK(cache->save(sequence) == file);
    }
  }
}

TEST_CASE("every instruction set stores the same bytes, and attends packed codes to the same bits") {
  const kvc::host::instruction_set best = kvc::host::active_instruction_set();
  using kvc::host::instruction_set;
  for (const composition& c : suite()) {
    CAPTURE(c.name);
    std::vector<byte> file;
    std::vector<row_result> wanted;
    for (const instruction_set set : kvc::host::instruction_sets) {
      if (kvc::host::use_instruction_set(set) != kvc::status::ok) continue;
      CAPTURE(std::string(kvc::host::name_of(set)));
      const auto cache = c.make(roomy);
      const cache_facts& f = cache->facts();
      const kvc::attend_params params = params_of(f);
      const int sequence = cache->add();
      int64 length = 2 * f.tokens_per_page + 19;
      // What the last query sees is there after it, but for a row that ends a page that the next one does not see.
      if (f.keep > 0 && (length - f.keep + 1) % f.tokens_per_page == 0) ++length;
      cache->reserve(sequence, length - 3);
      std::vector<row_result> results = run_layers(*cache, part_of(5, 0, length - 3), params);
      cache->commit();
      for (int64 t = length - 3; t < length; ++t) {
        cache->reserve(sequence, 1);
        results.push_back(run_layers(*cache, part_of(5, t, t + 1), params)[0]);
        cache->commit();
      }
      if (file.empty()) {
        file = cache->save(sequence);
        wanted = results;
        continue;
      }
      CHECK(cache->save(sequence) == file);
      // fp32 products are fused where the machine can, which portable code does not ask for.
      const bool in_codes = f.first.is_packed && f.second.is_packed && f.first.ring_rows + f.first.first_rows == 0 &&
                            f.second.ring_rows + f.second.first_rows == 0;
      if (in_codes || set != instruction_set::portable) {
        bool same = true;
        for (std::size_t i = 0; i < results.size(); ++i) same = same && same_bits(results[i], wanted[i]);
        CHECK(same);
      }
      for (int layer = 0; layer < f.layers; ++layer) {
        const step_rows queries = make_rows(f, layer, part_of(5, length - 1, length));
        const verdict v =
            check_query(f, gather_rows(*cache, sequence, layer), queries.q.data(), length - 1, params,
                        results.back().out.data() + static_cast<std::ptrdiff_t>(layer) * f.query_heads * f.output_width,
                        results.back().lse.data() + static_cast<std::ptrdiff_t>(layer) * f.query_heads);
        CHECK_MESSAGE(v.holds, std::string(kvc::host::name_of(set)), ", layer ", layer, ": ", v.what);
      }
    }
    REQUIRE(kvc::host::use_instruction_set(best) == kvc::status::ok);
  }
}

TEST_CASE("the newest rollback_rows rows can be cut exactly") {
  for (const composition& c : suite()) {
    CAPTURE(c.name);
    const auto cache = c.make(roomy);
    const cache_facts& f = cache->facts();
    const kvc::attend_params params = params_of(f);
    const std::vector<std::uint64_t> more = part_of(900, 0, 6);
    generator random(11);
    for (int64 length = 1; length < f.tokens_per_page + 50; length += random.between(1, 5)) {
      const int64 kept = std::max<int64>(0, length - random.between(1, f.rollback_rows));
      CAPTURE(length);
      CAPTURE(kept);
      const int cut = cache->add();
      fill(*cache, cut, part_of(40, 0, length), 50);
      const kvc::status status = status_of([&] { cache->truncate(cut, kept); });
      if (status != kvc::status::evicted || f.keep == 0) {
        REQUIRE(status == kvc::status::ok);
        const int fresh = cache->add();
        fill(*cache, fresh, part_of(40, 0, kept), 50);
        cache->reserve(cut, 6);
        const std::vector<row_result> a = run_layers(*cache, more, params);
        cache->commit();
        cache->reserve(fresh, 6);
        const std::vector<row_result> b = run_layers(*cache, more, params);
        cache->commit();
        for (std::size_t i = 0; i < more.size(); ++i) CHECK(same_bits(a[i], b[i]));
        if (f.keep == 0) CHECK(cache->save(cut) == cache->save(fresh));
        cache->remove(fresh);
      }
      cache->remove(cut);
    }
  }
}

/// The plain model of a sequence: its rows, and what is known of the exact copies in its tail.
struct live_sequence {
  int id;
  std::vector<std::uint64_t> rows;
  int64 held[2] = {0, 0};  ///< oldest row of which each stream's ring still has an exact copy
  int cuts = 0;            ///< truncates that brought sealed rows back as they decode
  bool was_cut = false;    ///< any truncate: it can leave more pages evicted than a new sequence has

  int64 length() const { return static_cast<int64>(rows.size()); }
  void grew(const cache_facts& f) {
    held[0] = std::max(held[0], length() - f.first.ring_rows);
    held[1] = std::max(held[1], length() - f.second.ring_rows);
  }
  void cut(const cache_facts& f, int64 kept) {
    const auto decodes = [&](const stream_facts& s, int64 from) {
      return s.has_ring &&
             std::max<int64>(s.seal_boundary(kept), s.first_rows) < std::min({s.seal_boundary(length()), kept, from});
    };
    if (decodes(f.first, held[0]) || decodes(f.second, held[1])) ++cuts;
    was_cut = was_cut || kept < length();
    rows.resize(size_of(kept));
  }
};

TEST_CASE("random operations agree with a plain model of the rows") {
  for (const composition& c : suite()) {
    CAPTURE(c.name);
    for (std::uint64_t seed = 1; seed <= 6; ++seed) {
      CAPTURE(seed);
      generator random(seed * 31);
      kvc::host::cache_options options = {.capacity = 0, .max_sequences = 4, .max_step_rows = 60, .threads = 1};
      const auto probe = c.make(roomy);
      const int64 page = probe->facts().tokens_per_page;
      options.capacity = 5 * page;
      options.threads = seed == 1 ? 2 : 1;
      const auto cache = c.make(options);
      const cache_facts& f = cache->facts();
      const kvc::attend_params params = params_of(f);
      std::vector<live_sequence> live;
      std::uint64_t next_row = seed * 100000;

      const auto twin_of = [&](const live_sequence& s) {
        auto twin = c.make({.capacity = 4096, .max_sequences = 1, .max_step_rows = 256});
        fill(*twin, twin->add(), s.rows, size_of(random.between(1, 50)));
        return twin;
      };

      for (int operation = 0; operation < 50; ++operation) {
        const int64 kind = random.below(14);
        CAPTURE(operation);
        CAPTURE(kind);
        live_sequence* picked = live.empty() ? nullptr : &live[size_of(random.below(static_cast<int64>(live.size())))];
        if (picked == nullptr || kind == 0) {
          if (live.size() == 4) {
            CHECK(status_of([&] { cache->add(); }) == kvc::status::out_of_capacity);
          } else {
            live.emplace_back().id = cache->add();
          }
        } else if (kind <= 6) {  // a step over some of the sequences
          std::vector<step_request> requests;
          std::vector<live_sequence*> members;
          std::vector<std::uint64_t> seeds;
          for (live_sequence& s : live) {
            if (&s != picked && random.below(2) == 0) continue;
            const int64 rows = random.below(3) == 0 ? 1 : random.between(0, 14);
            requests.push_back({s.id, rows});
            members.push_back(&s);
            for (int64 i = 0; i < rows; ++i) seeds.push_back(next_row++);
          }
          const int64 pages_before = cache->pages_in_use();
          const kvc::status status = cache->try_reserve(requests);
          if (status != kvc::status::ok) {
            CHECK(status == kvc::status::out_of_capacity);
            CHECK(cache->pages_in_use() == pages_before);
            CHECK(status_of([&] { cache->abandon(); }) == kvc::status::no_step);
            continue;
          }
          const std::vector<row_result> results = run_layers(*cache, seeds, params);
          const int64 end = random.below(6);
          if (end == 0) {
            cache->abandon();
            CHECK(cache->pages_in_use() <= pages_before + static_cast<int64>(live.size()));  // copies of shared pages
            continue;
          }
          // One member against a new cache of the same rows, bit by bit.
          const std::size_t which = size_of(random.below(static_cast<int64>(members.size())));
          std::size_t at = 0;
          for (std::size_t i = 0; i < which; ++i) at += size_of(requests[i].rows);
          if (members[which]->cuts == 0) {
            const auto twin = twin_of(*members[which]);
            const std::size_t n = size_of(requests[which].rows);
            twin->reserve(0, requests[which].rows);
            const std::vector<row_result> wanted = run_layers(*twin, std::span(seeds).subspan(at, n), params);
            bool same = true;
            for (std::size_t i = 0; i < n; ++i) same = same && same_bits(results[at + i], wanted[i]);
            CHECK(same);
          }
          std::vector<int64> accepted;
          at = 0;
          for (std::size_t i = 0; i < members.size(); ++i) {
            const int64 rows = end <= 2 ? random.between(0, requests[i].rows) : requests[i].rows;
            accepted.push_back(rows);
            members[i]->rows.insert(members[i]->rows.end(), seeds.begin() + static_cast<std::ptrdiff_t>(at),
                                    seeds.begin() + static_cast<std::ptrdiff_t>(at + size_of(rows)));
            members[i]->grew(f);
            at += size_of(requests[i].rows);
          }
          cache->commit(accepted);
        } else if (kind == 7 || kind == 8) {
          if (live.size() == 4) {
            CHECK(status_of([&] { cache->fork(picked->id); }) == kvc::status::out_of_capacity);
          } else {
            const int64 pages_before = cache->pages_in_use();
            live_sequence copy = *picked;
            copy.id = cache->fork(picked->id);
            CHECK(cache->pages_in_use() == pages_before);
            live.push_back(copy);
          }
        } else if (kind <= 10) {
          const int64 length = picked->length();
          const int64 kept =
              kind == 9 ? std::max<int64>(0, length - random.between(0, f.rollback_rows)) : random.between(0, length);
          const std::vector<byte> before = cache->save(picked->id);
          const kvc::status status = status_of([&] { cache->truncate(picked->id, kept); });
          if (status == kvc::status::ok) {
            picked->cut(f, kept);
          } else {
            CHECK(status == kvc::status::evicted);
            CHECK(f.keep > 0);
            CHECK(cache->length(picked->id) == length);
            CHECK(cache->save(picked->id) == before);
          }
        } else if (kind == 11) {
          const std::vector<byte> file = cache->save(picked->id);
          const int64 pages_before = cache->pages_in_use();
          int id = -1;
          const kvc::status status = status_of([&] { id = cache->load(file); });
          if (status == kvc::status::ok) {
            live_sequence copy = *picked;
            copy.id = id;
            copy.held[0] = f.first.seal_boundary(copy.length());
            copy.held[1] = f.second.seal_boundary(copy.length());
            CHECK(cache->save(id) == file);
            live.push_back(copy);
          } else {
            CHECK(status == kvc::status::out_of_capacity);
            CHECK(cache->pages_in_use() == pages_before);
          }
        } else if (kind == 12) {
          cache->remove(picked->id);
          live.erase(live.begin() + (picked - live.data()));
        } else {
          CHECK(cache->length(picked->id) == picked->length());
          if (picked->cuts == 0 && !(f.keep > 0 && picked->was_cut)) {
            const auto twin = twin_of(*picked);
            CHECK(cache->save(picked->id) == twin->save(0));
          }
          // Rows that were sealed more than once moved by a step each time.
          for (int layer = 0; layer < f.layers; ++layer) {
            if (!cache->writes(layer) || picked->rows.empty()) continue;
            const verdict v =
                check_gather(*cache, layer, gather_rows(*cache, picked->id, layer), make_rows(f, layer, picked->rows),
                             picked->cuts > 0, 1.0 + 1.5 * picked->cuts);
            CHECK_MESSAGE(v.holds, "after ", picked->cuts, " cuts: ", v.what);
          }
        }
        int64 most = 0;
        for (const live_sequence& s : live) most += (s.length() + page - 1) / page;
        CHECK(cache->pages_in_use() <= most);
      }
      for (const live_sequence& s : live) cache->remove(s.id);
      CHECK(cache->pages_in_use() == 0);
    }
  }
}

TEST_CASE("a saved sequence comes back as it was, and a damaged file is refused without a trace") {
  for (const composition& c : suite()) {
    CAPTURE(c.name);
    const auto cache = c.make(roomy);
    const cache_facts& f = cache->facts();
    const kvc::attend_params params = params_of(f);
    for (const int64 length : {int64{0}, int64{1}, int64{f.tokens_per_page - 1}, int64{2 * f.tokens_per_page + 11}}) {
      CAPTURE(length);
      const int sequence = cache->add();
      fill(*cache, sequence, part_of(40, 0, length), 50);
      const std::vector<byte> file = cache->save(sequence);
      const auto other = c.make(roomy);
      const int loaded = other->load(file);
      CHECK(other->length(loaded) == length);
      CHECK(other->save(loaded) == file);
      CHECK(other->pages_in_use() == cache->pages_in_use());
      const std::vector<std::uint64_t> more = part_of(900, 0, 40);
      cache->reserve(sequence, 40);
      other->reserve(loaded, 40);
      const std::vector<row_result> a = run_layers(*cache, more, params);
      const std::vector<row_result> b = run_layers(*other, more, params);
      for (std::size_t i = 0; i < more.size(); ++i) CHECK(same_bits(a[i], b[i]));
      cache->commit();
      other->commit();
      CHECK(cache->save(sequence) == other->save(loaded));
      cache->remove(sequence);
      CHECK(cache->pages_in_use() == 0);
      other->remove(loaded);

      generator random(3);
      const std::size_t stride = 1 + file.size() / 150;
      for (std::size_t n = 0; n < file.size(); n += n < 120 ? 1 : stride) {
        const kvc::status s = status_of([&] { other->load(std::span(file).first(n)); });
        REQUIRE_MESSAGE(s == kvc::status::corrupt_file, "cut to ", n, " bytes");
      }
      for (std::size_t i = 0; i < 120 + 150; ++i) {
        std::vector<byte> damaged = file;
        const std::size_t at =
            i < 120 ? std::min(i, file.size() - 1) : size_of(random.below(static_cast<int64>(file.size())));
        damaged[at] ^= static_cast<byte>(1u << random.below(8));
        const kvc::status s = status_of([&] { other->load(damaged); });
        REQUIRE_MESSAGE(s == kvc::status::corrupt_file, "byte ", at);
      }
      CHECK(other->pages_in_use() == 0);
      std::vector<int> ids;
      for (int i = 0; i < roomy.max_sequences; ++i) ids.push_back(other->add());  // no id was lost
      other->remove_all(ids);
    }
  }
}

TEST_CASE("bytes are what the formulas say") {
  for (const composition& c : suite()) {
    CAPTURE(c.name);
    const auto cache = c.make(roomy);
    const cache_facts& f = cache->facts();
    const int64 pages = roomy.capacity / f.tokens_per_page + roomy.max_sequences - 1;
    const kvc::host::memory_usage m = cache->memory();
    CHECK(m.pages == pages * f.slots * f.page_bytes);
    CHECK(m.pages_in_use == 0);
    CHECK(m.tails == roomy.max_sequences * f.tail_bytes);
    const int64 rows_with_ring = (f.first.has_ring ? f.first.width : 0) + (f.second.has_ring ? f.second.width : 0);
    CHECK(m.staging == roomy.max_step_rows * f.slots * f.stored_heads * rows_with_ring * 2);
    // A token's share of full pages, metadata included, is what bytes_per_token promises: less than a byte off.
    const int sequence = cache->add();
    const int64 length = f.keep > 0 ? f.tokens_per_page : 3 * f.tokens_per_page;
    fill(*cache, sequence, part_of(1, 0, length), 64);
    const double per_token = static_cast<double>(cache->memory().pages_in_use) / static_cast<double>(length);
    CHECK(static_cast<double>(f.token_bytes) - per_token >= 0);
    CHECK(static_cast<double>(f.token_bytes) - per_token < 1);
    CHECK(f.tail_bytes == f.slots * f.stored_heads * 2 *
                              (int64{f.first.width} * (f.first.first_rows + f.first.ring_rows) +
                               int64{f.second.width} * (f.second.first_rows + f.second.ring_rows)));
  }
}

}  // namespace kvc_test
