// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "kvc/cache/rows.hpp"

// A saved sequence:
//
//   magic "KVCCACHE" | format version | byte order mark | length of the name | the composition's name
//   layers, query heads, KV heads, slots, tokens per page | leaders [layers]
//   calibration id | rows | payload bytes | payload | FNV-1a of everything before
//
//   payload: per page one byte (1 present, 0 evicted) | per present page and slot: the page | per slot: exact rows
//
// All numbers are little-endian. Pages are in their portable layout, with everything zero that is not a sealed row, and
// the ring's rows are in ascending order: equal sequences give equal files, however they were appended.

namespace kvc::inline v0_1 {

inline constexpr uint32 cache_file_version = 1;

namespace detail {

class byte_writer {
 public:
  void bytes(const void* p, std::size_t n) {
    const byte* b = static_cast<const byte*>(p);
    out_.insert(out_.end(), b, b + n);
  }
  template <class T>
  void number(T x) {
    for (std::size_t i = 0; i < sizeof(T); ++i) out_.push_back(static_cast<byte>(static_cast<uint64>(x) >> (8 * i)));
  }
  std::vector<byte>& out() { return out_; }

 private:
  std::vector<byte> out_;
};

/// Reads with bounds; after a failure all numbers are zero and ok() is false.
class byte_reader {
 public:
  explicit byte_reader(std::span<const byte> in) : in_(in) {}
  bool ok() const { return ok_; }
  std::size_t left() const { return in_.size() - at_; }
  std::span<const byte> bytes(uint64 n) {
    if (n > left()) {
      ok_ = false;
      return {};
    }
    at_ += static_cast<std::size_t>(n);
    return in_.subspan(at_ - static_cast<std::size_t>(n), static_cast<std::size_t>(n));
  }
  template <class T>
  T number() {
    const std::span<const byte> b = bytes(sizeof(T));
    uint64 x = 0;
    for (std::size_t i = 0; i < b.size(); ++i) x |= static_cast<uint64>(b[i]) << (8 * i);
    return static_cast<T>(x);
  }

