// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Attention on packed codes, without a decoded copy. Included by each instruction set's file, inside its namespace.
//
// With codes u of a row's group g of channels, and values v = scale (u - centre) + middle:
//
//   scores  s[q][t] += sum_g  query_scale[q][g] scale[g][t] <q8[q][g], u[t][g] - centre>  +  middle[g][t] sum(q[q][g])
//   sums    o[q][g] += weight_scale[q] sum_t w8[q][t] (u[t][g] - centre)  +  sum_t p[q][t] middle[g][t]
//
// q8 and w8 = p scale have 8 bits. Products of bytes come in fours that are summed into a word: for scores four
// channels of a row, the 16 words of a vector being rows; for sums four rows of a channel, the words being channels.
// So codes are transposed as they lie, in words, and only then parted into bytes.

/// The lowest field of each byte.
KVC_SIMD words field_mask(int bits) {
  return broadcast_word(static_cast<int32>(((1u << bits) - 1) * 0x01010101u));
}

// ---- scores

/// How a byte is parted, and how far the words of a block of queries lie apart.
struct query_layout {
  int fields;
  words bits;
  words mask;
  int64 stride;
};

template <int Queries>
KVC_SIMD void add_field(words (&sum)[Queries], words codes, const int8* q8) {
#pragma GCC unroll 16
  for (int i = 0; i < Queries; ++i) sum[i] = dot_query(sum[i], codes, q8 + i * 4);
}

/// Products are added up one after the other, each waiting for the last one: few queries have several sums each.
template <int Queries>
inline constexpr int sets_of = Queries <= score_sets ? score_sets / Queries : 1;

/// sum[i] += the products of a word of each row with that of query i; q8 moves on. Fields: 0 where l says it.
template <int Fields, int Queries>
KVC_SIMD void add_word(words (&sum)[Queries], words x, const int8*& q8, const query_layout& l) {
  add_field(sum, and_words(x, l.mask), q8);
  q8 += l.stride;
  const int fields = Fields > 0 ? Fields : l.fields;
  for (int f = 1; f < fields; ++f) {
    x = shift_right(x, l.bits);
    add_field(sum, and_words(x, l.mask), q8);
    q8 += l.stride;
  }
}

/// Sums of a group to scores of 16 rows.
template <int Queries, int Sets>
KVC_SIMD void add_scores(const score_codes_call& c, const words (&sums)[Sets][Queries], int q, int block, int g) {
  const floats scale = load(c.scale + g * c.constants_pitch + block * 16);
  const floats middle = load(c.middle + g * c.constants_pitch + block * 16);
  const query_group* group = c.group + static_cast<int64>(q) * c.groups + g;
  float* to = c.scores + q * c.score_pitch + block * 16;
#pragma GCC unroll 16
  for (int i = 0; i < Queries; ++i) {
    if (Queries > 1 && q + i >= c.queries) break;
    const floats rest = multiply_add(middle, broadcast(group->sum), load(to));
    words sum = sums[0][i];
#pragma GCC unroll 8
    for (int set = 1; set < Sets; ++set) sum = add_words(sum, sums[set][i]);
    store(multiply_add(multiply(to_floats(sum), scale), broadcast(group->scale), rest), to);
    group += c.groups;
    to += c.score_pitch;
  }
}

template <int Queries, int Sets>
KVC_SIMD void start_sums(const score_codes_call& c, words (&sums)[Sets][Queries], int q, int g) {
  const query_group* group = c.group + static_cast<int64>(q) * c.groups + g;
#pragma GCC unroll 16
  for (int i = 0; i < Queries; ++i) {
    sums[0][i] = broadcast_word(group->start);
#pragma GCC unroll 8
    for (int set = 1; set < Sets; ++set) sums[set][i] = word_zeros();
    if (q + i + 1 < c.queries) group += c.groups;
  }
}

