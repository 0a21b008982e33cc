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
// So codes are transposed as they lie, in words, and only then parted into bytes: a vector costs a few shuffles, and
// all queries of the block share it.

/// Parts `x` into the fields of its bytes: Fields vectors of bytes, `stride` bytes apart.
template <int Fields>
KVC_SIMD void store_fields(words x, byte* to, int64 stride) {
  constexpr int bits = 8 / Fields;
  if constexpr (Fields == 1) {
    store_words(x, to);
  } else {
    const words mask = broadcast_word(((1 << bits) - 1) * 0x01010101);
    store_words(and_words(x, mask), to);
    store_words(and_words(shift_right<bits>(x), mask), to + stride);
    if constexpr (Fields == 4) {
      store_words(and_words(shift_right<2 * bits>(x), mask), to + 2 * stride);
      store_words(and_words(shift_right<3 * bits>(x), mask), to + 3 * stride);
    }
  }
}

// ---- scores

/// Queries x Blocks vectors of sums over `steps` words of the codes; then scales and middles.
template <int Queries, int Blocks>
KVC_SIMD void score_block(const score_codes_call& c, const byte* codes, int q, int block) {
  words sum[Queries][Blocks];
#pragma GCC unroll 4
  for (int i = 0; i < Queries; ++i) {
    const words start = broadcast_word(c.group[(q + i) * c.group_pitch].start);
#pragma GCC unroll 4
    for (int j = 0; j < Blocks; ++j) sum[i][j] = start;
  }
  const int8* query = c.q8 + q * c.q8_pitch;
  const int64 stride = static_cast<int64>(c.blocks) * 64;
  for (int s = 0; s < c.words; ++s) {
    words k[Blocks];
#pragma GCC unroll 4
    for (int j = 0; j < Blocks; ++j) k[j] = load_words(codes + j * 64);
#pragma GCC unroll 4
    for (int i = 0; i < Queries; ++i) {
      const words x = broadcast_4(query + i * c.q8_pitch);
#pragma GCC unroll 4
      for (int j = 0; j < Blocks; ++j) sum[i][j] = dot_query(sum[i][j], k[j], x);
    }
    codes += stride;
    query += 4;
  }
#pragma GCC unroll 4
  for (int j = 0; j < Blocks; ++j) {
    const floats scale = load(c.scale + (block + j) * 16);
    const floats middle = load(c.middle + (block + j) * 16);
#pragma GCC unroll 4
    for (int i = 0; i < Queries; ++i) {
      const query_group& g = c.group[(q + i) * c.group_pitch];
      float* to = c.scores + (q + i) * c.score_pitch + (block + j) * 16;
      const floats rest = multiply_add(middle, broadcast(g.sum), load(to));
      store(multiply_add(multiply(to_floats(sum[i][j]), scale), broadcast(g.scale), rest), to);
    }
  }
}

template <int Queries>
KVC_SIMD void score_blocks(const score_codes_call& c, int q) {
  int b = 0;
  for (; b + vectors_at_once <= c.blocks; b += vectors_at_once) {
    score_block<Queries, vectors_at_once>(c, c.buffer + b * 64, q, b);
  }
  for (; b < c.blocks; ++b) score_block<Queries, 1>(c, c.buffer + b * 64, q, b);
}

/// The products with what lies in the buffer.
inline void score_buffer(const score_codes_call& c) {
  int q = 0;
  for (; q + queries_at_once <= c.queries; q += queries_at_once) score_blocks<queries_at_once>(c, q);
  if constexpr (queries_at_once > 2) {
    if (q + 3 <= c.queries) {
      score_blocks<3>(c, q);
      return;
    }
  }
  for (; q < c.queries; ++q) score_blocks<1>(c, q);
}

/// Adds one group's part to scores[queries][16 blocks].
template <int Fields>
inline void score_codes(const score_codes_call& c) {
  // buffer: [words][blocks][16 rows][4 channels], words in the order [chunk of 32 bytes][word of it][field]
  const int64 stride = static_cast<int64>(c.blocks) * 64;
  for (int chunk = 0; chunk * 8 * Fields < c.words; ++chunk) {
    byte* to = c.buffer + chunk * 8 * Fields * stride;
    for (int b = 0; b < c.blocks; ++b) {
      words x[8];
      load_transposed(c.rows.block[b] + c.offset + 32 * chunk, c.rows.pitch, x);
#pragma GCC unroll 8
      for (int j = 0; j < 8; ++j) store_fields<Fields>(x[j], to + j * Fields * stride + b * 64, stride);
    }
  }
  score_buffer(c);
}

// ---- sums

