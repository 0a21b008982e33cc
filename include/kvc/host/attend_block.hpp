// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <type_traits>

#include "kvc/attention/params.hpp"
#include "kvc/attention/state.hpp"
#include "kvc/host/attend_plan.hpp"
#include "kvc/host/simd/compiled.hpp"

// A block of query rows over one tile of a stored head: what an attend's inner loop does. See attend_item.hpp.

namespace kvc::inline v0_1::host::detail {

template <class Spec, class T>
struct attend_block {
  using shape = attend_shape<Spec>;
  using first_tile = typename shape::first_tile;
  using second_tile = typename shape::second_tile;
  using first_stream = typename Spec::first_stream;
  using second_stream = typename Spec::second_stream;
  using value_stream = stream_of<Spec, Spec::values_are_first>;
  struct nothing {};
  template <bool Packed, bool First, class = void>
  struct packed_of {
    using rows = nothing;
    using sums = nothing;
  };
  template <bool First, class Void>
  struct packed_of<true, First, Void> {
    using rows = packed_rows<Spec, First>;
    using sums = packed_sums<Spec, First>;
  };

  const cache_view<Spec>& view;
  const step_view& step;
  int slot;
  rows_view<const T> q;
  rows_view<float> out;
  float* lse;
  const attend_params& params;
  const kernel_table& kernels = detail::kernels();
  float* partials = nullptr;  ///< [cut units][most_partials][partial_floats]
  int64 most_partials = 0;
  int live = 0;  ///< where the sums of the unit at hand begin: what is before stays zero

  // Scratch of this slice.
  float* queries;            ///< [queries][query_pitch], folded
  float* constants;          ///< [queries], what folding adds to every score
  float* factors;            ///< [queries], for what was summed before a tile
  float* sums[2];            ///< [queries][sum_pitch]: the split's, the item's
  softmax_state* states[2];  ///< [queries]
  float* scores;             ///< [queries][most_rows]
  float* extra_scores;       ///< the same, of a second stream with exact rows
  uint8* seen;               ///< [query rows][most_rows], 255 where a row is seen
  uint8* sealed;             ///< the same, where it is also attended as codes
  byte* buffer;
  first_tile first;
  second_tile second;
  typename packed_of<shape::first_is_packed, true>::rows first_codes;
  typename packed_of<shape::second_is_packed, false>::rows second_codes;
  typename packed_of<shape::values_are_packed, Spec::is_latent>::sums code_sums;

  attend_block(const cache_view<Spec>& v, const step_view& s, int slot_index, rows_view<const T> query_rows,
               rows_view<float> outputs, float* lse_out, const attend_params& p)
      : view(v), step(s), slot(slot_index), q(query_rows), out(outputs), lse(lse_out), params(p) {}

  void carve(byte* at) {
    const int group = view.model.group();
    const int64 count = shape::block_queries(group);
    const auto bytes = [&at](int64 n) {
      byte* p = at;
      at += round_up<int64>(n, 64);
      return p;
    };
    float* next = reinterpret_cast<float*>(at);
    const byte* begin = at;
    const auto take = [&next](int64 floats) {
      float* p = next;
      next += floats;
      return p;
    };
    queries = take(count * shape::query_pitch);
    sums[0] = take(count * shape::sum_pitch);
    sums[1] = take(count * shape::sum_pitch);
    scores = take(count * shape::most_rows);
    extra_scores = take(shape::has_extra_scores ? count * shape::most_rows : 0);
    first.sealed = take(shape::template fp32_rows<shape::first_is_packed> * first_tile::pitch);
    first.exact = take(shape::template exact_rows<first_stream> * first_tile::pitch);
    second.sealed = take(shape::template fp32_rows<shape::second_is_packed> * second_tile::pitch);
    second.exact = take(shape::template exact_rows<second_stream> * second_tile::pitch);
    states[0] = reinterpret_cast<softmax_state*>(take(2 * count));
    states[1] = reinterpret_cast<softmax_state*>(take(2 * count));
    constants = take(count);
    factors = take(count);
    bytes(reinterpret_cast<byte*>(next) - begin);
    seen = bytes(shape::block_rows(group) * shape::most_rows);
    sealed = bytes(shape::block_rows(group) * shape::most_rows);
    if constexpr (shape::first_is_packed) at = first_codes.carve(at, count);
    if constexpr (shape::second_is_packed) at = second_codes.carve(at, count);
    if constexpr (shape::values_are_packed) at = code_sums.carve(at, count);
    if constexpr (shape::values_are_packed) buffer = bytes(shape::code_buffer_bytes());
  }