/// 16 rows and queries [q, q + Queries), whose bytes begin at q8: group by group, in pieces of 32 bytes.
template <int Fields, int Queries>
KVC_SIMD void score_groups(const score_codes_call& c, const query_layout& l, const int8* q8, int q, int block) {
  for (int g = 0; g < c.groups; ++g) {
    constexpr int sets = sets_of<Queries>;
    words sums[sets][Queries];
    start_sums(c, sums, q, g);
    const byte* codes = c.rows.block[block] + g * c.group_bytes;
    const int bytes = g + 1 < c.groups ? c.group_bytes : c.last_bytes;
    for (int left = words_of_group(bytes, 1); left > 0; left -= 8) {
      words x[8];
      load_transposed(codes, c.rows.pitch, x);
#pragma GCC unroll 8
      for (int w = 0; w < 8; ++w) {
        if (w >= left) break;
        add_word<Fields>(sums[w % sets], x[w], q8, l);
      }
      codes += 32;
    }
    add_scores(c, sums, q, block, g);
  }
}

/// The same where groups have 4 Words bytes: several in a piece.
template <int Fields, int Queries, int Words>
KVC_SIMD void score_small_groups(const score_codes_call& c, const query_layout& l, const int8* q8, int q, int block) {
  const byte* codes = c.rows.block[block];
  for (int first = 0; first < c.groups; first += 8 / Words) {
    words x[8];
    load_transposed(codes, c.rows.pitch, x);
#pragma GCC unroll 4
    for (int part = 0; part < 8 / Words; ++part) {
      if (first + part >= c.groups) break;
      constexpr int sets = min_of(sets_of<Queries>, Words);
      words sums[sets][Queries];
      start_sums(c, sums, q, first + part);
#pragma GCC unroll 4
      for (int w = 0; w < Words; ++w) {
        add_word<Fields>(sums[w % sets], x[part * Words + w], q8, l);
      }
      add_scores(c, sums, q, block, first + part);
    }
    codes += 32;
  }
}

/// Asks for 16 rows.
template <int Locality>
KVC_SIMD void prefetch_rows(const byte* rows, int64 pitch, int bytes) {
  if (rows == nullptr) return;
  for (int r = 0; r < block_rows; ++r) prefetch_bytes<Locality>(rows + r * pitch, bytes);
}

/// All blocks of the tile, for queries [q, q + Queries).
template <int Fields, int Queries>
inline void score_queries_of(const score_codes_call& c, const query_layout& l, const int8* q8, int q) {
  const int short_group = c.last_bytes == c.group_bytes ? c.group_bytes : 0;
  const int row_bytes = (c.groups - 1) * c.group_bytes + c.last_bytes;
  for (int b = 0; b < c.blocks; ++b) {
    if (b + 1 < c.blocks) prefetch_rows<3>(c.rows.block[b + 1], c.rows.pitch, row_bytes);
    if (q == 0) prefetch_rows<2>(c.rows.next[b], c.rows.pitch, row_bytes);
    if (short_group == 16) {
      score_small_groups<Fields, Queries, 4>(c, l, q8, q, b);
    } else if (short_group == 8) {
      score_small_groups<Fields, Queries, 2>(c, l, q8, q, b);
    } else {
      score_groups<Fields, Queries>(c, l, q8, q, b);
    }
  }
}

template <int Fields>
KVC_SIMD void score_all(const score_codes_call& c) {
  const int bits = 8 / c.fields;
  query_layout l{c.fields, broadcast_word(bits), field_mask(bits), 0};
  for (int q = 0; q < c.queries;) {
    const int block = query_block(c.queries - q);
    const int8* q8 = c.q8 + q * c.q8_pitch;
    l.stride = 4 * block;
    const int once = min_of(block, score_queries);
    for (int i = 0; i < min_of(block, c.queries - q); i += once) {
      if (once == 16) {
        score_queries_of<Fields, min_of(16, score_queries)>(c, l, q8 + i * 4, q + i);
      } else if (once == 4) {
        score_queries_of<Fields, min_of(4, score_queries)>(c, l, q8 + i * 4, q + i);
      } else {
        score_queries_of<Fields, 1>(c, l, q8 + i * 4, q + i);
      }
    }
    q += block;
  }
}

/// Adds to scores[queries][16 blocks].
inline void score_codes(const score_codes_call& c) {
  if constexpr (has_own_fields) {
    if (c.fields == 2) return score_all<2>(c);
    if (c.fields == 4) return score_all<4>(c);
  }
  score_all<0>(c);
}

// ---- sums

