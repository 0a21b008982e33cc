// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// The host's operations beside their uncompressed twins and beside what the machine can do at most, in one run:
//
//   kvc_bench_host [Google Benchmark's options]
//
// bench/host.sh runs it, with the repetitions of all benchmarks in random order, and makes a summary of the times and
// of these counters, each of one iteration: tokens (cached rows attended to), rows (appended), ops (multiplications
// and additions of the two products), bytes (read).

#include <benchmark/benchmark.h>

#include <algorithm>
#include <kvc/kvc.hpp>
#include <map>
#include <memory>
#include <random>
#include <tuple>
#include <vector>

#include "caches.hpp"
#include "host_ceilings.hpp"
#if defined(KVC_BENCH_EIGEN)
#include "host_products.hpp"
#endif

namespace {

using kvc::int64;
using kvc_bench::caches;

std::vector<float> normal_values(int64 count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> out(static_cast<std::size_t>(count));
  for (float& x : out) x = normal(random);
  return out;
}

template <class Spec>
int64 key_floats(const kvc::extents<Spec>& model) {
  return int64{Spec::is_latent ? 1 : model.kv_heads} * Spec::key_width;
}

template <class Spec>
void append(kvc::host::cache<Spec>& cache, int layer, const std::vector<float>& k, const std::vector<float>& v) {
  if constexpr (Spec::is_latent) {
    cache.append(layer, k.data());
  } else {
    cache.append(layer, k.data(), v.data());
  }
}

/// A cache of one sequence of `tokens` rows, with a step of the newest `rows` of them open and appended.
template <class Spec>
struct filled {
  filled(int64 tokens, int64 rows, int threads)
      : step_rows(std::min<int64>(std::max<int64>(rows, 4096), tokens)),
        cache({.capacity = tokens, .max_sequences = 1, .max_step_rows = step_rows, .threads = threads}),
        queries(normal_values(rows * cache.model().query_heads * Spec::query_width, 2)),
        out(static_cast<std::size_t>(rows * cache.model().query_heads * Spec::output_width)),
        lse(static_cast<std::size_t>(rows * cache.model().query_heads)) {
    const kvc::extents<Spec>& model = cache.model();
    const std::vector<float> k = normal_values(step_rows * key_floats(model), 3);
    const std::vector<float> v = normal_values(step_rows * model.kv_heads * Spec::shape_type::head_dim, 4);
    const int sequence = cache.add_sequence();
    for (int64 done = 0; done < tokens;) {
      const int64 n = std::min(step_rows, done < tokens - rows ? tokens - rows - done : rows);
      cache.reserve(sequence, n);
      for (int layer = 0; layer < model.layers; ++layer) {
        if (model.writes(layer)) append(cache, layer, k, v);
      }
      done += n;
      if (done < tokens) cache.commit();
    }
  }