 private:
  std::span<const byte> in_;
  std::size_t at_ = 0;
  bool ok_ = true;
};

inline uint64 fnv1a(std::span<const byte> bytes) {
  uint64 hash = 14695981039346656037ull;
  for (const byte b : bytes) hash = (hash ^ b) * 1099511628211ull;
  return hash;
}

/// Zeroes what is not a sealed row of a sequence of `length` rows in one stream's segment of page `page`.
template <class Stream>
void clear_unsealed(byte* segment, int64 page, int64 length) {
  const int64 begin = page * Stream::tokens_per_page;
  const int64 low = max_of<int64>(0, Stream::first_rows - begin);
  const int64 high = Stream::seal_boundary(length) - begin;
  for (int64 t = 0; t < Stream::tokens_per_page; ++t) {
    if (t < low || t >= high) std::memset(segment + t * Stream::row_bytes, 0, Stream::row_bytes);
  }
  for (int64 g = 0; g < Stream::tokens_per_page / Stream::tokens_per_group; ++g) {
    const int64 first = g * Stream::tokens_per_group;
    if (first + Stream::tokens_per_group <= low || first >= high) {
      std::memset(segment + Stream::codes_bytes + g * Stream::group_bytes, 0, Stream::group_bytes);
    }
  }
}

/// Exact rows of one stream and head in a saved sequence: first rows, then the ring's rows in ascending order.
template <class Spec, bool First, class Function>
void for_each_exact_row(const stream_rows<Spec, First>& at, int64 length, const Function& f) {
  using stream_type = stream_of<Spec, First>;
  if constexpr (stream_type::exact_rows > 0) {
    for (int64 t = 0; t < min_of<int64>(stream_type::first_rows, length); ++t) f(at.exact_row(t));
  }
  if constexpr (stream_type::has_ring) {
    const int64 open = max_of<int64>(stream_type::seal_boundary(length), stream_type::first_rows);
    for (int64 t = open; t < length; ++t) f(at.ring + t % stream_type::ring_rows * stream_type::exact_row_bytes);
  }
}

template <class Spec, bool First>
int64 saved_exact_rows(int64 length) {
  using stream_type = stream_of<Spec, First>;
  int64 count = 0;
  if constexpr (stream_type::exact_rows > 0) count += min_of<int64>(stream_type::first_rows, length);
  if constexpr (stream_type::has_ring) {
    count += max_of<int64>(0, length - max_of<int64>(stream_type::seal_boundary(length), stream_type::first_rows));
  }
  return count;
}

}  // namespace detail

/// What a cache file says about itself; read before anything is allocated.
struct cache_file_header {
  text name;
  int layers = 0;
  int query_heads = 0;
  int kv_heads = 0;
  int slots = 0;
  int tokens_per_page = 0;
  std::vector<int32> leaders;
  uint64 calibration_id = 0;
  int64 length = 0;
  std::span<const byte> payload;
};

/// Checks magic, version, sizes and checksum of a file and reads its header.
inline status read_cache_file(std::span<const byte> file, cache_file_header& h) {
  detail::byte_reader in(file);
  const std::span<const byte> magic = in.bytes(8);
  if (!in.ok() || std::memcmp(magic.data(), "KVCCACHE", 8) != 0) return status::corrupt_file;
  if (in.number<uint32>() != cache_file_version || in.number<uint32>() != 0x01020304u) return status::corrupt_file;
  const uint32 name_length = in.number<uint32>();
  if (name_length > text::capacity) return status::corrupt_file;
  for (const byte b : in.bytes(name_length)) h.name.push(static_cast<char>(b));
  h.layers = in.number<int32>();
  h.query_heads = in.number<int32>();
  h.kv_heads = in.number<int32>();
  h.slots = in.number<int32>();
  h.tokens_per_page = in.number<int32>();
  if (!in.ok() || h.layers < 1 || h.tokens_per_page < 1 || static_cast<uint64>(h.layers) > in.left() / 4) {
    return status::corrupt_file;
  }
  for (int l = 0; l < h.layers; ++l) h.leaders.push_back(in.number<int32>());
  h.calibration_id = in.number<uint64>();
  h.length = in.number<int64>();
  const uint64 payload = in.number<uint64>();
  if (!in.ok() || h.length < 0 || in.left() < 8 || payload != in.left() - 8) return status::corrupt_file;
  h.payload = in.bytes(payload);
  if (in.number<uint64>() != detail::fnv1a(file.first(file.size() - 8))) return status::corrupt_file;
  return status::ok;
}

/// One committed sequence (index 0 of the step) as bytes.
template <class Spec>
std::vector<byte> write_cache_file(const cache_view<Spec>& view, const step_view& step) {
  const extents<Spec>& e = view.model;
  const int64 length = step.seq_lens[0];
  const int64 pages = ceil_div<int64>(length, Spec::tokens_per_page);
  const int heads = e.stored_heads();

  detail::byte_writer payload;
  for (int64 p = 0; p < pages; ++p) payload.number<uint8>(step.block(0, p) >= 0 ? 1 : 0);
  std::vector<byte> page(static_cast<std::size_t>(Spec::page_bytes(heads)));
  for (int64 p = 0; p < pages; ++p) {
    if (step.block(0, p) < 0) continue;
    for (int s = 0; s < e.slots(); ++s) {
      std::memcpy(page.data(), view.page(s, step.block(0, p)), page.size());
      for (int h = 0; h < heads; ++h) {
        detail::clear_unsealed<typename Spec::first_stream>(
            page.data() + cache_view<Spec>::template segment_offset<true>(h, heads), p, length);
        detail::clear_unsealed<typename Spec::second_stream>(
            page.data() + cache_view<Spec>::template segment_offset<false>(h, heads), p, length);
      }
      payload.bytes(page.data(), page.size());
    }
  }
  for (int s = 0; s < e.slots(); ++s) {
    for (int h = 0; h < heads; ++h) {
      detail::for_each_exact_row(stream_rows<Spec, true>(view, step, 0, s, h), length, [&](const byte* row) {
        payload.bytes(row, static_cast<std::size_t>(Spec::first_stream::exact_row_bytes));
      });
      detail::for_each_exact_row(stream_rows<Spec, false>(view, step, 0, s, h), length, [&](const byte* row) {
        payload.bytes(row, static_cast<std::size_t>(Spec::second_stream::exact_row_bytes));
      });
    }
  }

  detail::byte_writer file;
  file.bytes("KVCCACHE", 8);
  file.number<uint32>(cache_file_version);
  file.number<uint32>(0x01020304u);
  constexpr text name = Spec::name();
  file.number<uint32>(static_cast<uint32>(name.length));
  file.bytes(name.chars, static_cast<std::size_t>(name.length));
  const int32 numbers[] = {e.layers, e.query_heads, e.kv_heads, e.slots(), Spec::tokens_per_page};
  for (const int32 n : numbers) file.number(n);
  for (int l = 0; l < e.layers; ++l) file.number(static_cast<int32>(e.leader(l)));
  file.number<uint64>(view.calibration.id);
  file.number<int64>(length);
  file.number<uint64>(payload.out().size());
  file.bytes(payload.out().data(), payload.out().size());
  file.number<uint64>(detail::fnv1a(file.out()));
  return std::move(file.out());
}

/// Whether a header describes a sequence of this very composition, model shape and calibration, and its payload has the
/// size that follows.
template <class Spec>
status match_cache_file(const cache_file_header& h, const cache_view<Spec>& view) {
  const extents<Spec>& e = view.model;
  constexpr text name = Spec::name();
  if (!(h.name == name) || h.layers != e.layers || h.query_heads != e.query_heads || h.kv_heads != e.kv_heads ||
      h.slots != e.slots() || h.tokens_per_page != Spec::tokens_per_page) {
    return status::other_cache;
  }
  for (int l = 0; l < e.layers; ++l) {
    if (h.leaders[static_cast<std::size_t>(l)] != e.leader(l)) return status::other_cache;
  }
  if (h.calibration_id != view.calibration.id) return status::other_calibration;
  const int64 pages = h.length / Spec::tokens_per_page + (h.length % Spec::tokens_per_page != 0 ? 1 : 0);
  if (static_cast<uint64>(pages) > h.payload.size()) return status::corrupt_file;
  uint64 present = 0;
  const int64 sink_pages = ceil_div<int64>(Spec::tokens_policy::sinks, Spec::tokens_per_page);
  const int64 needed_pages = oldest_needed<Spec>(h.length) / Spec::tokens_per_page;
  for (int64 p = 0; p < pages; ++p) {
    const byte flag = h.payload[static_cast<std::size_t>(p)];
    if (flag > 1 || (flag == 0 && (p < sink_pages || p >= needed_pages))) return status::corrupt_file;
    present += flag;
  }
  const int heads = e.stored_heads();
  const uint64 page_bytes = static_cast<uint64>(Spec::page_bytes(heads)) * static_cast<uint64>(e.slots());
  const uint64 exact =
      static_cast<uint64>(e.slots()) * static_cast<uint64>(heads) *
      static_cast<uint64>(detail::saved_exact_rows<Spec, true>(h.length) * Spec::first_stream::exact_row_bytes +
                          detail::saved_exact_rows<Spec, false>(h.length) * Spec::second_stream::exact_row_bytes);
  if (present > h.payload.size() / page_bytes + 1) return status::corrupt_file;
  if (static_cast<uint64>(pages) + present * page_bytes + exact != h.payload.size()) return status::corrupt_file;
  return status::ok;
}

/// Copies the payload of a matching file into the pages and tail of the step's sequence 0.
template <class Spec>
void read_payload(const cache_file_header& h, const cache_view<Spec>& view, const step_view& step) {
  detail::byte_reader in(h.payload);
  const int64 pages = ceil_div<int64>(h.length, Spec::tokens_per_page);
  const int heads = view.model.stored_heads();
  const std::size_t page_bytes = static_cast<std::size_t>(Spec::page_bytes(heads));
  in.bytes(static_cast<uint64>(pages));
  for (int64 p = 0; p < pages; ++p) {
    if (step.block(0, p) < 0) continue;
    for (int s = 0; s < view.model.slots(); ++s)
      std::memcpy(view.page(s, step.block(0, p)), in.bytes(page_bytes).data(), page_bytes);
  }
  for (int s = 0; s < view.model.slots(); ++s) {
    for (int head = 0; head < heads; ++head) {
      detail::for_each_exact_row(stream_rows<Spec, true>(view, step, 0, s, head), h.length, [&](byte* row) {
        constexpr std::size_t n = static_cast<std::size_t>(Spec::first_stream::exact_row_bytes);
        std::memcpy(row, in.bytes(n).data(), n);
      });
      detail::for_each_exact_row(stream_rows<Spec, false>(view, step, 0, s, head), h.length, [&](byte* row) {
        constexpr std::size_t n = static_cast<std::size_t>(Spec::second_stream::exact_row_bytes);
        std::memcpy(row, in.bytes(n).data(), n);
      });
    }
  }
}

}  // namespace kvc::inline v0_1
