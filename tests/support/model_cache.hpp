// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <kvc/kvc.hpp>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "compositions.hpp"

// A host::cache behind one interface, so that a property is compiled once and not once per composition, and the rows
// that the tests put into it. What a cache should hold is worked out here from the calibration's numbers, in double and
// without the library's transforms.

namespace kvc_test {

using kvc::byte;
using kvc::int64;
using kvc::host::step_request;

// ---- rows

/// A small generator with cheap seeding: every row of a test is a pure function of its seed.
class generator {
 public:
  explicit generator(std::uint64_t seed) : state_(mixed(seed)) {}  // near seeds must not begin near one another
  std::uint64_t next() { return mixed(state_ += 0x9e3779b97f4a7c15ull); }
  int64 below(int64 n) { return static_cast<int64>(next() % static_cast<std::uint64_t>(n)); }
  /// Uniform in [low, high], both included.
  int64 between(int64 low, int64 high) { return low + below(high - low + 1); }
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  /// Variance 1, bell-shaped, bounded.
  float normal() { return static_cast<float>((uniform() + uniform() + uniform() + uniform() - 2.0) * 1.7320508); }

 private:
  static std::uint64_t mixed(std::uint64_t z) {  // splitmix64
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }

  std::uint64_t state_;
};

/// `count` numbers; every 7th channel is an outlier with a mean of its own, as keys have them.
inline void fill_row(std::uint64_t seed, float* out, int count, bool outliers) {
  generator random(seed);
  for (int i = 0; i < count; ++i) {
    out[i] = random.normal();
    if (outliers && i % 7 == 3) out[i] = 2 * out[i] + 3;
  }
}

// ---- facts

/// What the tests need to know of one stream (keys, values; latent, rotary key).
struct stream_facts {
  int model_width = 0;
  int width = 0;
  int first_rows = 0;
  int newest_rows = 0;
  int ring_rows = 0;
  int tokens_per_group = 1;
  int row_bytes = 0;
  int64 codes_bytes = 0;  ///< where the constants of a segment begin
  int64 segment_bytes = 0;
  bool has_ring = false;
  bool rounds = false;     ///< rows pass through bf16 before they are encoded
  bool mixes = false;      ///< a wrapper or a basis spreads one channel over others
  int rotations = 0;       ///< Hadamard wrappers,
  int hadamard_block = 1;  ///< and their block
  int centres = 0;         ///< centring wrappers,
  double mean_norm = 0;    ///< and the largest norm of what they take off
  bool low_rank = false;
  bool drops_channels = false;  ///< low rank or pruned
  bool is_packed = false;       ///< the host attends its codes as they lie, with queries and weights in 8 bits

  int64 seal_boundary(int64 length) const {
    const int64 old = length - newest_rows;
    return old <= 0 ? 0 : old / tokens_per_group * tokens_per_group;
  }
  bool is_sealed(int64 row, int64 length) const { return row >= first_rows && row < seal_boundary(length); }
};

struct cache_facts {
  std::string name;
  int layers = 0, query_heads = 0, kv_heads = 0, stored_heads = 0, slots = 0;
  int head_dim = 0, query_width = 0, key_width = 0, output_width = 0;
  bool is_latent = false;
  bool is_deferred = false;
  bool half_split = false;  ///< pair layout of a deferred rotary embedding
  int rotary_dims = 0;      ///< channels that it turns
  int sinks = 0;
  int64 keep = 0;  ///< newest rows that the tokens policy keeps; 0: all
  int tokens_per_page = 0;
  int rollback_rows = 0;
  int64 page_bytes = 0, token_bytes = 0, tail_bytes = 0;
  stream_facts first, second;

  /// KV heads of an appended array: a latent cache takes one joint row.
  int key_heads() const { return is_latent ? 1 : kv_heads; }
  const stream_facts& values() const { return is_latent ? first : second; }
  bool has_ring() const { return first.has_ring || second.has_ring; }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(query_width)); }
};

/// The rows of one stored head of a layer, as far as anyone may see them: [row][channel], empty where not gathered.
struct head_rows {
  std::vector<std::vector<float>> first, second;
};