  int64 step_rows;
  kvc::host::cache<Spec> cache;
  std::vector<float> queries, out, lse;
};

/// One for each composition, length, step and number of threads, kept to the end: repetitions are interleaved.
template <class Spec>
filled<Spec>& filled_cache(int64 tokens, int64 rows, int threads) {
  static std::map<std::tuple<int64, int64, int>, std::unique_ptr<filled<Spec>>> all;
  std::unique_ptr<filled<Spec>>& one = all[{tokens, rows, threads}];
  if (one == nullptr) one = std::make_unique<filled<Spec>>(tokens, rows, threads);
  return *one;
}

/// Attention of the newest `rows` rows over `tokens`, themselves included.
template <class Spec>
void attend(benchmark::State& state, int64 tokens, int64 rows = 1, int threads = 1) {
  filled<Spec>& at = filled_cache<Spec>(tokens, rows, threads);
  const kvc::attend_params params{.scale = 0.05f};
  for (auto _ : state) {
    at.cache.attend(0, at.queries.data(), at.out.data(), at.lse.data(), params);
    benchmark::ClobberMemory();
  }
  const kvc::extents<Spec>& model = at.cache.model();
  // A causal step: row i of the newest sees all but those after it.
  const double pairs = static_cast<double>(rows) * static_cast<double>(tokens) -
                       static_cast<double>(rows) * static_cast<double>(rows - 1) / 2;
  const double page_bytes = static_cast<double>(Spec::page_bytes(model.stored_heads()));
  state.counters["tokens"] = static_cast<double>(tokens);
  state.counters["ops"] = 2 * pairs * model.query_heads * (Spec::query_width + Spec::output_width);
  state.counters["bytes"] = static_cast<double>(tokens) * page_bytes / Spec::tokens_per_page;
}

/// The same without tiles (AMX), where the CPU has them.
template <class Spec>
void attend_in_vectors(benchmark::State& state, int64 tokens) {
  using kvc::host::instruction_set;
  static_cast<void>(kvc::host::use_instruction_set(instruction_set::avx512));
  attend<Spec>(state, tokens);
  static_cast<void>(kvc::host::use_instruction_set(instruction_set::amx));
}

/// Attention of one new row of each of several sequences: one of them long, or all of the same length.
template <class Spec>
void attend_batch(benchmark::State& state, int64 longest, int64 shortest, int sequences, int threads) {
  static std::map<std::tuple<int64, int64, int>, std::unique_ptr<kvc::host::cache<Spec>>> all;
  const int64 tokens = longest + (sequences - 1) * shortest;
  std::unique_ptr<kvc::host::cache<Spec>>& cache = all[{longest, shortest, threads}];
  if (cache == nullptr) {
    constexpr int64 at_once = 1024;
    cache = std::make_unique<kvc::host::cache<Spec>>(
        kvc::host::cache_options{.capacity = tokens + sequences * Spec::tokens_per_page,
                                 .max_sequences = sequences,
                                 .max_step_rows = at_once,
                                 .threads = threads});
    const std::vector<float> k = normal_values(at_once * key_floats(cache->model()), 3);
    const std::vector<float> v = normal_values(at_once * cache->model().kv_heads * Spec::shape_type::head_dim, 4);
    std::vector<kvc::step_request> step;
    for (int i = 0; i < sequences; ++i) {
      const int sequence = cache->add_sequence();
      step.push_back({sequence, 1});
      const int64 length = (i == 0 ? longest : shortest) - 1;
      for (int64 done = 0; done < length; done += at_once) {
        cache->reserve(sequence, std::min(at_once, length - done));
        for (int layer = 0; layer < cache->model().layers; ++layer) {
          if (cache->model().writes(layer)) append(*cache, layer, k, v);
        }
        cache->commit();
      }
    }
    if (cache->try_reserve(step) != kvc::status::ok) std::abort();
    for (int layer = 0; layer < cache->model().layers; ++layer) {
      if (cache->model().writes(layer)) append(*cache, layer, k, v);
    }
  }
  const kvc::extents<Spec>& model = cache->model();
  const std::vector<float> queries = normal_values(int64{sequences} * model.query_heads * Spec::query_width, 2);
  std::vector<float> out(static_cast<std::size_t>(int64{sequences} * model.query_heads * Spec::output_width));
  const kvc::attend_params params{.scale = 0.05f};
  for (auto _ : state) {
    cache->attend(0, queries.data(), out.data(), nullptr, params);
    benchmark::ClobberMemory();
  }
  state.counters["tokens"] = static_cast<double>(tokens);
}

/// A prompt of `rows` rows into an empty cache. The step is given up again; its rows were encoded.
template <class Spec>
void append_rows(benchmark::State& state, int64 rows) {
  static kvc::host::cache<Spec> cache({.capacity = rows, .max_sequences = 1, .max_step_rows = rows});
  static const int sequence = cache.add_sequence();
  const kvc::extents<Spec>& model = cache.model();
  static const std::vector<float> k = normal_values(rows * key_floats(model), 3);
  static const std::vector<float> v = normal_values(rows * model.kv_heads * Spec::shape_type::head_dim, 4);
  for (auto _ : state) {
    cache.reserve(sequence, rows);
    append(cache, 0, k, v);
    benchmark::ClobberMemory();
    cache.abandon();
  }
  state.counters["rows"] = static_cast<double>(rows);
}

/// The same rows, as they decode.
template <class Spec>
void gather_rows(benchmark::State& state, int64 rows) {
  static kvc::host::cache<Spec> cache({.capacity = rows, .max_sequences = 1, .max_step_rows = rows});
  static const int sequence = [&] {
    const int s = cache.add_sequence();
    cache.reserve(s, rows);
    for (int layer = 0; layer < cache.model().layers; ++layer) {
      if (!cache.model().writes(layer)) continue;
      append(cache, layer, normal_values(rows * key_floats(cache.model()), 3),
             normal_values(rows * cache.model().kv_heads * Spec::shape_type::head_dim, 4));
    }
    cache.commit();
    return s;
  }();
  const int64 heads = cache.model().stored_heads();
  std::vector<float> k(static_cast<std::size_t>(rows * heads * Spec::first_stream::model_width));
  std::vector<float> v(static_cast<std::size_t>(rows * heads * Spec::second_stream::model_width));
  for (auto _ : state) {
    cache.gather(sequence, 0, 0, rows, k.data(), v.data());
    benchmark::ClobberMemory();
  }
  state.counters["rows"] = static_cast<double>(rows);
}

/// What an append is measured against: the same rows to bf16, in order, and nothing else.
void copy_rows(benchmark::State& state, int64 rows, int64 floats) {
  const std::vector<float> from = normal_values(rows * floats, 3);
  std::vector<std::uint16_t> to(from.size());
  for (auto _ : state) {
    kvc_bench::copy_to_bf16(from.data(), from.size(), to.data());
    benchmark::ClobberMemory();
  }
  state.counters["rows"] = static_cast<double>(rows);
}

#if defined(KVC_BENCH_EIGEN)
/// The products of a prompt's attention in full, as a matrix product has no mask: it is the rate that is compared.
void prompt_products(benchmark::State& state, int heads, int kv_heads, int rows) {
  const int queries = rows * (heads / kv_heads);
  const std::vector<float> q = normal_values(int64{queries} * 64, 2);
  const std::vector<float> k = normal_values(int64{rows} * 64, 3);
  const std::vector<float> v = normal_values(int64{rows} * 64, 4);
  std::vector<float> out(q.size());
  double ops = 0;
  for (auto _ : state) {
    ops = 0;
    for (int head = 0; head < kv_heads; ++head) {
      ops += kvc_bench::eigen_products(q.data(), queries, k.data(), v.data(), rows, out.data());
    }
    benchmark::ClobberMemory();
  }
  state.counters["ops"] = ops;
}
#endif

/// Each thread reads its share several times over, so that waking it does not count.
void read(benchmark::State& state, int64 bytes, int threads, int times) {
  static std::vector<char> data(std::size_t{256} << 20, 1);
  kvc::host::pool pool(threads);
  const int64 share = bytes / threads / 64 * 64;
  for (auto _ : state) {
    pool.run([&](kvc::slice part) {
      for (int i = 0; i < times; ++i) {
        const char* from = data.data() + part.index * share;
        benchmark::DoNotOptimize(kvc_bench::read_all(from, static_cast<std::size_t>(share)));
      }
    });
  }
  state.counters["bytes"] = static_cast<double>(share) * threads * times;
}

void peak(benchmark::State& state, double (*run)(long), int threads) {
  kvc::host::pool pool(threads);
  double ops = 0;
  for (auto _ : state) {
    pool.run([&](kvc::slice part) {
      const double done = run(1000000);
      if (part.index == 0) ops = done * threads;
    });
  }
  state.counters["ops"] = ops;
}

template <class Function, class... Arguments>
void add(const char* name, Function function, Arguments... arguments) {
  benchmark::RegisterBenchmark(name, [=](benchmark::State& state) { function(state, arguments...); })
      ->Unit(benchmark::kMicrosecond)
      ->UseRealTime()
      ->ComputeStatistics("min", [](const std::vector<double>& x) { return *std::min_element(x.begin(), x.end()); });
}

template <int Heads, class Quant = kvc::quant::integer<4, 128>>
using latent = kvc::clla_cache<kvc::shape<2, Heads, Heads, 128>, 512, 64, 2, Quant>;
using prompt = kvc::compose<kvc::shape<1, 9, 3, 64>, kvc::quant::integer<4, 32>>;

void add_all() {
  using c = caches<128>;
  using clla = kvc_bench::flagship;
  constexpr int64 tokens = 8192;
  add("C1/int4", attend<clla>, tokens, 1, 1);
  add("C5/clla-int4-2-threads", attend<clla>, tokens, 1, 2);
  add("C5/clla-int4-long-and-short", attend_batch<clla>, int64{32768}, int64{256}, 32, 2);
  add("C5/clla-int4-even", attend_batch<clla>, int64{1272}, int64{1272}, 32, 2);
  add("C3/int4", attend<c::int4>, tokens, 1, 1);
  add("C5/int4-2-threads", attend<c::int4>, tokens, 1, 2);
#ifndef KVC_BENCH_FEW
  add("C1/fp32", attend<latent<16, kvc::quant::none<float>>>, tokens, 1, 1);
  add("C1/bf16", attend<latent<16, kvc::quant::none<kvc::bf16>>>, tokens, 1, 1);
  add("C2/heads-128", attend<latent<128>>, tokens, 1, 1);
  if (kvc::host::active_instruction_set() == kvc::host::instruction_set::amx) {
    add("C1/int4-vectors", attend_in_vectors<clla>, tokens);
    add("C2/heads-128-vectors", attend_in_vectors<latent<128>>, tokens);
    add("ceiling/tile-dot", peak, kvc_bench::tile_dots, 1);
  }
  add("C2/heads-1", attend<latent<1>>, tokens, 1, 1);
  constexpr int64 many = 262144;  // 80 MB of codes: more than the last-level cache
  add("C2/heads-1-long", attend<latent<1>>, many, 1, 1);
  add("C3/fp32", attend<c::fp32>, tokens, 1, 1);
  add("C3/bf16", attend<c::bf16>, tokens, 1, 1);
  add("C4/channel2", attend<c::channel2>, tokens, 1, 1);
  add("C4/channel2-128", attend<c::channel2_128>, tokens, 1, 1);
  add("C4/int4-32", attend<c::int4_32>, tokens, 1, 1);
#endif
  constexpr int64 rows = 2048;
  add("C6/int4", append_rows<c::int4>, rows);
  add("C6/copy", copy_rows, rows, 2 * 8 * 128);
  add("C6/clla-int4", append_rows<clla>, rows);
  add("C6/clla-copy", copy_rows, rows, 576);
#ifndef KVC_BENCH_FEW
  add("C6/int4-rotated", append_rows<c::rotated>, rows);
  add("C6/bf16", append_rows<c::bf16>, rows);
  add("C7/int4", attend<prompt>, rows, rows, 1);
  add("C7/fp32", attend<kvc::compose<kvc::shape<1, 9, 3, 64>, kvc::quant::none<float>>>, rows, rows, 1);
  add("gather/int4", gather_rows<c::int4>, rows);
  add("gather/bf16", gather_rows<c::bf16>, rows);
  add("gather/fp32", gather_rows<c::fp32>, rows);
#endif
#if defined(KVC_BENCH_EIGEN)
  add("C7/eigen", prompt_products, 9, 3, 2048);
#endif
  add("ceiling/read-dram-1", read, int64{256} << 20, 1, 1);
  add("ceiling/read-dram-2", read, int64{256} << 20, 2, 1);
  add("ceiling/read-l3-1", read, tokens * 308, 1, 64);
  add("ceiling/read-l3-2", read, tokens * 308, 2, 64);
  if (kvc_bench::has_integer_dots()) add("ceiling/integer-dot", peak, kvc_bench::integer_dots, 1);
  if (kvc_bench::has_integer_dots()) add("ceiling/integer-dot-2", peak, kvc_bench::integer_dots, 2);
  if (kvc_bench::has_bf16_dots()) add("ceiling/bf16-dot", peak, kvc_bench::bf16_dots, 1);
  if (kvc_bench::has_fp32_fmas()) add("ceiling/fp32-fma", peak, kvc_bench::fp32_fmas, 1);
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  add_all();
  if (benchmark::RunSpecifiedBenchmarks() == 0) return 1;
  benchmark::Shutdown();
  return 0;
}