  float* sums_of(int which, int query) const { return sums[which] + static_cast<int64>(query) * shape::sum_pitch; }
  const float* first_constants(int head) const { return view.calibration.first(slot, head); }
  const float* second_constants(int head) const { return view.calibration.second(slot, head); }

  /// Queries of rows [row, row + rows) of the step and of the group of `head` into the stored space. Returns whether
  /// all are finite.
  bool fold(int head, int64 row, int rows) {
    const int group = view.model.group();
    float model_query[Spec::query_width];
    uint32 not_finite = 0;
    for (int i = 0; i < rows * group; ++i) {
      const T* source = q.at(row + i / group, head * group + i % group);
      for (int c = 0; c < Spec::query_width; ++c) model_query[c] = to_float(source[c]);
      float* folded = queries + i * shape::query_pitch;
      for (int c = 0; c < shape::query_pitch; ++c) folded[c] = 0;
      constants[i] = transform<first_stream>::fold_query(model_query, folded, first_constants(head));
      if constexpr (Spec::is_latent) {
        constants[i] += transform<second_stream>::fold_query(model_query + first_stream::model_width,
                                                             folded + first_tile::pitch, second_constants(head));
      }
      for (int c = 0; c < shape::query_pitch; ++c) not_finite |= is_finite(folded[c]) ? 0u : 1u;
    }
    return not_finite == 0;
  }

  // ---- one tile

  /// A tile's rows, and the query rows [0, rows) of a block.
  struct tile_rows {
    int64 begin;
    int64 end;
    int64 earliest;  ///< position of the block's first query
    int rows;
    bool is_uniform;  ///< all queries see the whole tile, and from the same sources

    int count() const { return static_cast<int>(end - begin); }
    int blocks() const { return (count() + block_rows - 1) / block_rows; }
  };
  /// Queries [begin, begin + count) of a block, which see `length` rows: these ranges of a tile.
  struct seen_rows {
    int begin;
    int count;
    int64 length;
    int range_count;
    row_range ranges[2];
  };

  /// The rows of a tile that the query at `position` sees, as up to two ranges relative to the tile.
  int ranges_in(int64 position, int64 tile, int64 tile_end, row_range* ranges) const {
    using tokens = typename Spec::tokens_policy;
    const visible_rows v = visible_at(position, tokens::sinks, tokens::window, params.window);
    int count = 0;
    const row_range both[] = {v.sinks, v.recent};
    for (const row_range& r : both) {
      const row_range in = r.within(tile, tile_end);
      if (!in.empty()) ranges[count++] = {in.begin - tile, in.end - tile};
    }
    return count;
  }

  /// Calls f(seen_rows) for all queries at once, or for those of each row that sees something of the tile.
  template <class Function>
  void for_queries(const tile_rows& t, const Function& f) const {
    const int group = view.model.group();
    if (t.is_uniform) {
      f(seen_rows{0, t.rows * group, t.earliest + t.rows, 1, {{0, t.end - t.begin}, {}}});
      return;
    }
    for (int n = 0; n < t.rows; ++n) {
      seen_rows s{n * group, group, t.earliest + n + 1, 0, {}};
      s.range_count = ranges_in(t.earliest + n, t.begin, t.end, s.ranges);
      if (s.range_count > 0) f(s);
    }
  }
  /// Calls f(segment) for the parts of those ranges that lie in one of a tile's two buffers.
  template <class Tile, class Function>
  static void for_segments(const tile_rows& t, const seen_rows& s, const Function& f) {
    tile_segment segments[3];
    for (int r = 0; r < s.range_count; ++r) {
      const int n = Tile::split(t.begin, static_cast<int>(s.ranges[r].begin), static_cast<int>(s.ranges[r].end),
                                s.length, segments);
      for (int i = 0; i < n; ++i) f(segments[i]);
    }
  }