/// What gather must give for one row, and how far off it may be: a norm over the row, or per channel where no channel
/// mixes with another.
struct expected_row {
  std::vector<double> row;
  std::vector<double> channel_error;
  double norm_error = 0;
};

// ---- the cache

class any_cache {
 public:
  virtual ~any_cache() = default;
  virtual const cache_facts& facts() const = 0;
  virtual std::unique_ptr<any_cache> another(const kvc::host::cache_options& options) const = 0;

  virtual bool writes(int layer) const = 0;
  virtual int slot(int layer) const = 0;
  virtual int add() = 0;
  virtual void remove(int sequence) = 0;
  virtual int fork(int sequence) = 0;
  virtual void truncate(int sequence, int64 length) = 0;
  virtual int64 length(int sequence) const = 0;
  virtual kvc::status try_reserve(std::span<const step_request> requests) = 0;
  virtual void append(int layer, const float* k, const float* v) = 0;
  virtual void attend(int layer, const float* q, float* out, float* lse, const kvc::attend_params& params) = 0;
  virtual void commit() = 0;
  virtual void commit(std::span<const int64> accepted) = 0;
  virtual void abandon() = 0;
  virtual void gather(int sequence, int layer, int64 begin, int64 end, float* k, float* v) = 0;
  virtual std::vector<byte> save(int sequence) = 0;
  virtual int load(std::span<const byte> file) = 0;
  virtual kvc::host::memory_usage memory() const = 0;

  /// Codes and constants of a segment of a page of a committed sequence: for tests that damage them.
  virtual byte* segment(int sequence, int layer, int64 page, bool first, int head) = 0;
  /// The calibration's numbers of one stream of a stored head: [dims][wrappers].
  virtual std::span<const float> constants(int slot, bool first, int head) const = 0;
  /// What gather gives for row `index` of rows k, v (as append took them) that are a whole sequence. `one_group`: the
  /// bound of a codec as if all rows shared one group of tokens, which covers rows that were sealed twice.
  virtual expected_row expect(int layer, bool first, int head, int64 index, std::span<const float> rows,
                              bool one_group = false) const = 0;

  kvc::status try_reserve(int sequence, int64 rows) {
    const step_request one{sequence, rows};
    return try_reserve(std::span<const step_request>(&one, 1));
  }
  void reserve(int sequence, int64 rows) { kvc::check(try_reserve(sequence, rows), "reserve"); }
  void commit_rows(int64 rows) { commit(std::span<const int64>(&rows, 1)); }
  void remove_all(const std::vector<int>& sequences) {
    for (const int s : sequences) remove(s);
  }
  int64 pages_in_use() const { return memory().pages_in_use / (facts().page_bytes * facts().slots); }
};

namespace detail {

template <class P>
inline constexpr bool is_low_rank = false;
template <int R>
inline constexpr bool is_low_rank<kvc::dims::low_rank<R>> = true;
template <class P>
inline constexpr bool is_pruned = false;
template <int N>
inline constexpr bool is_pruned<kvc::dims::pruned<N>> = true;
template <class P>
inline constexpr bool is_rotated = false;
template <class C>
inline constexpr bool is_rotated<rotated<C>> = true;
template <class P>
inline constexpr bool is_centred = false;
template <class C>
inline constexpr bool is_centred<centred<C>> = true;

/// Wrappers of a quant policy of one kind, whatever is around them.
template <class Q>
constexpr int count_rotated() {
  if constexpr (kvc::quant::is_wrapper<Q>) return is_rotated<Q> + count_rotated<typename Q::inner_codec>();
  return 0;
}
template <class Q>
constexpr int count_centred() {
  if constexpr (kvc::quant::is_wrapper<Q>) return is_centred<Q> + count_centred<typename Q::inner_codec>();
  return 0;
}

template <class P>
inline constexpr bool is_half_split = false;
template <int Dims>
inline constexpr bool is_half_split<half_split<Dims>> = true;

template <class Stream>
stream_facts facts_of_stream() {
  stream_facts f;
  using quant = typename Stream::quant_policy;
  f.model_width = Stream::model_width;
  f.width = Stream::width;
  f.first_rows = Stream::first_rows;
  f.newest_rows = Stream::newest_rows;
  f.ring_rows = Stream::ring_rows;
  f.tokens_per_group = Stream::tokens_per_group;
  f.row_bytes = Stream::row_bytes;
  f.codes_bytes = Stream::codes_bytes;
  f.segment_bytes = Stream::segment_bytes;
  f.has_ring = Stream::has_ring;
  f.rounds = Stream::exact_rows > 0;
  f.rotations = count_rotated<quant>();
  f.hadamard_block = f.rotations > 0 ? Stream::width & -Stream::width : 1;
  f.centres = count_centred<quant>();
  f.low_rank = is_low_rank<typename Stream::dims_policy>;
  f.drops_channels = f.low_rank || is_pruned<typename Stream::dims_policy>;
  f.mixes = f.rotations > 0 || f.low_rank;
  return f;
}

}  // namespace detail

