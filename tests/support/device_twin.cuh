// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <doctest/doctest.h>

#include <kvc/cuda.cuh>
#include <string>
#include <vector>

#include "model_cache.hpp"

// A host::cache and the same memory on the device: every step is done on both sides, and the bytes must agree.

namespace kvc_test {

/// Ends the test case where the runtime says that something failed.
inline void require_cuda(cudaError_t code, const char* what) {
  REQUIRE_MESSAGE(code == cudaSuccess, what, ": ", std::string(cudaGetErrorString(code)));
}

/// Device memory with a copy of a host array; zeroed where there is none.
template <class T>
class device_array {
 public:
  device_array() = default;
  device_array(const T* host, std::size_t count) : count_(count) {
    require_cuda(cudaMalloc(&data_, bytes() + 16), "cudaMalloc");
    if (host == nullptr) {
      require_cuda(cudaMemset(data_, 0, bytes() + 16), "cudaMemset");
    } else if (count > 0) {
      require_cuda(cudaMemcpy(data_, host, bytes(), cudaMemcpyHostToDevice), "cudaMemcpy");
    }
  }
  explicit device_array(const std::vector<T>& host) : device_array(host.data(), host.size()) {}
  device_array(device_array&& other) noexcept { *this = std::move(other); }
  device_array& operator=(device_array&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(count_, other.count_);
    return *this;
  }
  ~device_array() { cudaFree(data_); }