/// Queries x 4 vectors of sums over all rows; then into 32 channels of o.
template <int Queries>
KVC_SIMD void sum_block(const sum_codes_call& c, int fields, int q, int run, float* o) {
  words sum[Queries][4];
#pragma GCC unroll 4
  for (int i = 0; i < Queries; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) sum[i][j] = word_zeros();
  }
  const byte* codes = c.buffer + run * 4 * 64;
  const uint8* weights = c.w8 + q * c.w8_pitch;
  const int64 stride = static_cast<int64>(fields) * 4 * 64;
  for (int t = 0; t < 2 * c.blocks; ++t) {
    words v[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) v[j] = load_words(codes + j * 64);
#pragma GCC unroll 4
    for (int i = 0; i < Queries; ++i) {
      const words x = broadcast_8(weights + i * c.w8_pitch);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) sum[i][j] = dot_weights(sum[i][j], x, v[j]);
    }
    codes += stride;
    weights += 8;
  }
#pragma GCC unroll 4
  for (int i = 0; i < Queries; ++i) {
    const weight_group& g = c.group[q + i];
    const floats scale = broadcast(g.scale);
    const words start = broadcast_word(g.start);
    words z[2];
    if (fields == 1) {
      gather_sums<1>(sum[i], z);
    } else if (fields == 2) {
      gather_sums<2>(sum[i], z);
    } else {
      gather_sums<4>(sum[i], z);
    }
    float* at = o + (q + i) * c.o_pitch + run * 16;
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      store(multiply_add(to_floats(add_words(z[j], start)), scale, load(at)), at);
      at += 16 * fields;
    }
  }
}

/// The products with what lies in the buffer.
inline void sum_buffer(const sum_codes_call& c, int fields, float* o) {
  for (int run = 0; run < fields; ++run) {
    int q = 0;
    for (; q + queries_at_once <= c.queries; q += queries_at_once) sum_block<queries_at_once>(c, fields, q, run, o);
    if constexpr (queries_at_once > 2) {
      if (q + 3 <= c.queries) {
        sum_block<3>(c, fields, q, run, o);
        q += 3;
      }
    }
    for (; q < c.queries; ++q) sum_block<1>(c, fields, q, run, o);
  }
}

/// Adds one group's part to o[queries][channels]; o has room for whole chunks of 32 bytes of codes.
template <int Fields>
inline void sum_codes(const sum_codes_call& c) {
  for (int chunk = 0; chunk * 32 < c.bytes; ++chunk) {
    // buffer: [8 rows at a time][4 Fields vectors of 8 channels x 8 rows]; lanes 2m and 2m + 1: four rows each
    byte* to = c.buffer;
    for (int t = 0; t < 2 * c.blocks; ++t) {
      words x[4];
      load_interleaved(c.rows.block[t / 2] + t % 2 * 8 * c.rows.pitch + c.offset + 32 * chunk, c.rows.pitch, x);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) store_fields<Fields>(x[j], to + j * Fields * 64, 64);
      to += Fields * 4 * 64;
    }
    sum_buffer(c, Fields, c.o + chunk * 32 * Fields);
  }
}

// ---- what lies between them

/// 16 stored constants {scale, offset} in fp16 per block -> scale[16 blocks], middle = offset + centre x scale.
inline void load_constants(const constants_call& c) {
  const floats centre = broadcast(c.centre);
  for (int b = 0; b < c.blocks; ++b) {
    floats scale;
    floats offset;
    halves(load_words(c.pairs + b * 64), scale, offset);
    store(scale, c.scale + b * 16);
    store(multiply_add(scale, centre, offset), c.middle + b * 16);
  }
}

/// e^x as core/math.hpp has it, with fused products.
KVC_SIMD floats exponential(floats x) {
  const floats top = broadcast(88.72f);
  const floats bottom = broadcast(-87.33f);
  const floats shift = broadcast(12582912.0f);
  const floats clamped = less_of(top, greater_of(bottom, x));  // NaN stays: the second operand is taken
  const floats shifted = multiply_add(clamped, broadcast(1.44269504f), shift);
  const floats n = subtract(shifted, shift);
  const floats r = multiply_add(n, broadcast(2.12194440e-4f), multiply_add(n, broadcast(-0.693359375f), clamped));
  floats p = broadcast(1.9875691500e-4f);
  p = multiply_add(p, r, broadcast(1.3981999507e-3f));
  p = multiply_add(p, r, broadcast(8.3334519073e-3f));
  p = multiply_add(p, r, broadcast(4.1665795894e-2f));
  p = multiply_add(p, r, broadcast(1.6666665459e-1f));
  p = multiply_add(p, r, broadcast(5.0000001201e-1f));
  p = add(multiply_add(multiply(p, r), r, r), broadcast(1.0f));
  // Scores never exceed their maximum: n <= 0, and 2^n is a normal number.
  const floats power = as_floats(add_words(shift_left_23(as_words(shifted)), broadcast_word(0x3f800000)));
  return select(below(x, bottom), zeros(), multiply(p, power));
}