/// Constants that leave no default in place: random means, an orthonormal basis with an encoder that differs from it,
/// scattered kept channels, unequal merge weights.
template <class Spec>
kvc::calibration<Spec> random_calibration(std::uint64_t seed) {
  kvc::calibration<Spec> c(extents_of<Spec>());
  generator random(seed);
  const auto fill_dims = [&]<class Stream>(std::span<float> at, Stream*) {
    constexpr int head = Stream::model_width;
    constexpr int rank = Stream::width;
    if constexpr (detail::is_low_rank<typename Stream::dims_policy>) {
      // Gram-Schmidt; the encoder has a little more than the basis, as a query-aware one has.
      std::vector<std::vector<double>> basis;
      for (int r = 0; r < rank; ++r) {
        std::vector<double> v(head);
        for (double& x : v) x = static_cast<double>(random.normal());
        for (const auto& b : basis) {
          double dot = 0;
          for (int i = 0; i < head; ++i) dot += v[i] * b[i];
          for (int i = 0; i < head; ++i) v[i] -= dot * b[i];
        }
        double norm = 0;
        for (const double x : v) norm += x * x;
        for (double& x : v) x /= std::sqrt(norm);
        basis.push_back(v);
      }
      for (int r = 0; r < rank; ++r) {
        for (int i = 0; i < head; ++i) {
          at[(rank + r) * head + i] = static_cast<float>(basis[r][i]);
          at[r * head + i] = static_cast<float>(basis[r][i]) + 0.01f * random.normal();
        }
      }
    } else if constexpr (detail::is_pruned<typename Stream::dims_policy>) {
      std::vector<int> channels(head);
      for (int i = 0; i < head; ++i) channels[i] = i;
      for (int i = 0; i < rank; ++i) {
        std::swap(channels[i], channels[random.between(i, head - 1)]);
        at[i] = static_cast<float>(channels[i]);
      }
    }
  };
  for (int s = 0; s < c.slots(); ++s) {
    for (int h = 0; h < c.stored_heads(); ++h) {
      fill_dims(c.first_dims(s, h), static_cast<typename Spec::first_stream*>(nullptr));
      fill_dims(c.second_dims(s, h), static_cast<typename Spec::second_stream*>(nullptr));
      for (float& x : c.first_wrappers(s, h)) x = random.normal();
      for (float& x : c.second_wrappers(s, h)) x = random.normal();
      for (float& x : c.key_merge_weights(s, h)) x = static_cast<float>(0.2 + random.uniform());
      for (float& x : c.value_merge_weights(s, h)) x = static_cast<float>(0.2 + random.uniform());
    }
  }
  return c;
}

