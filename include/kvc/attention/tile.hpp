// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/attention/mask.hpp"
#include "kvc/cache/rows.hpp"
#include "kvc/core/view.hpp"

namespace kvc::inline v0_1 {

/// Rows of a tile of one stream that are read from the same source, and which of the tile's two buffers holds them.
struct tile_segment {
  int begin;  ///< relative to the tile
  int end;
  bool exact;
};

/// One tile of rows of a stream, as fp32 in the space where it is scored or summed. The queries of a block see
/// different lengths, so a row can be needed twice: sealed for the later ones, exact for the earlier ones.
///
/// Rows have `pitch` floats; what pads a row to it is zero.
template <class Spec, bool First, bool Scored>
struct tile_of {
  using stream_type = stream_of<Spec, First>;
  static constexpr bool expands = Scored && stream_type::is_deferred;
  static constexpr int width = expands ? stream_type::model_width : stream_type::width;
  static constexpr int pitch = round_up(width, 16);

  float* sealed;  ///< [tile_rows][pitch]
  float* exact;   ///< [tile_rows][pitch]

  /// Loads the rows [begin, end) of the sequence that queries with lengths from `shortest` to `longest` can need from
  /// either source.
  KVC_HD void load(const stream_rows<Spec, First>& at, int64 begin, int64 end, int64 shortest, int64 longest,
                   const float* constants, const rotary::table_view& table) const {
    load_sealed(at, begin, end, longest, constants, table);
    load_exact(at, begin, end, shortest, constants, table);
  }

  KVC_HD void load_sealed(const stream_rows<Spec, First>& at, int64 begin, int64 end, int64 longest,
                          const float* constants, const rotary::table_view& table) const {
    const int64 sealed_begin = max_of<int64>(begin, stream_type::first_rows);
    const int64 sealed_end = min_of(end, stream_type::seal_boundary(longest));
    // Pages that were freed are skipped: no query sees them.
    for (int64 t = sealed_begin; t < sealed_end;) {
      const int64 stop = min_of<int64>(sealed_end, (t / Spec::tokens_per_page + 1) * Spec::tokens_per_page);
      if (at.segment_of(t) != nullptr) load_page(at, t, static_cast<int>(stop - t), begin, constants, table);
      t = stop;
    }
  }

  KVC_HD void load_exact(const stream_rows<Spec, First>& at, int64 begin, int64 end, int64 shortest,
                         const float* constants, const rotary::table_view& table) const {
    if constexpr (stream_type::exact_rows > 0) {
      float row[stream_type::width];
      const auto read = [&](int64 t) {
        stream_rows<Spec, First>::read_exact(at.exact_row(t), row);
        place(row, exact + (t - begin) * pitch, t, constants, table);
      };
      for (int64 t = begin; t < min_of<int64>(end, stream_type::first_rows); ++t) read(t);
      if constexpr (stream_type::has_ring) {
        const int64 open = max_of<int64>(stream_type::seal_boundary(shortest), stream_type::first_rows);
        for (int64 t = max_of(begin, open); t < end; ++t) read(t);
      }
    }
  }

  /// Asks for the sealed rows [begin, end): pages of a head lie far apart, and machines do not guess where the next is.
  void prefetch(const stream_rows<Spec, First>& at, int64 begin, int64 end) const {
    for (int64 t = begin; t < end;) {
      const int64 stop = min_of<int64>(end, (t / Spec::tokens_per_page + 1) * Spec::tokens_per_page);
      if (const byte* segment = at.segment_of(t); segment != nullptr) {
        const int64 in_page = t % Spec::tokens_per_page;
        const byte* codes = segment + in_page * stream_type::row_bytes;
        const byte* constants =
            segment + stream_type::codes_bytes + in_page / stream_type::tokens_per_group * stream_type::group_bytes;
        const int rows = static_cast<int>(stop - t);
        const int groups = ceil_div(rows, stream_type::tokens_per_group);
        prefetch_bytes<2>(codes, rows * stream_type::row_bytes);
        prefetch_bytes<2>(constants, groups * stream_type::group_bytes);
      }
      t = stop;
    }
  }

  /// Splits rows [begin, end), relative to a tile that starts at row `tile`, by source for a query that sees `length`
  /// rows. Returns the number of segments, at most 3.
  KVC_HD static int split(int64 tile, int begin, int end, int64 length, tile_segment* out) {
    const auto clip = [&](int64 t) { return static_cast<int>(min_of<int64>(max_of<int64>(t - tile, begin), end)); };
    const int first = clip(stream_type::first_rows);
    const int seal = max_of(first, clip(stream_type::seal_boundary(length)));
    int count = 0;
    if (begin < first) out[count++] = {begin, first, true};
    if (first < seal) out[count++] = {first, seal, false};
    if (seal < end) out[count++] = {seal, end, true};
    return count;
  }

  KVC_HD const float* rows(const tile_segment& s) const { return (s.exact ? exact : sealed) + s.begin * pitch; }

 private:
  /// Rows [t, t + count) of one page.
  KVC_HD void load_page(const stream_rows<Spec, First>& at, int64 t, int count, int64 begin, const float* constants,
                        const rotary::table_view& table) const {
    float* out = sealed + (t - begin) * pitch;
    if constexpr (!expands && pitch == stream_type::width) {
      at.decode(t, count, out);
    } else {
      float row[stream_type::width];
      for (int i = 0; i < count; ++i) {
        at.decode(t + i, 1, row);
        place(row, out + i * pitch, t + i, constants, table);
      }
    }
  }

  KVC_HD static void place(float* stored, float* out, int64 t, const float* constants,
                           const rotary::table_view& table) {
    if constexpr (expands) {
      transform<stream_type>::restore(stored, out, constants);
      stream_type::rotary_policy::template rotate<stream_type::model_width>(out, table.at(t));
    } else {
      for (int i = 0; i < width; ++i) out[i] = stored[i];
    }
    for (int i = width; i < pitch; ++i) out[i] = 0;
  }
};

}  // namespace kvc::inline v0_1
