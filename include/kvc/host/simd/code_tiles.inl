// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Attention on packed codes by products of tiles, where 9 queries or more share a block. Included by amx.hpp.
//
//   d[16 rows][16] += a[16 rows][64 bytes] b[16 words][16][4 bytes]        unsigned a, signed b, 16 clocks
//
//   scores   a: codes of 16 rows, as they lie    b: queries, as quantize_query leaves them    d: [rows][queries]
//   sums     a: weights of 16 queries            b: codes of 64 rows, interleaved             d: [queries][channels]
//
// Only these integers come from other instructions: what becomes of them is codes.inl's, and so are the bits of the
// results.

// ---- scores

inline constexpr int most_groups = 32;

/// Groups that fill halves of tiles. A short row is over before the tiles' latencies are.
inline bool fits(const score_codes_call& c) {
  return c.group_bytes * c.groups >= 64 && c.group_bytes % 32 == 0 && c.last_bytes % 32 == 0 && c.groups <= most_groups;
}

/// Constants of 16 queries: [groups][16].
struct query_constants {
  alignas(64) int32 start[most_groups][16];
  alignas(64) float scale[most_groups][16];
  alignas(64) float sum[most_groups][16];

  query_constants(const score_codes_call& c, int q) {
    for (int g = 0; g < c.groups; ++g) {
      for (int i = 0; i < 16; ++i) {
        const bool exists = q + i < c.queries;
        const query_group* at = c.group + static_cast<int64>(exists ? q + i : q) * c.groups + g;
        start[g][i] = exists ? at->start : 0;
        scale[g][i] = exists ? at->scale : 0;
        sum[g][i] = exists ? at->sum : 0;
      }
    }
  }
};

/// 64 bytes of 16 rows, or the last 32 of a group.
struct piece {
  int block = 0;
  int group = 0;
  int at = 0;  ///< bytes from the group's begin
};

template <int Fields>
struct score_tiles {
  const score_codes_call c;
  const query_constants k;
  const int q;
  const int count;  ///< of queries
  alignas(64) byte codes[2][Fields][tile_bytes];
  alignas(64) byte d[2][tile_bytes];

  explicit score_tiles(const score_codes_call& call, int first)
      : c(call), k(call, first), q(first), count(min_of(16, call.queries - first)) {}

  KVC_SIMD int bytes_of(int g) const { return g + 1 < c.groups ? c.group_bytes : c.last_bytes; }
  KVC_SIMD bool is_last(const piece& p) const { return p.at + 64 >= bytes_of(p.group); }
  KVC_SIMD void next(piece& p) const {
    if (!is_last(p)) {
      p.at += 64;
      return;
    }
    p.at = 0;
    if (++p.group == c.groups) p.group = 0, ++p.block;
  }

  /// Its rows, parted into bytes.
  KVC_SIMD void part(const piece& p, byte (&to)[Fields][tile_bytes]) const {
    if (p.group == 0 && p.at == 0) {
      const int row_bytes = (c.groups - 1) * c.group_bytes + c.last_bytes;
      if (p.block + 1 < c.blocks) prefetch_rows<3>(c.rows.block[p.block + 1], c.rows.pitch, row_bytes);
      if (q == 0) prefetch_rows<2>(c.rows.next[p.block], c.rows.pitch, row_bytes);
    }
    const byte* from = c.rows.block[p.block] + p.group * c.group_bytes + p.at;
    if (bytes_of(p.group) - p.at >= 64) {
      part_rows(to, [&](int r) { return load_words(from + r * c.rows.pitch); });
    } else {
      part_rows(to, [&](int r) { return _mm512_maskz_loadu_epi8(all_64 >> 32, from + r * c.rows.pitch); });
    }
  }
  template <class Row>
  KVC_SIMD static void part_rows(byte (&to)[Fields][tile_bytes], const Row& row) {
#pragma GCC unroll 16
    for (int r = 0; r < 16; ++r) {
      const words x = row(r);
      store_words(field_of<Fields, 0>(x), to[0] + r * 64);
      if constexpr (Fields > 1) store_words(field_of<Fields, 1>(x), to[1] + r * 64);
      if constexpr (Fields > 2) {
        store_words(field_of<Fields, 2>(x), to[2] + r * 64);
        store_words(field_of<Fields, 3>(x), to[3] + r * 64);
      }
    }
  }