/// What the tests need to know of a composition of these extents with these constants.
template <class Spec>
cache_facts facts_of(const kvc::extents<Spec>& e, kvc::calibration<Spec> calibration) {
  const auto norm_of = [](std::span<const float> x) {
    double sum = 0;
    for (const float v : x) sum += static_cast<double>(v) * static_cast<double>(v);
    return std::sqrt(sum);
  };
  cache_facts f;
  f.name = Spec::name().c_str();
  f.layers = e.layers;
  f.query_heads = e.query_heads;
  f.kv_heads = e.kv_heads;
  f.stored_heads = e.stored_heads();
  f.slots = e.slots();
  f.head_dim = Spec::shape_type::head_dim;
  f.query_width = Spec::query_width;
  f.key_width = Spec::key_width;
  f.output_width = Spec::output_width;
  f.is_latent = Spec::is_latent;
  f.is_deferred = Spec::first_stream::is_deferred;
  if constexpr (Spec::first_stream::is_deferred) {
    f.half_split = detail::is_half_split<typename Spec::rotary_policy>;
    f.rotary_dims = 2 * Spec::rotary_policy::template pair_count<Spec::shape_type::head_dim>;
  }
  f.sinks = Spec::tokens_policy::sinks;
  f.keep = Spec::tokens_policy::window;
  f.tokens_per_page = Spec::tokens_per_page;
  f.rollback_rows = Spec::storage_policy::rollback_rows;
  f.page_bytes = Spec::page_bytes(e.stored_heads());
  f.token_bytes = kvc::bytes_per_token<Spec>(e);
  f.tail_bytes = Spec::tail_bytes(e);
  f.first = detail::facts_of_stream<typename Spec::first_stream>();
  f.second = detail::facts_of_stream<typename Spec::second_stream>();
  f.first.is_packed = kvc::host::detail::attend_shape<Spec>::first_is_packed;
  f.second.is_packed = kvc::host::detail::attend_shape<Spec>::second_is_packed;
  for (int s = 0; s < e.slots(); ++s) {
    for (int h = 0; h < e.stored_heads(); ++h) {
      f.first.mean_norm = std::max(f.first.mean_norm, norm_of(calibration.first_wrappers(s, h)));
      f.second.mean_norm = std::max(f.second.mean_norm, norm_of(calibration.second_wrappers(s, h)));
    }
  }
  return f;
}

template <class Spec>
class typed_cache : public any_cache {
 public:
  using spec = Spec;

  explicit typed_cache(const kvc::host::cache_options& options)
      : calibration_(random_calibration<Spec>(1)),
        cache_(options, extents_of<Spec>(), &calibration_),
        facts_(facts_of<Spec>(cache_.model(), calibration_)) {}

  const cache_facts& facts() const override { return facts_; }
  std::unique_ptr<any_cache> another(const kvc::host::cache_options& options) const override {
    return std::make_unique<typed_cache>(options);
  }
  bool writes(int layer) const override { return cache_.model().writes(layer); }
  int slot(int layer) const override { return cache_.model().slot(layer); }
  int add() override { return cache_.add_sequence(); }
  void remove(int sequence) override { cache_.remove(sequence); }
  int fork(int sequence) override { return cache_.fork(sequence); }
  void truncate(int sequence, int64 length) override { cache_.truncate(sequence, length); }
  int64 length(int sequence) const override { return cache_.length(sequence); }
  kvc::status try_reserve(std::span<const step_request> requests) override { return cache_.try_reserve(requests); }
  void append(int layer, const float* k, const float* v) override {
    if constexpr (Spec::is_latent) {
      cache_.append(layer, k);
    } else {
      cache_.append(layer, k, v);
    }
  }
  void attend(int layer, const float* query, float* out, float* lse, const kvc::attend_params& params) override {
    cache_.attend(layer, query, out, lse, params);
  }
  void commit() override { cache_.commit(); }
  void commit(std::span<const int64> accepted) override { cache_.commit(accepted); }
  void abandon() override { cache_.abandon(); }
  void gather(int sequence, int layer, int64 begin, int64 end, float* k, float* v) override {
    cache_.gather(sequence, layer, begin, end, k, v);
  }
  std::vector<byte> save(int sequence) override { return cache_.save(sequence); }
  int load(std::span<const byte> file) override { return cache_.load(file); }
  kvc::host::memory_usage memory() const override { return cache_.memory(); }

  byte* segment(int sequence, int layer, int64 page, bool first, int head) override {
    reserve(sequence, 0);
    const kvc::int32 block = cache_.step().block(0, page);
    cache_.abandon();
    const kvc::cache_view<Spec> view = cache_.view();
    const int heads = view.model.stored_heads();
    return view.page(view.model.slot(layer), block) +
           (first ? view.template segment_offset<true>(head, heads) : view.template segment_offset<false>(head, heads));
  }
  using any_cache::reserve;
  using any_cache::try_reserve;