/// Queries x vectors [v, v + Vectors) of one field, over all rows in the buffer; then into o.
template <int Queries, int Vectors, bool OnePart>
KVC_SIMD void sum_field(const sum_codes_call& c, int bits, int field, int q, int v) {
  const int steps = 4 * c.blocks / c.sets;
  const int64 step_bytes = 4 * c.parts * c.sets;
  const uint8* weights[Queries];
#pragma GCC unroll 8
  for (int i = 0; i < Queries; ++i) weights[i] = c.w8 + min_of(q + i, c.queries - 1) * c.w8_pitch;
  const words mask = field_mask(bits);
  const words shift = broadcast_word(field * bits);
  const words lanes[2] = {load_words(c.lanes[v / 2]), load_words(c.lanes[(v + Vectors - 1) / 2])};
  words sum[Queries][Vectors];
#pragma GCC unroll 8
  for (int i = 0; i < Queries; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) sum[i][j] = word_zeros();
  }
  const byte* codes = c.buffer + v * 64;
  for (int s = 0; s < steps; ++s) {
    words x[Vectors];
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) {
      x[j] = and_words(shift_right(load_words(codes + j * 64), shift), mask);
    }
#pragma GCC unroll 8
    for (int i = 0; i < Queries; ++i) {
      const uint8* at = weights[i] + s * step_bytes;
      words w[2];
      if constexpr (OnePart) {
        w[0] = w[1] = broadcast_4(at);
      } else {
        w[0] = pick_words(at, lanes[0]);
        w[1] = pick_words(at, lanes[1]);
      }
#pragma GCC unroll 4
      for (int j = 0; j < Vectors; ++j) sum[i][j] = dot_weights(sum[i][j], w[j / 2], x[j]);
    }
    codes += 4 * 64;
  }
#pragma GCC unroll 8
  for (int i = 0; i < Queries; ++i) {
    if (q + i >= c.queries) break;
    const weight_groups& g = c.group[q + i];
    float* o = c.o + (q + i) * c.o_pitch + (field * 4 + v) * 16;
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) {
      const floats scale = as_floats(pick_words(g.scale, lanes[j / 2]));
      const words total = add_words(sum[i][j], pick_words(g.start, lanes[j / 2]));
      store(multiply_add(to_floats(total), scale, load(o + j * 16)), o + j * 16);
    }
  }
}

template <int Queries, int Vectors, bool OnePart>
KVC_SIMD void sum_queries_of(const sum_codes_call& c, int q) {
  for (int f = 0; f < c.fields; ++f) {
    for (int v = 0; v < 4; v += Vectors) sum_field<Queries, Vectors, OnePart>(c, 8 / c.fields, f, q, v);
  }
}

template <bool OnePart>
inline void sum_buffer(const sum_codes_call& c) {
  constexpr int half = sum_queries > 1 ? sum_queries / 2 : 1;
  int q = 0;
  for (; c.queries - q > half; q += sum_queries) sum_queries_of<sum_queries, sum_vectors, OnePart>(c, q);
  for (; c.queries - q > 1; q += half) sum_queries_of<half, few_sum_vectors, OnePart>(c, q);
  for (; q < c.queries; ++q) sum_queries_of<1, few_sum_vectors, OnePart>(c, q);
}

/// Adds a chunk's part to o[queries][fields][4][16].
inline void sum_codes(const sum_codes_call& c) {
  byte* to = c.buffer;
  for (int b = 0; b < c.blocks; ++b) {
    const byte* rows = c.rows.block[b] + c.offset;
    if (c.offset == 0) prefetch_rows<2>(c.rows.next[b], c.rows.pitch, c.row_bytes);
    for (int r = 0; r < 16; r += 4 * c.sets) {
      words x[4];
      if (c.sets == 1) {
        load_interleaved(rows + r * c.rows.pitch, c.rows.pitch, c.bytes, x);
      } else {
        load_interleaved_twice(rows + r * c.rows.pitch, c.rows.pitch, x);
      }
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) store_words(x[j], to + j * 64);
      to += 4 * 64;
    }
  }
  if (c.parts * c.sets == 1) {
    sum_buffer<true>(c);
  } else {
    sum_buffer<false>(c);
  }
}