  /// Products of a piece; with a group's last one, its sums [16 rows][16 queries] are stored.
  template <int Which>
  KVC_SIMD void multiply_piece(const piece& p, const byte (&from)[Fields][tile_bytes], byte* sums) const {
    if (p.at == 0) load_tile<Which>(k.start[p.group], 0);  // the same for all rows
    // A word of codes has one of the query for each field.
    const int8* b = c.q8 + q * c.q8_pitch + (p.group * c.group_bytes + p.at) / 4 * Fields * 64;
    load_tile<2 + Which>(from[0], 64);
    load_tile<6>(b, 64 * Fields);
    multiply_tiles<Which, 2 + Which, 6>();
    if constexpr (Fields > 1) {
      load_tile<4 + Which>(from[1], 64);
      load_tile<7>(b + 64, 64 * Fields);
      multiply_tiles<Which, 4 + Which, 7>();
    }
    if constexpr (Fields > 2) {
      load_tile<2 + Which>(from[2], 64);
      load_tile<6>(b + 128, 64 * Fields);
      multiply_tiles<Which, 2 + Which, 6>();
      load_tile<4 + Which>(from[3], 64);
      load_tile<7>(b + 192, 64 * Fields);
      multiply_tiles<Which, 4 + Which, 7>();
    }
    if (is_last(p)) store_tile<Which>(sums);
  }

  /// [16 rows][16 queries] of a block, from where scores lie by queries, and back.
  KVC_SIMD void load_scores(int block, floats (&s)[16]) const {
    alignas(64) float by_query[16][16];
    for (int i = 0; i < 16; ++i) {
      store(i < count ? load(c.scores + (q + i) * c.score_pitch + block * 16) : zeros(), by_query[i]);
    }
    transpose(by_query, s);
  }
  KVC_SIMD void store_scores(int block, const floats (&s)[16]) const {
    alignas(64) float by_row[16][16];
    floats x[16];
#pragma GCC unroll 16
    for (int r = 0; r < 16; ++r) store(s[r], by_row[r]);
    transpose(by_row, x);
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      if (i < count) store(x[i], c.scores + (q + i) * c.score_pitch + block * 16);
    }
  }
  KVC_SIMD static void transpose(const float (&rows)[16][16], floats (&columns)[16]) {
    const byte* from = reinterpret_cast<const byte*>(rows);
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      words x[8];
      load_transposed(from + half * 32, 64, x);
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) columns[half * 8 + i] = as_floats(x[i]);
    }
  }

  /// A group's sums into the scores of its rows: add_scores of codes.inl, with the queries side by side.
  KVC_SIMD void take(const piece& p, const byte* sums, floats (&s)[16]) const {
    const float* row_scale = c.scale + p.group * c.constants_pitch + p.block * 16;
    const float* row_middle = c.middle + p.group * c.constants_pitch + p.block * 16;
    const floats scale = load(k.scale[p.group]);
    const floats sum = load(k.sum[p.group]);
#pragma GCC unroll 16
    for (int r = 0; r < 16; ++r) {
      const floats rest = multiply_add(broadcast(row_middle[r]), sum, s[r]);
      s[r] = multiply_add(multiply(to_floats(load_words(sums + r * 64)), broadcast(row_scale[r])), scale, rest);
    }
  }

  /// While a piece is multiplied, the next one is parted, and the one before is taken.
  void run() {
    floats s[16];
    for (floats& x : s) x = zeros();
    piece parted;
    piece multiplied;
    piece taken;
    part(parted, codes[0]);
    bool odd = false;  // the piece to be multiplied
    bool odd_group = false;
    bool was_last = false;  // the one before ended its group
    for (; multiplied.block < c.blocks; odd = !odd) {
      next(parted);
      if (parted.block < c.blocks) part(parted, codes[odd ? 0 : 1]);
      if (odd_group) {
        multiply_piece<1>(multiplied, codes[odd ? 1 : 0], d[1]);
      } else {
        multiply_piece<0>(multiplied, codes[odd ? 1 : 0], d[0]);
      }
      if (was_last) take_group(taken, d[odd_group ? 0 : 1], s);
      taken = multiplied;
      was_last = is_last(multiplied);
      odd_group ^= was_last;
      next(multiplied);
    }
    take_group(taken, d[odd_group ? 0 : 1], s);
  }
  KVC_SIMD void take_group(const piece& p, const byte* sums, floats (&s)[16]) const {
    if (p.group == 0) load_scores(p.block, s);
    take(p, sums, s);
    if (p.group + 1 == c.groups) store_scores(p.block, s);
  }
};

inline void score_codes(const score_codes_call& c) {
  int q = 0;
  if (fits(c)) {
    for (; query_block(c.queries - q) == 16 && q < c.queries; q += 16) {
      if (c.fields == 1) score_tiles<1>(c, q).run();
      if (c.fields == 2) score_tiles<2>(c, q).run();
      if (c.fields == 4) score_tiles<4>(c, q).run();
    }
  }
  if (q >= c.queries) return;
  score_codes_call rest = c;
  rest.q8 += q * c.q8_pitch;
  rest.group += static_cast<int64>(q) * c.groups;
  rest.scores += q * c.score_pitch;
  rest.queries -= q;
  if (q > 0) {  // asked for
    for (const byte*& next : rest.rows.next) next = nullptr;
  }
  avx512::score_codes(rest);
}

// ---- sums