  std::span<const float> constants(int slot, bool first, int head) const override {
    auto& c = const_cast<kvc::calibration<Spec>&>(calibration_);
    const std::span<float> dims = first ? c.first_dims(slot, head) : c.second_dims(slot, head);
    const std::span<float> wrappers = first ? c.first_wrappers(slot, head) : c.second_wrappers(slot, head);
    return {dims.data(), dims.size() + wrappers.size()};
  }

  expected_row expect(int layer, bool first, int head, int64 index, std::span<const float> rows,
                      bool one_group) const override {
    return first ? expect_in<true>(layer, head, index, rows, one_group)
                 : expect_in<false>(layer, head, index, rows, one_group);
  }

  kvc::host::cache<Spec>& cache() { return cache_; }

 private:
  /// Model row `t` of a stored head: the KV head, or the weighted sum of those that share a stored row.
  template <bool First>
  std::vector<double> model_row(int slot, int head, int64 t, std::span<const float> rows) const {
    using stream = kvc::stream_of<Spec, First>;
    auto& c = const_cast<kvc::calibration<Spec>&>(calibration_);
    const int merged = facts_.is_latent ? 1 : facts_.kv_heads / facts_.stored_heads;
    const int row_width = facts_.is_latent ? Spec::key_width : stream::model_width;
    const int offset = facts_.is_latent && !First ? Spec::first_stream::model_width : 0;
    const std::span<float> weights = First ? c.key_merge_weights(slot, head) : c.value_merge_weights(slot, head);
    std::vector<double> row(stream::model_width, 0.0);
    for (int m = 0; m < merged; ++m) {
      const double weight = merged == 1 ? 1.0 : static_cast<double>(weights[m]);
      const float* at = rows.data() + (t * facts_.key_heads() + head * merged + m) * row_width + offset;
      for (int i = 0; i < stream::model_width; ++i) row[i] += weight * static_cast<double>(at[i]);
    }
    return row;
  }