/// tanh x as core/math.hpp has it, with fused products.
KVC_SIMD floats hyperbolic_tangent(floats x) {
  const floats one = broadcast(1.0f);
  const floats a = absolute(x);
  const floats e = exponential(multiply(broadcast(-2.0f), a));
  const floats big = divide(subtract(one, e), add(one, e));
  const floats x2 = multiply(x, x);
  const floats inner = multiply_add(x2, broadcast(-0.133333333f), broadcast(0.333333333f));
  const floats series = multiply(a, multiply_add(multiply(x2, broadcast(-1.0f)), inner, one));
  return with_sign_of(x, select(below(a, broadcast(0.04f)), series, big));
}

// Per-query numbers of 16 queries stand in one vector: reducing 16 vectors at once costs little more than reducing one.

KVC_SIMD floats scaled_query(const quantize_query_call& c, const float* q, int i) {
  return c.scale == nullptr ? load(q + i) : multiply(load(q + i), load(c.scale + i));
}

/// Queries' groups of channels in 8 bits, times the scales of the channels where those belong to keys.
template <int Fields>
inline void quantize_query(const quantize_query_call& c) {
  for (int begin = 0; begin < c.queries; begin += 16) {
    const int count = min_of(16, c.queries - begin);
    floats part[16];
    floats middle[16];
    for (int n = 0; n < count; ++n) {
      const float* q = c.q + (begin + n) * c.q_pitch;
      floats greatest = zeros();
      floats sum = zeros();
      for (int i = 0; i < c.channels; i += 16) {
        greatest = greater_of(absolute(scaled_query(c, q, i)), greatest);
        sum = c.middle == nullptr ? add(load(q + i), sum) : multiply_add(load(q + i), load(c.middle + i), sum);
      }
      part[n] = greatest;
      middle[n] = sum;
    }
    for (int n = count; n < 16; ++n) part[n] = middle[n] = zeros();
    alignas(64) float scales[16];
    alignas(64) float inverse[16];
    alignas(64) float sums[16];
    alignas(64) float starts[16];
    const floats top = greatest_each(part);
    const words none = below(top, broadcast(1e-30f));
    store(select(none, zeros(), multiply(top, broadcast(1 / 127.0f))), scales);
    store(select(none, zeros(), divide(broadcast(127.0f), top)), inverse);
    store(sum_each(middle), sums);
    for (int n = 0; n < count; ++n) {
      const float* q = c.q + (begin + n) * c.q_pitch;
      const floats by = broadcast(inverse[n]);
      words total = word_zeros();
      for (int i = 0; i < c.channels; i += 16) {
        const words w = nearest(multiply(scaled_query(c, q, i), by));
        total = add_words(total, w);
        store_query<Fields>(w, c.q8 + (begin + n) * c.q8_pitch + i);
      }
      part[n] = to_floats(total);
    }
    store(multiply(sum_each(part), broadcast(-static_cast<float>(c.centre))), starts);  // whole numbers below 2^24
    for (int n = 0; n < count; ++n) {
      c.group[(begin + n) * c.group_pitch] = {scales[n], sums[n], whole_number(starts[n])};
    }
  }
}

/// From scores to weights, the queries' states going along:
///   s = cap(scale (s + constant));  m' = max(m, s);  s = e^(s - m');  l = l e^(m - m') + sum(s)
/// Rows that the mask hides get the weight 0. NaN is passed over by the maximum, and stays.
inline void softmax(const softmax_call& c) {
  const floats scale = broadcast(c.scale);
  const floats lowest = broadcast(-infinity());
  for (int begin = 0; begin < c.queries; begin += 16) {
    const int count = min_of(16, c.queries - begin);
    floats part[16];
    alignas(64) float m[16];
    alignas(64) float l[16];
    for (int i = 0; i < count; ++i) {
      float* s = c.scores + (begin + i) * c.score_pitch;
      const floats constant = broadcast(c.constants[begin + i]);
      const uint8* mask = c.mask == nullptr ? nullptr : c.mask + (begin + i) / c.group * c.mask_pitch;
      floats greatest = lowest;
      for (int b = 0; b < c.blocks; ++b) {
        floats x = multiply(scale, add(load(s + b * 16), constant));
        if (c.cap > 0) x = multiply(broadcast(c.cap), hyperbolic_tangent(divide(x, broadcast(c.cap))));
        if (mask != nullptr) x = select(load_mask(mask + b * 16), x, lowest);
        store(x, s + b * 16);
        greatest = greater_of(x, greatest);
      }
      part[i] = greatest;
      m[i] = c.states[begin + i].m;
      l[i] = c.states[begin + i].l;
    }
    for (int i = count; i < 16; ++i) {
      part[i] = lowest;
      m[i] = l[i] = 0;
    }
    const floats old = load(m);
    const floats top = greater_of(greatest_each(part), old);
    const floats factor = select(below(old, top), exponential(subtract(old, top)), broadcast(1.0f));
    store(top, m);
    for (int i = 0; i < count; ++i) {
      float* s = c.scores + (begin + i) * c.score_pitch;
      const floats by = broadcast(m[i] == -infinity() ? 0.0f : m[i]);  // all scores -inf: all weights 0
      floats sum = zeros();
      for (int b = 0; b < c.blocks; ++b) {
        const floats p = exponential(subtract(load(s + b * 16), by));
        store(p, s + b * 16);
        sum = add(sum, p);
      }
      part[i] = sum;
    }
    store(multiply_add(load(l), factor, sum_each(part)), l);
    alignas(64) float f[16];
    store(factor, f);
    for (int i = 0; i < count; ++i) {
      c.states[begin + i].m = m[i];
      c.states[begin + i].l = l[i];
      c.factors[begin + i] = f[i];
    }
  }
}