/// A chunk's sums, four products in tiles at a time: 16 channels of each of 4 / Fields vectors in each field. Rows are
/// loaded again for the next ones: what is parted at a time stays in the first-level cache.
template <int Fields>
struct sum_tiles {
  static constexpr int vectors = 4 / Fields;  ///< at a time, of the 4 of an interleaved chunk
  const sum_codes_call c;
  const int tiles = (c.blocks + 3) / 4;  ///< of 64 rows
  /// [fields][vectors][rows / 4][16 channels][4 rows]; rows beyond the last one are zero.
  alignas(64) byte codes[4][code_tile_rows * 16];
  alignas(64) uint8 some[16][code_tile_rows];
  alignas(64) int32 start[16][16];    ///< [queries][channels]
  alignas(64) byte d[4][tile_bytes];  ///< [fields][vectors]{[queries][channels]}

  explicit sum_tiles(const sum_codes_call& call) : c(call) {}

  template <int First>
  KVC_SIMD void part() {
    const bool has_next = First + vectors == 4 && c.offset + 64 < c.row_bytes;
    for (int b = 0; b < tiles * 4; ++b) {
      const bool exists = b < c.blocks;
      if (exists && First == 0 && c.offset == 0) prefetch_rows<2>(c.rows.next[b], c.rows.pitch, c.row_bytes);
#pragma GCC unroll 4
      for (int r = 0; r < 16; r += 4) {
        words x[4] = {word_zeros(), word_zeros(), word_zeros(), word_zeros()};
        if (exists) {
          const byte* from = c.rows.block[b] + c.offset + r * c.rows.pitch;
          load_interleaved(from, c.rows.pitch, c.bytes, x);  // but what is not used
          if (has_next) {
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i) __builtin_prefetch(from + 64 + i * c.rows.pitch);
          }
        }
        const int to = (b * 16 + r) * 16;
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) {
          store_words(field_of<Fields, 0>(x[First + v]), codes[v] + to);
          if constexpr (Fields > 1) store_words(field_of<Fields, 1>(x[First + v]), codes[vectors + v] + to);
          if constexpr (Fields > 2) {
            store_words(field_of<Fields, 2>(x[First + v]), codes[2 * vectors + v] + to);
            store_words(field_of<Fields, 3>(x[First + v]), codes[3 * vectors + v] + to);
          }
        }
      }
    }
  }

  template <int Which>
  KVC_SIMD void multiply_one() {
    load_tile<Which>(start, 64);
    load_tile<6>(codes[Which], 64);
    multiply_tiles<Which, 4, 6>();
    if (tiles > 1) {
      load_tile<7>(codes[Which] + 16 * 64, 64);
      multiply_tiles<Which, 5, 7>();
    }
    store_tile<Which>(d[Which]);
  }
  /// Into o, as sum_field of codes.inl does.
  KVC_SIMD void take(int q, int count, int first) const {
    for (int i = 0; i < count; ++i) {
      float* o = c.o + (q + i) * c.o_pitch + first * 16;
      const floats scale = broadcast(c.group[q + i].scale[0]);
#pragma GCC unroll 4
      for (int n = 0; n < 4; ++n) {
        float* to = o + n / vectors * 64 + n % vectors * 16;
        store(multiply_add(to_floats(load_words(d[n] + i * 64)), scale, load(to)), to);
      }
    }
  }

  template <int First>
  KVC_SIMD void run_vectors() {
    part<First>();
    for (int q = 0; q < c.queries; q += 16) {
      const int count = min_of(16, c.queries - q);
      if (First == 0 || c.queries > 16) load_weights(q, count);
      multiply_one<0>();
      multiply_one<1>();
      multiply_one<2>();
      multiply_one<3>();
      take(q, count, First);
    }
  }
  void load_weights(int q, int count) {
    const uint8* weights = c.w8 + q * c.w8_pitch;
    int64 pitch = c.w8_pitch;
    if (count < 16 || tiles * 4 > c.blocks) {  // what follows may not be read
      for (int i = 0; i < 16; ++i) {
        for (int r = 0; r < code_tile_rows; r += 64) store_words(word_zeros(), some[i] + r);
        if (i < count) __builtin_memcpy(some[i], weights + i * pitch, static_cast<size_type>(16 * c.blocks));
      }
      weights = some[0];
      pitch = code_tile_rows;
    }
    for (int i = 0; i < 16; ++i) {
      store_words(broadcast_word(i < count ? c.group[q + i].start[0] : 0), start[i]);
    }
    load_tile<4>(weights, pitch);
    if (tiles > 1) load_tile<5>(weights + 64, pitch);
  }

  void run() {
    run_vectors<0>();
    if constexpr (vectors == 2) run_vectors<2>();
    if constexpr (vectors == 1) {
      run_vectors<1>();
      run_vectors<2>();
      run_vectors<3>();
    }
  }
};

inline void sum_codes(const sum_codes_call& c) {
  if (c.sets != 1 || c.parts != 1 || c.queries <= 8) return avx512::sum_codes(c);
  if (c.fields == 1) sum_tiles<1>(c).run();
  if (c.fields == 2) sum_tiles<2>(c).run();
  if (c.fields == 4) sum_tiles<4>(c).run();
}