  template <bool First>
  expected_row expect_in(int layer, int head, int64 index, std::span<const float> rows, bool one_group) const {
    using stream = kvc::stream_of<Spec, First>;
    constexpr int head_width = stream::model_width;
    constexpr int width = stream::width;
    const stream_facts& f = First ? facts_.first : facts_.second;
    const int at_slot = slot(layer);
    const int row_width = facts_.is_latent ? Spec::key_width : head_width;
    const int64 length = static_cast<int64>(rows.size()) / (facts_.key_heads() * row_width);
    const std::vector<double> model = model_row<First>(at_slot, head, index, rows);
    const std::span<const float> c = constants(at_slot, First, head);

    // What the dims policy keeps of the row, in double.
    expected_row e;
    e.row.assign(head_width, 0.0);
    if constexpr (detail::is_low_rank<typename stream::dims_policy>) {
      for (int r = 0; r < width; ++r) {
        double z = 0;
        for (int i = 0; i < head_width; ++i) z += static_cast<double>(c[r * head_width + i]) * model[i];
        for (int i = 0; i < head_width; ++i) e.row[i] += z * static_cast<double>(c[(width + r) * head_width + i]);
      }
    } else if constexpr (detail::is_pruned<typename stream::dims_policy>) {
      for (int i = 0; i < width; ++i) {
        const auto channel = static_cast<std::size_t>(c[i]);
        e.row[channel] = model[channel];
      }
    } else {
      e.row = model;
    }

    // What the codec states for the group of the row. The library's transform gives the codec's input; its rounding is
    // part of the slack.
    const auto stored_row = [&](int64 t, float* out) {
      const std::vector<double> exact = model_row<First>(at_slot, head, t, rows);
      std::vector<float> row(exact.begin(), exact.end());
      kvc::transform<stream>::store(row.data(), out, c.data());
      if (f.rounds) {
        for (int i = 0; i < width; ++i) out[i] = kvc::bf16::from(out[i]).value();
      }
    };
    std::vector<float> stored(width);
    stored_row(index, stored.data());
    std::vector<float> bound(width, 0.0f);
    if (one_group || f.is_sealed(index, length)) {
      const int64 begin =
          one_group ? 0 : std::max<int64>(index / f.tokens_per_group * f.tokens_per_group, f.first_rows);
      const int64 end = one_group ? length : index / f.tokens_per_group * f.tokens_per_group + f.tokens_per_group;
      std::vector<float> group(static_cast<std::size_t>((end - begin) * width));
      std::vector<float> bounds(group.size());
      for (int64 t = begin; t < end; ++t) stored_row(t, group.data() + (t - begin) * width);
      stream::codec::template bound<width>(group.data(), 0, static_cast<int>(end - begin), bounds.data());
      for (int i = 0; i < width; ++i) bound[i] = bounds[(index - begin) * width + i];
    }
    double stored_norm = 0;
    double error = 0;
    for (int i = 0; i < width; ++i) {
      const double x = std::fabs(static_cast<double>(stored[i]));
      const double b = static_cast<double>(bound[i]) + (f.rounds ? x * 0x1p-8 : 0.0);
      stored_norm += x * x;
      error += b * b;
    }
    // Rounding on the way in and out: transforms are sums of up to head_width products, in norm.
    double model_norm = 0;
    for (const double x : model) model_norm += x * x;
    const double sums = f.low_rank ? (head_width + width) * std::sqrt(static_cast<double>(width)) : 0;
    const double slack = 0x1p-24 * (sums + 8 + 20 * f.rotations + 4 * f.centres) *
                         (std::sqrt(model_norm) + std::sqrt(stored_norm) + f.mean_norm);
    e.norm_error = std::sqrt(error) + slack;
    if (!f.mixes && facts_.kv_heads == facts_.stored_heads) {
      const bool exact = f.centres == 0;  // nothing but the codec touches a value
      e.channel_error.assign(head_width, exact ? 0.0 : slack);
      for (int i = 0; i < width; ++i) {
        std::size_t channel = static_cast<std::size_t>(i);
        if constexpr (detail::is_pruned<typename stream::dims_policy>) channel = static_cast<std::size_t>(c[channel]);
        const double x = std::fabs(static_cast<double>(stored[i]));
        e.channel_error[channel] += static_cast<double>(bound[i]) + (f.rounds ? x * 0x1p-8 : 0.0);
      }
    }
    return e;
  }

  kvc::calibration<Spec> calibration_;
  kvc::host::cache<Spec> cache_;
  cache_facts facts_;
};

// ---- lists

struct composition {
  std::string name;
  std::unique_ptr<any_cache> (*make)(const kvc::host::cache_options&);
};

template <class... Specs>
std::vector<composition> compositions_of(list<Specs...>) {
  return {{Specs::name().c_str(), [](const kvc::host::cache_options& o) -> std::unique_ptr<any_cache> {
             return std::make_unique<typed_cache<Specs>>(o);
           }}...};
}

// ---- steps

/// Arrays of one step, from the seeds of its rows.
struct step_rows {
  std::vector<float> k, v, q;
};

inline step_rows make_rows(const cache_facts& f, int layer, std::span<const std::uint64_t> seeds) {
  const std::size_t n = seeds.size();
  const std::size_t k_row = static_cast<std::size_t>(f.key_heads() * f.key_width);
  const std::size_t v_row = static_cast<std::size_t>(f.is_latent ? 0 : f.kv_heads * f.head_dim);
  const std::size_t q_row = static_cast<std::size_t>(f.query_heads * f.query_width);
  step_rows r;
  r.k.resize(n * k_row);
  r.v.resize(n * v_row + 1);
  r.q.resize(n * q_row);
  for (std::size_t i = 0; i < n; ++i) {
    const std::uint64_t base = seeds[i] * 64 + static_cast<std::uint64_t>(layer) * 4;
    fill_row(base, r.k.data() + i * k_row, static_cast<int>(k_row), true);
    fill_row(base + 1, r.v.data() + i * v_row, static_cast<int>(v_row), false);
    fill_row(base + 2, r.q.data() + i * q_row, static_cast<int>(q_row), false);
  }
  return r;
}