  /// Whether all queries of a block see the whole tile, and from the same sources.
  bool is_uniform(int64 tile, int64 tile_end, int64 earliest, int64 latest) const {
    using tokens = typename Spec::tokens_policy;
    if (tile_end > earliest + 1) return false;
    if (visible_at(latest, tokens::sinks, tokens::window, params.window).recent.begin > tile) return false;
    return same_sources<first_stream>(tile_end, earliest, latest) &&
           same_sources<second_stream>(tile_end, earliest, latest);
  }
  template <class Stream>
  static bool same_sources(int64 tile_end, int64 earliest, int64 latest) {
    const int64 boundary = Stream::seal_boundary(earliest + 1);
    return boundary == Stream::seal_boundary(latest + 1) || tile_end <= boundary;
  }

  /// fp32 scores of the segments that `wanted` takes; to: [queries][most_rows].
  template <bool Add, class Tile, class Wanted>
  void score_rows(const tile_rows& t, const Tile& tile, const float* folded, float* to, const Wanted& wanted) {
    for_queries(t, [&](const seen_rows& s) {
      for_segments<Tile>(t, s, [&](const tile_segment& part) {
        if (!wanted(part)) return;
        kernels.score_tile[Add ? 1 : 0]({folded + static_cast<int64>(s.begin) * shape::query_pitch, s.count,
                                         shape::query_pitch, tile.rows(part), part.end - part.begin, Tile::pitch,
                                         Tile::pitch, to + static_cast<int64>(s.begin) * shape::most_rows + part.begin,
                                         shape::most_rows});
      });
    });
  }

  static constexpr auto all_parts = [](const tile_segment&) { return true; };
  static constexpr auto exact_parts = [](const tile_segment& part) { return part.exact; };

  /// Scores of one stream's tile. Codes: of all queries and rows at once, to be masked later.
  template <bool Codes, bool Add, bool First, class Tile, class Packed>
  void score_stream(const tile_rows& t, const stream_rows<Spec, First>& at, const Tile& tile, const Packed& packed,
                    const float* folded, float* to) {
    if constexpr (Codes) {
      const int count = t.rows * view.model.group();
      if constexpr (!Add) {
        for (int i = 0; i < count; ++i) {
          for (int r = 0; r < t.blocks() * block_rows; ++r) to[static_cast<int64>(i) * shape::most_rows + r] = 0;
        }
      }
      packed.score(kernels, at, t.begin, t.blocks(), folded, count, shape::query_pitch, to, shape::most_rows);
      if constexpr (Tile::stream_type::exact_rows > 0) score_rows<false>(t, tile, folded, to, exact_parts);
    } else {
      score_rows<Add>(t, tile, folded, to, all_parts);
    }
  }

  /// Fills the masks of a tile: which rows each query row sees, and which of these as codes of the value stream.
  /// Returns whether there is anything to mask.
  bool fill_masks(const tile_rows& t) {
    const int width = t.blocks() * block_rows;
    if (t.is_uniform && t.count() == width && value_stream::exact_rows == 0) return false;
    const int masks = t.is_uniform ? 1 : t.rows;
    for (int i = 0; i < masks * shape::most_rows; ++i) seen[i] = sealed[i] = 0;
    for_queries(t, [&](const seen_rows& s) {
      const int64 row = (t.is_uniform ? 0 : s.begin / view.model.group()) * shape::most_rows;
      for (int r = 0; r < s.range_count; ++r) {
        for (int64 i = s.ranges[r].begin; i < s.ranges[r].end; ++i) seen[row + i] = 255;
      }
      for_segments<value_tile_type>(t, s, [&](const tile_segment& part) {
        if (part.exact) return;
        for (int i = part.begin; i < part.end; ++i) sealed[row + i] = 255;
      });
    });
    return true;
  }
  using value_tile_type = std::conditional_t<Spec::is_latent, first_tile, second_tile>;
  const value_tile_type& value_tile() const {
    if constexpr (Spec::is_latent) {
      return first;
    } else {
      return second;
    }
  }