  T* data() const { return data_; }
  std::size_t size() const { return count_; }
  std::size_t bytes() const { return count_ * sizeof(T); }
  void set(const T* host, std::size_t count) const {
    REQUIRE(count <= count_);
    require_cuda(cudaMemcpy(data_, host, count * sizeof(T), cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  void copy_from(const device_array& other) const {
    REQUIRE(other.count_ == count_);
    require_cuda(cudaMemcpy(data_, other.data_, bytes(), cudaMemcpyDeviceToDevice), "cudaMemcpy");
  }
  std::vector<T> back() const {
    std::vector<T> out(count_);
    if (count_ > 0) require_cuda(cudaMemcpy(out.data(), data_, bytes(), cudaMemcpyDeviceToHost), "cudaMemcpy");
    return out;
  }

 private:
  T* data_ = nullptr;
  std::size_t count_ = 0;
};

/// The arrays of a step on the device, and its bounds.
struct device_step {
  device_array<kvc::int32> ids, table;
  device_array<int64> lengths, indptr;
  kvc::step_view view;
  kvc::cuda::step_bounds bounds;

  device_step(const kvc::step_view& s, kvc::uint32* report)
      : ids(s.sequence_ids, static_cast<std::size_t>(s.sequences)),
        table(s.block_table, static_cast<std::size_t>(s.sequences * s.block_table_stride)),
        lengths(s.seq_lens, static_cast<std::size_t>(s.sequences)),
        indptr(s.row_indptr, static_cast<std::size_t>(s.sequences + 1)) {
    view = {s.sequences, ids.data(), lengths.data(), indptr.data(), table.data(), s.block_table_stride};
    bounds.sequences = s.sequences;
    bounds.total_rows = s.total_rows();
    bounds.report = report;
    for (int i = 0; i < s.sequences; ++i) {
      bounds.max_rows = std::max(bounds.max_rows, s.rows(i));
      bounds.max_length = std::max(bounds.max_length, s.seq_lens[i] + s.rows(i));
    }
  }
};

/// Device memory of the size and with the content of a host cache's.
template <class Spec>
class device_twin {
 public:
  explicit device_twin(const kvc::host::cache<Spec>& cache)
      : host_(cache.view()),
        pages_(host_.pages, size(kvc::page_pool_bytes<Spec>(host_.model, host_.blocks))),
        tails_(host_.tails, size(kvc::tail_pool_bytes<Spec>(host_.model, host_.sequences))),
        staging_(host_.staging, size(kvc::staging_bytes<Spec>(host_.model, host_.staging_rows))),
        constants_(host_.calibration.data,
                   size(host_.calibration.head_floats * host_.model.slots() * host_.calibration.heads)),
        report_(nullptr, 1) {}

  kvc::cache_view<Spec> view() const {
    kvc::cache_view<Spec> v = host_;
    v.pages = pages_.data();
    v.tails = tails_.size() > 0 ? tails_.data() : nullptr;
    v.staging = staging_.size() > 0 ? staging_.data() : nullptr;
    v.calibration.data = constants_.data();
    return v;
  }
  kvc::uint32* report() const { return report_.data(); }
  /// What the kernels reported since the last time.
  kvc::uint32 reported() const {
    require_cuda(cudaDeviceSynchronize(), "a kernel");
    const kvc::uint32 code = report_.back()[0];
    const kvc::uint32 zero = 0;
    report_.set(&zero, 1);
    return code;
  }

  /// The device's bytes over the host's: then what host code makes of them can be compared.
  struct snapshot {
    std::vector<byte> pages, tails, staging;
    kvc::cache_view<Spec> view;
  };
  snapshot back() const {
    require_cuda(cudaDeviceSynchronize(), "a kernel");
    snapshot s{pages_.back(), tails_.back(), staging_.back(), host_};
    s.view.pages = s.pages.data();
    s.view.tails = s.tails.data();
    s.view.staging = s.staging.data();
    return s;
  }
  std::vector<byte> pages() const { return pages_.back(); }
  /// Takes over what another twin of the same cache holds.
  void copy_from(const device_twin& other) const {
    pages_.copy_from(other.pages_);
    tails_.copy_from(other.tails_);
    staging_.copy_from(other.staging_);
  }

 private:
  static std::size_t size(int64 n) { return static_cast<std::size_t>(n); }

  kvc::cache_view<Spec> host_;
  device_array<byte> pages_, tails_, staging_;
  device_array<float> constants_;
  device_array<kvc::uint32> report_;
};

/// Rows of a step: outliers, zeros of both signs, constant groups, and where `wild`, NaN and infinities.
inline std::vector<float> step_values(std::uint64_t seed, std::size_t count, bool wild) {
  std::vector<float> x(count);
  generator random(seed);
  const int64 kind = random.below(4);
  for (std::size_t i = 0; i < count; ++i) {
    x[i] = random.normal();
    if (kind == 1 && i % 5 != 0) x[i] = i % 2 == 0 ? 0.0f : -0.0f;
    if (kind == 2 && i % 64 < 40) x[i] = 1.5f;
    if (wild && random.below(97) == 0) x[i] = i % 3 == 0 ? std::nanf("") : (i % 3 == 1 ? INFINITY : -INFINITY);
  }
  return x;
}

/// Elements of type T in memory, from floats.
template <class T>
std::vector<T> elements(const std::vector<float>& x) {
  std::vector<T> out(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) kvc::from_float(x[i], out[i]);
  return out;
}

/// The rows of one layer and step, the same on both sides.
template <class Spec, class T>
struct layer_rows {
  std::vector<T> k, v;
  device_array<T> device_k, device_v;

  layer_rows(const kvc::extents<Spec>& e, int64 rows, std::uint64_t seed, bool wild) {
    const std::size_t heads = static_cast<std::size_t>(Spec::is_latent ? 1 : e.kv_heads);
    k = elements<T>(step_values(seed, heads * static_cast<std::size_t>(rows * Spec::key_width), wild));
    v = elements<T>(step_values(seed + 1, heads * static_cast<std::size_t>(rows * Spec::shape_type::head_dim), wild));
    device_k = device_array<T>(k);
    device_v = device_array<T>(v);
  }
  layer_rows(std::vector<T> keys, std::vector<T> values)
      : k(std::move(keys)), v(std::move(values)), device_k(k), device_v(v) {}
  template <class Params = kvc::rows_as_given>
  void append(kvc::host::cache<Spec>& cache, int layer, const Params& params = {}) const {
    if constexpr (Spec::is_latent) {
      cache.append(layer, k.data(), params);
    } else {
      cache.append(layer, k.data(), v.data(), params);
    }
  }
  template <class Params = kvc::rows_as_given>
  kvc::status append(const kvc::cache_view<Spec>& view, const kvc::step_view& step,
                     const kvc::cuda::step_bounds& bounds, int layer, cudaStream_t stream = nullptr,
                     const Params& params = {}) const {
    const auto keys =
        kvc::contiguous_rows<const T>(device_k.data(), Spec::is_latent ? 1 : view.model.kv_heads, Spec::key_width);
    if constexpr (Spec::is_latent) {
      return kvc::cuda::append<Spec, T>(view, step, bounds, layer, keys, stream, params);
    } else {
      const auto values =
          kvc::contiguous_rows<const T>(device_v.data(), view.model.kv_heads, Spec::shape_type::head_dim);
      return kvc::cuda::append<Spec, T>(view, step, bounds, layer, keys, values, stream, params);
    }
  }
};

/// Saved bytes of a sequence from a snapshot of the device's memory.
template <class Spec>
std::vector<byte> saved(const typename device_twin<Spec>::snapshot& s, const kvc::step_view& committed, int index) {
  kvc::step_view one = committed;
  const kvc::int32 id = committed.sequence_id(index);
  const int64 indptr[2] = {0, 0};
  one.sequences = 1;
  one.sequence_ids = &id;
  one.seq_lens = committed.seq_lens + index;
  one.row_indptr = indptr;
  one.block_table = committed.block_table + index * committed.block_table_stride;
  return kvc::write_cache_file<Spec>(s.view, one);
}

/// How many bytes of two pages pools differ: for what passes a matrix product.
inline int64 differing(const std::vector<byte>& a, const std::vector<byte>& b) {
  int64 count = a.size() == b.size() ? 0 : 1 << 30;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) count += a[i] != b[i] ? 1 : 0;
  return count;
}

/// Elements of the only sequence of a committed step that two sides have too far apart. Where sums are rounded in
/// another order, a code may be its neighbour, and a constant differ in its last place. So what rows decode to may
/// differ by a step of the codec (its bound is half of one; that of decoded rows may be a fourth less, and two steps
/// are too far), by 2^-10 of the row's largest for the constants, and 2^-13 of the row's norm for the sums; rows that
/// are or were exact by a last bit of bf16.
template <class Spec, bool First>
int64 too_far_apart(const kvc::cache_view<Spec>& a, const kvc::cache_view<Spec>& b, const kvc::step_view& step) {
  using rows_type = kvc::stream_rows<Spec, First>;
  using stream_type = typename rows_type::stream_type;
  constexpr int width = stream_type::width;
  constexpr int64 per_group = stream_type::tokens_per_group;
  const int64 length = step.seq_lens[0];
  const int64 sealed = stream_type::seal_boundary(length);
  int64 found = 0;
  const auto compare_row = [&](const float* x, const float* y, const float* x_bound, const float* y_bound) {
    double square = 0, largest = 0;
    for (int i = 0; i < width; ++i) {
      const double size = std::max(std::abs(static_cast<double>(x[i])), std::abs(static_cast<double>(y[i])));
      if (!std::isfinite(size)) continue;
      square += size * size;
      largest = std::max(largest, size);
    }
    const double last_bit = stream_type::exact_rows > 0 ? 0x1p-7 : 0;
    for (int i = 0; i < width; ++i) {
      if (!std::isfinite(x[i]) || !std::isfinite(y[i])) {
        found += std::isfinite(x[i]) != std::isfinite(y[i]) ? 1 : 0;
        continue;
      }
      const double step_size = 2 * static_cast<double>(std::max(x_bound[i], y_bound[i]));
      const double tolerance = 1.5 * step_size + 0x1p-10 * largest + 0x1p-13 * std::sqrt(square) +
                               last_bit * std::abs(static_cast<double>(x[i]));
      found += std::abs(static_cast<double>(x[i]) - static_cast<double>(y[i])) > tolerance ? 1 : 0;
    }
  };
  for (int slot = 0; slot < a.model.slots(); ++slot) {
    for (int head = 0; head < a.model.stored_heads(); ++head) {
      const rows_type of[2] = {rows_type(a, step, 0, slot, head), rows_type(b, step, 0, slot, head)};
      for (int64 t = 0, end = 0; t < length; t = end) {
        const bool is_exact = t < stream_type::first_rows || t >= sealed;
        end = is_exact ? t + 1 : std::min(sealed, (t / per_group + 1) * per_group);
        if (!is_exact && of[0].segment_of(t) == nullptr) continue;  // evicted
        const auto rows = static_cast<std::size_t>(end - t);
        std::vector<float> x[2], bound[2];
        for (int side = 0; side < 2; ++side) {
          x[side].assign(rows * width, 0);
          bound[side].assign(rows * width, 0);
          if (is_exact) {
            rows_type::read_exact(of[side].exact_row(t), x[side].data());
          } else {
            of[side].decode(t, static_cast<int>(rows), x[side].data());
            stream_type::codec::template bound<width>(x[side].data(), 0, static_cast<int>(rows), bound[side].data());
          }
        }
        for (std::size_t i = 0; i < rows * width; i += width) {
          compare_row(&x[0][i], &x[1][i], &bound[0][i], &bound[1][i]);
        }
      }
    }
  }
  return found;
}
template <class Spec>
int64 too_far_apart(const kvc::cache_view<Spec>& a, const kvc::cache_view<Spec>& b, const kvc::step_view& step) {
  return too_far_apart<Spec, true>(a, b, step) + too_far_apart<Spec, false>(a, b, step);
}

/// What a composition must do on the device: random chunks of a ragged batch, each appended on both sides.
///   exact: the bytes are equal; else (a sum precedes the encoder) a few may differ, codes by one, and how many is
///   said. host_params, device_params: append's parameters on either side; constants: its calibration, if any.
template <class Spec, class T = kvc::bf16, class Params = kvc::rows_as_given>
void same_bytes_as_host(std::uint64_t seed, bool exact = true, bool wild = true, const Params& host_params = {},
                        const Params& device_params = {}, const kvc::calibration<Spec>* constants = nullptr) {
  constexpr kvc::text name = Spec::name();
  CAPTURE(name.c_str());
  kvc::host::cache<Spec> cache({.capacity = 1024, .max_sequences = 4, .max_step_rows = 300}, extents_of<Spec>(),
                               constants);
  const device_twin<Spec> twin(cache);
  const kvc::extents<Spec> e = cache.model();
  generator random(seed);
  std::vector<int> ids;
  for (int i = 0; i < 4; ++i) ids.push_back(cache.add_sequence());
  const int64 page = Spec::tokens_per_page;
  int64 compared = 0, different = 0;
  for (int step = 0; step < 10; ++step) {
    // Ragged: nothing, one row, a page but one, a whole page and one, many.
    std::vector<step_request> requests;
    const int64 sizes[] = {0, 1, page - 1, page + 1, 1, random.between(1, 40)};
    for (const int id : ids) {
      const int64 rows = sizes[random.below(6)];
      if (cache.length(id) + rows <= 230) requests.push_back({id, rows});
    }
    if (cache.try_reserve(requests) != kvc::status::ok) continue;
    const device_step on_device(cache.step(), twin.report());
    for (int layer = 0; layer < e.layers; ++layer) {
      if (!e.writes(layer)) continue;
      const layer_rows<Spec, T> rows(e, on_device.bounds.total_rows, seed * 1000 + step * 10 + layer, wild);
      rows.append(cache, layer, host_params);
      REQUIRE(rows.append(twin.view(), on_device.view, on_device.bounds, layer, nullptr, device_params) ==
              kvc::status::ok);
    }
    // Some of the rows are accepted.
    std::vector<int64> accepted;
    for (const step_request& r : requests) accepted.push_back(step % 3 == 2 ? random.between(0, r.rows) : r.rows);
    const device_array<int64> device_accepted(accepted);
    REQUIRE(kvc::cuda::commit<Spec>(twin.view(), on_device.view, on_device.bounds, device_accepted.data(), nullptr) ==
            kvc::status::ok);
    cache.commit(accepted);
    CHECK(twin.reported() == 0);
    const auto snapshot = twin.back();
    for (const int id : ids) {
      const std::vector<byte> file = cache.save(id);
      cache.reserve(id, 0);
      const std::vector<byte> of_device = saved<Spec>(snapshot, cache.step(), 0);
      if (exact) {
        CHECK(file == of_device);
      } else {
        CHECK(file.size() == of_device.size());
        CHECK(too_far_apart<Spec>(cache.view(), snapshot.view, cache.step()) == 0);
      }
      cache.abandon();
      compared += static_cast<int64>(file.size());
      different += std::max<int64>(0, differing(file, of_device) - 8);  // of the checksum
    }
  }
  CHECK(compared > 0);
  if (!exact) {
    MESSAGE(name.c_str(), ": ", different, " of ", compared, " bytes differ");
    CHECK(different * 200 <= compared);
  }

  // The comparison can fail: a nibble of the device's pages is changed, or the first bits of the codes of a page's rows
  // (whose groups a NaN may all decide).
  using first_stream = typename Spec::first_stream;
  const int id = ids[0];
  const int64 first = first_stream::first_rows;
  const int64 end = std::min(page, first_stream::seal_boundary(cache.length(id)));
  if (cache.length(id) <= page || end <= first || (!exact && wild)) return;
  auto altered = twin.back();
  cache.reserve(id, 0);
  const kvc::step_view s = cache.step();
  REQUIRE(s.block(0, 0) >= 0);
  byte* const codes = altered.view.page(0, s.block(0, 0));
  if (exact) {
    codes[first * first_stream::row_bytes] ^= 0x10;
    CHECK(saved<Spec>(altered, s, 0) != saved<Spec>(twin.back(), s, 0));
  } else {
    for (int64 i = first * first_stream::row_bytes; i < end * first_stream::row_bytes; ++i) codes[i] ^= 0x80;
    CHECK(too_far_apart<Spec>(cache.view(), altered.view, s) > 0);
  }
  cache.abandon();
}

}  // namespace kvc_test