/// cos and sin of every position and pair, in fp32 as a caller would give them.
inline const std::vector<float>& rotary_table(int dims) {
  static std::vector<float> tables[257];
  std::vector<float>& t = tables[dims];
  if (t.empty()) {
    for (int position = 0; position < 4096; ++position) {
      for (int i = 0; i < dims / 2; ++i) {
        const double angle = position * std::pow(10000.0, -2.0 * i / dims);
        t.push_back(static_cast<float>(std::cos(angle)));
        t.push_back(static_cast<float>(std::sin(angle)));
      }
    }
  }
  return t;
}

inline kvc::attend_params params_of(const cache_facts& f) {
  kvc::attend_params p;
  p.scale = f.scale();
  if (f.is_deferred) p.rotary = {rotary_table(f.rotary_dims).data(), 4096, f.rotary_dims / 2};
  return p;
}

/// Output and lse of one row of a step, all layers and heads one after the other.
struct row_result {
  std::vector<float> out, lse;
};

/// Appends and attends all layers of an open step. Returns results per row.
inline std::vector<row_result> run_layers(any_cache& cache, std::span<const std::uint64_t> seeds,
                                          const kvc::attend_params& params) {
  const cache_facts& f = cache.facts();
  const std::size_t n = seeds.size();
  const std::size_t out_row = static_cast<std::size_t>(f.query_heads * f.output_width);
  const std::size_t lse_row = static_cast<std::size_t>(f.query_heads);
  std::vector<row_result> results(n);
  std::vector<float> out(n * out_row), lse(n * lse_row);
  for (int layer = 0; layer < f.layers; ++layer) {
    const step_rows rows = make_rows(f, layer, seeds);
    if (cache.writes(layer)) cache.append(layer, rows.k.data(), rows.v.data());
    cache.attend(layer, rows.q.data(), out.data(), lse.data(), params);
    for (std::size_t i = 0; i < n; ++i) {
      results[i].out.insert(results[i].out.end(), out.begin() + static_cast<std::ptrdiff_t>(i * out_row),
                            out.begin() + static_cast<std::ptrdiff_t>((i + 1) * out_row));
      results[i].lse.insert(results[i].lse.end(), lse.begin() + static_cast<std::ptrdiff_t>(i * lse_row),
                            lse.begin() + static_cast<std::ptrdiff_t>((i + 1) * lse_row));
    }
  }
  return results;
}

/// Appends only.
inline void append_layers(any_cache& cache, std::span<const std::uint64_t> seeds) {
  for (int layer = 0; layer < cache.facts().layers; ++layer) {
    if (!cache.writes(layer)) continue;
    const step_rows rows = make_rows(cache.facts(), layer, seeds);
    cache.append(layer, rows.k.data(), rows.v.data());
  }
}

/// Whole steps of up to `chunk` rows of one sequence.
inline void fill(any_cache& cache, int sequence, std::span<const std::uint64_t> seeds, std::size_t chunk) {
  for (std::size_t at = 0; at < seeds.size(); at += chunk) {
    const std::span<const std::uint64_t> part = seeds.subspan(at, std::min(chunk, seeds.size() - at));
    cache.reserve(sequence, static_cast<int64>(part.size()));
    append_layers(cache, part);
    cache.commit();
  }
}

inline std::vector<std::uint64_t> seeds_from(std::uint64_t first, std::size_t count) {
  std::vector<std::uint64_t> seeds(count);
  for (std::size_t i = 0; i < count; ++i) seeds[i] = first + i;
  return seeds;
}

inline std::size_t size_of(int64 n) {
  return static_cast<std::size_t>(n);
}

/// Seeds of [begin, end) of a sequence that starts at `first`.
inline std::vector<std::uint64_t> part_of(std::uint64_t first, int64 begin, int64 end) {
  return seeds_from(first + static_cast<std::uint64_t>(begin), size_of(end - begin));
}

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}
inline bool same_bits(const row_result& a, const row_result& b) {
  return same_bits(a.out, b.out) && same_bits(a.lse, b.lse);
}

/// The status of what a call throws; ok where it does not.
template <class Call>
kvc::status status_of(Call&& call) {
  try {
    call();
  } catch (const kvc::error& e) {
    return e.code();
  }
  return kvc::status::ok;
}

}  // namespace kvc_test
