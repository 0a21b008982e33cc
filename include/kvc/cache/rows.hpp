// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cache/transform.hpp"
#include "kvc/cache/view.hpp"

// Where the rows of one stream of one sequence, slot and stored head are, and how to write and read them: the tile
// functions that append and attend are made of. No allocation, no launch, the same code on host and device.

namespace kvc::inline v0_1 {

namespace detail {
template <class Spec, bool First>
struct stream_at {
  using type = typename Spec::first_stream;
};
template <class Spec>
struct stream_at<Spec, false> {
  using type = typename Spec::second_stream;
};
}  // namespace detail

/// The first stream of a composition (keys, latent), or the second (values, rotary key).
template <class Spec, bool First>
using stream_of = typename detail::stream_at<Spec, First>::type;

/// The oldest row, sinks aside, that a sequence of `length` rows still needs: what the query at `length` sees, and what
/// waits in the tail to be sealed into its page.
template <class Spec>
KVC_HD constexpr int64 oldest_needed(int64 length) {
  const int64 seen = Spec::tokens_policy::window > 0 ? max_of<int64>(0, length - Spec::tokens_policy::window + 1) : 0;
  return min_of(seen, min_of(Spec::first_stream::seal_boundary(length), Spec::second_stream::seal_boundary(length)));
}

template <class Spec, bool First>
struct stream_rows {
  using stream_type = stream_of<Spec, First>;
  using codec = typename stream_type::codec;
  static constexpr int width = stream_type::width;
  static constexpr int per_page = stream_type::tokens_per_page;
  static constexpr int per_group = stream_type::tokens_per_group;

  const cache_view<Spec>* view;
  const step_view* step;
  int index;  ///< of the sequence in the step
  int slot;
  int head;
  int64 committed;  ///< rows of the sequence before the step
  int64 segment;    ///< offset of the segment in a page
  byte* first;      ///< [first_rows][width] bf16
  byte* ring;       ///< [ring_rows][width] bf16
  byte* staged;     ///< [rows of this sequence's step][width] bf16

  KVC_HD stream_rows(const cache_view<Spec>& v, const step_view& s, int i, int slot_index, int head_index)
      : view(&v), step(&s), index(i), slot(slot_index), head(head_index), committed(s.seq_lens[i]) {
    segment = cache_view<Spec>::template segment_offset<First>(head, v.model.stored_heads());
    first = ring = staged = nullptr;
    if constexpr (stream_type::exact_rows > 0) {
      first = v.template exact<First>(s.sequence_id(i), slot, head);
      ring = first + stream_type::first_rows * stream_type::exact_row_bytes;
    }
    if constexpr (stream_type::has_ring) {
      staged = v.template staged<First>(slot, head) + s.row_indptr[i] * stream_type::exact_row_bytes;
    }
  }

  /// The segment that holds row t, or null if its page was freed.
  KVC_HD byte* segment_of(int64 t) const {
    const int32 block = step->block(index, t / per_page);
    return block < 0 ? nullptr : view->page(slot, block) + segment;
  }

  /// The bf16 row t, which is a first row, or not sealed yet.
  KVC_HD byte* exact_row(int64 t) const {
    if (t < stream_type::first_rows) return first + t * stream_type::exact_row_bytes;
    if constexpr (stream_type::has_ring) {
      if (t >= committed) return staged + (t - committed) * stream_type::exact_row_bytes;
      return ring + t % stream_type::ring_rows * stream_type::exact_row_bytes;
    }
    return nullptr;
  }

  template <class Team = serial_team>
  KVC_HD static void write_exact(const float* x, byte* row, Team team = {}) {
    if constexpr (Team::size() == 1) {
      for (int i = 0; i < width; ++i) {
        const bf16 b = bf16::from(x[i]);
        row[2 * i] = static_cast<byte>(b.bits);
        row[2 * i + 1] = static_cast<byte>(b.bits >> 8);
      }
    } else {  // four channels at a time: exact rows are aligned to 16 bytes
      for (int i = team.rank() * 4; i < width; i += team.size() * 4) {
        uint64 word = 0;
        for (int c = 0; c < 4; ++c) word |= static_cast<uint64>(bf16::from(x[i + c]).bits) << (16 * c);
        *reinterpret_cast<uint64*>(row + 2 * i) = word;
      }
      team.sync();
    }
  }
  /// The same of a row in its team's registers, which is rounded.
  template <class Team>
  KVC_HD static void write_exact_share(const float* x, byte* row, Team team) {
    constexpr int own = width / Team::size();
    for (int i = 0; i < own; i += 8) {
      alignas(16) uint32 words[4];
      for (int w = 0; w < 4; ++w) {
        words[w] = (float_bits(x[i + 2 * w]) >> 16) | (float_bits(x[i + 2 * w + 1]) & 0xffff0000u);
      }
      __builtin_memcpy(__builtin_assume_aligned(row + 2 * (team.rank() * own + i), 16), words, 16);
    }
  }
  template <class Team = serial_team>
  KVC_HD static void read_exact(const byte* row, float* x, Team team = {}) {
    if constexpr (Team::size() == 1) {
      for (int i = 0; i < width; ++i) {
        bf16 b;
        __builtin_memcpy(&b, row + 2 * i, 2);
        x[i] = b.value();
      }
    } else {
      for (int i = team.rank() * 4; i < width; i += team.size() * 4) read_four(row, i, x);
      team.sync();
    }
  }
  /// Channels [i, i + 4).
  KVC_HD static void read_four(const byte* row, int i, float* x) {
    const uint64 word = *reinterpret_cast<const uint64*>(row + 2 * i);
    for (int c = 0; c < 4; ++c) x[i + c] = bf16{static_cast<uint16>(word >> (16 * c))}.value();
  }