/// Weights of one group in 8 bits: w8 = p scale / its greatest x 255, and middles += sum_t p middle. Rows are rounded
/// up or down by a pattern whose mean is 1/2 (the bit-reversed row number), not to nearest: many small weights would
/// all become zero.
inline void quantize_weights(const quantize_weights_call& c) {
  alignas(64) static constexpr float pattern[16] = {1 / 32.f,  17 / 32.f, 9 / 32.f,  25 / 32.f, 5 / 32.f,  21 / 32.f,
                                                    13 / 32.f, 29 / 32.f, 3 / 32.f,  19 / 32.f, 11 / 32.f, 27 / 32.f,
                                                    7 / 32.f,  23 / 32.f, 15 / 32.f, 31 / 32.f};
  const floats rounding = load(pattern);
  for (int begin = 0; begin < c.queries; begin += 16) {
    const int count = min_of(16, c.queries - begin);
    floats part[16];
    floats middle[16];
    for (int i = 0; i < count; ++i) {
      const float* p = c.p + (begin + i) * c.p_pitch;
      const uint8* mask = c.mask == nullptr ? nullptr : c.mask + (begin + i) / c.query_group * c.mask_pitch;
      floats greatest = zeros();
      floats sum = zeros();
      for (int b = 0; b < c.blocks; ++b) {
        floats scale = load(c.scale + b * 16);
        floats mid = load(c.middle + b * 16);
        if (mask != nullptr) {
          const words m = load_mask(mask + b * 16);
          scale = keep(scale, m);
          mid = keep(mid, m);
        }
        const floats x = load(p + b * 16);
        greatest = greater_of(multiply(x, scale), greatest);
        sum = multiply_add(x, mid, sum);
      }
      part[i] = greatest;
      middle[i] = sum;
    }
    for (int i = count; i < 16; ++i) part[i] = middle[i] = zeros();
    alignas(64) float inverse[16];
    alignas(64) float scales[16];
    alignas(64) float sums[16];
    const floats top = greatest_each(part);
    const words none = below(top, broadcast(1e-30f));
    store(select(none, zeros(), multiply(top, broadcast(1 / 255.0f))), scales);
    store(select(none, zeros(), divide(broadcast(255.0f), top)), inverse);
    store(sum_each(middle), sums);
    for (int i = 0; i < count; ++i) {
      const float* p = c.p + (begin + i) * c.p_pitch;
      const uint8* mask = c.mask == nullptr ? nullptr : c.mask + (begin + i) / c.query_group * c.mask_pitch;
      uint8* w8 = c.w8 + (begin + i) * c.w8_pitch;
      const floats by = broadcast(inverse[i]);
      words total = word_zeros();
      for (int b = 0; b < c.blocks; ++b) {
        floats scale = load(c.scale + b * 16);
        if (mask != nullptr) scale = keep(scale, load_mask(mask + b * 16));
        const words w = truncate(multiply_add(multiply(load(p + b * 16), scale), by, rounding));
        total = add_words(total, w);
        store_bytes(w, w8 + b * 16);
      }
      part[i] = to_floats(total);
    }
    alignas(64) float totals[16];
    store(multiply(sum_each(part), broadcast(-static_cast<float>(c.centre))), totals);  // whole numbers below 2^24
    for (int i = 0; i < count; ++i) {
      c.group[begin + i] = {scales[i], whole_number(totals[i])};
      c.middles[(begin + i) * c.middle_pitch] += sums[i];
    }
  }
}