  /// Weighted sums of one tile: p in scores.
  template <bool Codes>
  void sum_values(const tile_rows& t, bool is_masked) {
    const int count = t.rows * view.model.group();
    const int per_mask = t.is_uniform ? count : view.model.group();
    for (int i = 0; i < count; ++i) {
      if (factors[i] == 1.0f) continue;
      kernels.rescale(sums_of(0, i) + live, shape::sum_pitch - live, factors[i]);
    }
    const auto sum_rows = [&](const auto& wanted) {
      for_queries(t, [&](const seen_rows& s) {
        for_segments<value_tile_type>(t, s, [&](const tile_segment& part) {
          if (!wanted(part)) return;
          kernels.sum_tile({scores + static_cast<int64>(s.begin) * shape::most_rows + part.begin, s.count,
                            shape::most_rows, value_tile().rows(part), part.end - part.begin, shape::value_pitch,
                            shape::value_pitch, sums_of(0, s.begin), shape::sum_pitch});
        });
      });
    };
    if constexpr (Codes) {
      const auto& packed = value_codes();
      code_sums.add(kernels, packed, t.blocks(), scores, count, shape::most_rows, is_masked ? sealed : nullptr,
                    shape::most_rows, per_mask, sums[0] + shape::value_pitch, shape::sum_pitch, buffer);
      if constexpr (value_stream::exact_rows > 0) sum_rows(exact_parts);
    } else {
      sum_rows(all_parts);
    }
  }
  const auto& value_codes() const {
    if constexpr (Spec::is_latent) {
      return first_codes;
    } else {
      return second_codes;
    }
  }

  template <bool Codes>
  void attend_tile(const tile_rows& t, const stream_rows<Spec, true>& first_rows,
                   const stream_rows<Spec, false>& second_rows, int head) {
    constexpr bool first_packed = Codes && shape::first_is_packed;
    constexpr bool second_packed = Codes && shape::second_is_packed;
    const int64 latest = t.earliest + t.rows - 1;
    load_stream<first_packed>(t, first_rows, first, first_codes, latest, first_constants(head));
    load_stream<second_packed>(t, second_rows, second, second_codes, latest, second_constants(head));

    score_stream<first_packed, false>(t, first_rows, first, first_codes, queries, scores);
    if constexpr (Spec::is_latent) {
      const float* folded = queries + first_tile::pitch;
      if constexpr (second_packed && shape::has_extra_scores) {
        score_stream<true, false>(t, second_rows, second, second_codes, folded, extra_scores);
        for (int i = 0; i < t.rows * view.model.group(); ++i) {
          const int64 at = static_cast<int64>(i) * shape::most_rows;
          for (int r = 0; r < t.blocks() * block_rows; ++r) scores[at + r] += extra_scores[at + r];
        }
      } else {
        score_stream<second_packed, true>(t, second_rows, second, second_codes, folded, scores);
      }
    }

    const int count = t.rows * view.model.group();
    const bool is_masked = fill_masks(t);
    kernels.softmax({scores, shape::most_rows, count, t.blocks(), is_masked ? seen : nullptr, shape::most_rows,
                     t.is_uniform ? count : view.model.group(), constants, params.scale, params.soft_cap, states[0],
                     factors});
    sum_values<Codes && shape::values_are_packed>(t, is_masked);
  }

  template <bool Codes, bool First, class Tile, class Packed>
  void load_stream(const tile_rows& t, const stream_rows<Spec, First>& at, Tile& tile, Packed& packed, int64 latest,
                   const float* stream_constants) {
    if constexpr (!Codes) tile.prefetch(at, t.end, min_of(t.end + t.end - t.begin, latest + 1));
    if constexpr (Codes) {
      if constexpr (Packed::is_expanded) {
        compiled([&] { packed.load(kernels, at, t.begin, t.blocks(), latest + 1); });
      } else {
        packed.load(kernels, at, t.begin, t.blocks(), latest + 1);
      }
      tile.load_exact(at, t.begin, t.end, t.earliest + 1, stream_constants, params.rotary);
    } else if constexpr (lies_as_fp32<Tile>) {
      // A tile lies in one page: it is read where it is.
      byte* segment = at.segment_of(t.begin);
      if (segment != nullptr) {
        tile.sealed =
            reinterpret_cast<float*>(segment + t.begin % Spec::tokens_per_page * Tile::stream_type::row_bytes);
      }
    } else {
      compiled([&] { tile.load(at, t.begin, t.end, t.earliest + 1, latest + 1, stream_constants, params.rotary); });
    }
  }
  template <class Tile>
  static constexpr bool lies_as_fp32 = __is_same(typename Tile::stream_type::codec, quant::none<float>) &&
                                       !Tile::expands
                                       && Tile::stream_type::exact_rows == 0 && Tile::pitch == Tile::stream_type::width
                                       && !shape::has_codes && Spec::tokens_per_page % shape::plain_rows == 0;
};

}  // namespace kvc::inline v0_1::host::detail