  /// Encodes rows [t, t + count) of one group of tokens, x: [count][width].
  template <class Team = serial_team>
  KVC_HD void encode(const float* x, int64 t, int count, Team team = {}) const {
    encode_in(segment_of(t), static_cast<int>(t % per_page), x, count, team);
  }
  /// The same from the row `in_page` of a segment on.
  template <class Team>
  KVC_HD static void encode_in(byte* s, int in_page, const float* x, int count, Team team) {
    const int group = in_page / per_group;
    const int begin = in_page - group * per_group;
    byte* codes = s + static_cast<int64>(group) * per_group * stream_type::row_bytes;
    byte* constants = s + stream_type::codes_bytes + static_cast<int64>(group) * stream_type::group_bytes;
    if constexpr (encode_takes_team<Team>) {
      codec::template encode<width>(x, begin, begin + count, codes, constants, team);
    } else {
      if (team.rank() == 0) codec::template encode<width>(x, begin, begin + count, codes, constants);
      team.sync();
    }
  }
  /// Encodes one row that lies in its team's registers as the row `in_page` of a segment, where `stores`.
  template <class Team>
  KVC_HD static void encode_share_in(byte* s, int in_page, const float* x, bool stores, Team team) {
    static_assert(per_group == 1);
    codec::template encode_share<width>(
        x, s + static_cast<int64>(in_page) * stream_type::row_bytes,
        s + stream_type::codes_bytes + static_cast<int64>(in_page) * stream_type::group_bytes, stores, team);
  }
  template <class Team>
  static constexpr bool encode_takes_team = quant::detail::encode_takes_team<codec, width, Team>;

  /// Decodes the sealed rows [t, t + count) of one page into x: [count][width].
  KVC_HD void decode(int64 t, int count, float* x) const {
    const byte* s = segment_of(t);
    int in_page = static_cast<int>(t % per_page);
    if constexpr (per_group == 1 && requires { requires codec::decodes_runs; }) {
      codec::template decode<width>(s, s + stream_type::codes_bytes, in_page, in_page + count, x);
    } else {
      while (count > 0) {
        const int group = in_page / per_group;
        const int begin = in_page - group * per_group;
        const int n = min_of(count, per_group - begin);
        codec::template decode<width>(
            s + static_cast<int64>(group) * per_group * stream_type::row_bytes,
            s + stream_type::codes_bytes + static_cast<int64>(group) * stream_type::group_bytes, begin, begin + n, x);
        x += n * width;
        in_page += n;
        count -= n;
      }
    }
  }

  /// Decodes the sealed row t into x: [width]; the team's threads take 16 channels at a time, where the codec can.
  template <class Team>
  KVC_HD void decode_row(int64 t, float* x, Team team) const {
    if constexpr (quant::detail::has_decode_channels<codec, width>) {
      const int in_page = static_cast<int>(t % per_page);
      const byte* s = segment_of(t);
      const byte* codes = s + static_cast<int64>(in_page) * stream_type::row_bytes;
      const byte* constants =
          s + stream_type::codes_bytes + static_cast<int64>(in_page / per_group) * stream_type::group_bytes;
      constexpr int chunk = quant::chunk_channels;
      for (int c = team.rank() * chunk; c < width; c += Team::size() * chunk) {
        float channels[chunk];
        codec::template decode_channels<width>(codes, constants, c, channels);
        for (int i = 0; i < chunk; ++i) {
          if (c + i < width) x[c + i] = channels[i];
        }
      }
    } else {
      if (team.rank() == 0) decode(t, 1, x);
    }
    team.sync();
  }

  /// Reads row t as it stands for a query that sees `length` rows: first, sealed or exact. x: [width].
  KVC_HD void read(int64 t, int64 length, float* x) const {
    if (t >= stream_type::first_rows && t < stream_type::seal_boundary(length)) {
      decode(t, 1, x);
    } else {
      read_exact(exact_row(t), x);
    }
  }
};

}  // namespace kvc::inline v0_1
