// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// What lies between the two products of attention on codes: stored constants, queries and weights in 8 bits, and the
// soft-max. Included by each instruction set's file, inside its namespace.

KVC_SIMD void store_constants(const constants_call& c, words pairs, int64 at) {
  floats scale;
  floats offset;
  halves(pairs, scale, offset);
  store(scale, c.scale + at);
  store(multiply_add(scale, broadcast(c.centre), offset), c.middle + at);
}

/// Stored constants {scale, offset} in fp16 -> scale, middle = offset + centre x scale.
inline void load_constants(const constants_call& c) {
  if (c.groups == 1) {
    for (int b = 0; b < c.blocks; ++b) store_constants(c, load_words(c.pairs + b * 64), b * 16);
    return;
  }
  for (int g = 0; g < c.groups; g += 8) {
    const int count = min_of(8, c.groups - g);
    words x[8];
    load_transposed(c.pairs + 4 * (g + count) - 32, 4 * c.groups, x);
    for (int i = 0; i < count; ++i) store_constants(c, x[8 - count + i], (g + i) * c.pitch);
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

/// Queries' groups of channels in 8 bits, times the scales of the channels where those belong to keys.
template <int Fields, bool IsScaled>
KVC_SIMD void quantize_queries(const quantize_query_call& call) {
  const quantize_query_call c = call;  // bytes are stored, which may be anything's: not its fields'
  const auto scaled = [&](const float* q, int i) __attribute__((always_inline)) {
    return IsScaled ? multiply(load(q + i), load(c.scale + i)) : load(q + i);
  };
  floats part[16];
  floats middle[16];
  for (int n = 0; n < c.queries; n += 4) {  // the last ones more than once rather than fewer than four
    const float* q[4];
    floats greatest[4];
    floats sum[4];
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      q[k] = c.q + min_of(n + k, c.queries - 1) * c.q_pitch;
      greatest[k] = sum[k] = zeros();
    }
    for (int i = 0; i < c.channels; i += 16) {
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        greatest[k] = greater_of(absolute(scaled(q[k], i)), greatest[k]);
        sum[k] = IsScaled ? multiply_add(load(q[k] + i), load(c.middle + i), sum[k]) : add(load(q[k] + i), sum[k]);
      }
    }
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      part[n + k] = greatest[k];
      middle[n + k] = sum[k];
    }
  }
  for (int n = round_up(c.queries, 4); n < (c.queries <= few ? few : 16); ++n) part[n] = middle[n] = zeros();
  alignas(64) float scales[16];
  alignas(64) float inverse[16];
  alignas(64) float sums[16];
  alignas(64) float starts[16];  // whole numbers below 2^24
  const floats top = greatest_each(part, c.queries);
  const words none = below(top, broadcast(1e-30f));
  store(select(none, zeros(), multiply(top, broadcast(1 / 127.0f))), scales);
  store(select(none, zeros(), divide(broadcast(127.0f), top)), inverse);
  store(sum_each(middle, c.queries), sums);
  for (int n = 0; n < c.block; n += 4) {
    words total[4] = {word_zeros(), word_zeros(), word_zeros(), word_zeros()};
    const int count = min_of(4, c.queries - n);
    int8* q8 = c.q8 + n * 4;
    for (int i = 0; i < c.channels; i += 16) {
      words w[4] = {word_zeros(), word_zeros(), word_zeros(), word_zeros()};
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        if (k >= count) break;
        w[k] = nearest(multiply(scaled(c.q + (n + k) * c.q_pitch, i), broadcast(inverse[n + k])));
        total[k] = add_words(total[k], w[k]);
        w[k] = and_words(query_order<Fields>(w[k]), broadcast_word(0xff));  // packing saturates
      }
      if (c.block == 1) {
        store_bytes(w[0], q8);
      } else if (c.block == 4) {
        store_words(pack_words(w), q8);
      } else {
        store_lanes(pack_words(w), q8, 4 * c.block);
      }
      q8 += 16 * c.block;
    }
    for (int k = 0; k < count; ++k) part[n + k] = to_floats(total[k]);
  }
  store(multiply(sum_each(part, c.queries), broadcast(-static_cast<float>(c.centre))), starts);
  for (int n = 0; n < c.queries; ++n) c.group[n * c.group_pitch] = {scales[n], sums[n], whole_number(starts[n])};
}

template <int Fields>
inline void quantize_query(const quantize_query_call& c) {
  if (c.scale == nullptr) return quantize_queries<Fields, false>(c);
  quantize_queries<Fields, true>(c);
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
    const floats top = greater_of(greatest_each(part, count), old);
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
    store(multiply_add(load(l), factor, sum_each(part, count)), l);
    alignas(64) float f[16];
    store(factor, f);
    for (int i = 0; i < count; ++i) {
      c.states[begin + i].m = m[i];
      c.states[begin + i].l = l[i];
      c.factors[begin + i] = f[i];
    }
  }
}

/// Weights of up to 8 groups in 8 bits: w8 = p scale / its greatest x 255, and middles += sum_t p middle. Rows are
/// rounded up or down by a pattern whose mean is 1/2 (the bit-reversed row number), not to nearest: many small weights
/// would all become zero.
template <int Parts>
inline void quantize_parts(const quantize_weights_call& call) {
  const quantize_weights_call c = call;  // bytes are stored, which may be anything's: not its fields'
  alignas(64) static constexpr float pattern[16] = {1 / 32.f,  17 / 32.f, 9 / 32.f,  25 / 32.f, 5 / 32.f,  21 / 32.f,
                                                    13 / 32.f, 29 / 32.f, 3 / 32.f,  19 / 32.f, 11 / 32.f, 27 / 32.f,
                                                    7 / 32.f,  23 / 32.f, 15 / 32.f, 31 / 32.f};
  constexpr int at_once = 16 / Parts;  // queries
  constexpr int packed_blocks = Parts < 4 ? 4 / Parts : 1;
  const floats rounding = load(pattern);
  for (int begin = 0; begin < c.queries; begin += at_once) {
    const int count = min_of(at_once, c.queries - begin);
    const float* p = c.p + begin * c.p_pitch;
    floats part[16];
    floats middle[16];
    for (int i = 0; i < 16; ++i) part[i] = middle[i] = zeros();
    for (int g = 0; g < c.parts; ++g) {
      const float* scale = c.scale + g * c.constants_pitch;
      const float* mid = c.middle + g * c.constants_pitch;
      for (int i = 0; i < count; i += 4) {  // the last ones more than once rather than fewer than four
        const float* at[4];
        floats greatest[4];
        floats sum[4];
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) {
          at[k] = p + min_of(i + k, count - 1) * c.p_pitch;
          greatest[k] = sum[k] = zeros();
        }
        for (int b = 0; b < c.blocks * 16; b += 16) {
          const floats s = load(scale + b);
          const floats m = load(mid + b);
#pragma GCC unroll 4
          for (int k = 0; k < 4; ++k) {
            const floats x = load(at[k] + b);
            greatest[k] = greater_of(multiply(x, s), greatest[k]);
            sum[k] = multiply_add(x, m, sum[k]);
          }
        }
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) {
          part[min_of(i + k, count - 1) * Parts + g] = greatest[k];
          middle[min_of(i + k, count - 1) * Parts + g] = sum[k];
        }
      }
    }
    alignas(64) float inverse[16];
    alignas(64) float scales[16];
    alignas(64) float sums[16];
    const floats top = greatest_each(part, count * Parts);
    const words none = below(top, broadcast(1e-30f));
    store(select(none, zeros(), multiply(top, broadcast(1 / 255.0f))), scales);
    store(select(none, zeros(), divide(broadcast(255.0f), top)), inverse);
    store(sum_each(middle, count * Parts), sums);
    for (int i = 0; i < count; ++i) {
      uint8* w8 = c.w8 + (begin + i) * c.w8_pitch;
      words total[Parts];
#pragma GCC unroll 8
      for (int g = 0; g < Parts; ++g) total[g] = word_zeros();
      for (int b = 0; b < c.blocks; b += packed_blocks) {
        floats x[packed_blocks];
#pragma GCC unroll 4
        for (int k = 0; k < packed_blocks; ++k) {
          x[k] = b + k < c.blocks ? load(p + i * c.p_pitch + (b + k) * 16) : zeros();
        }
#pragma GCC unroll 2
        for (int h = 0; h < Parts; h += 4) {
          words w[4];
#pragma GCC unroll 4
          for (int k = 0; k < 4; ++k) {
            const int g = h + k % min_of(Parts, 4);
            const int block = k / min_of(Parts, 4);
            w[k] = word_zeros();
            if (g >= c.parts || b + block >= c.blocks) continue;
            const floats scale = load(c.scale + g * c.constants_pitch + (b + block) * 16);
            w[k] = truncate(multiply_add(multiply(x[block], scale), broadcast(inverse[i * Parts + g]), rounding));
            total[g] = add_words(total[g], w[k]);
          }
          store_weights<Parts>(pack_words(w), w8 + b * Parts * 16 + h * 4);
        }
      }
#pragma GCC unroll 8
      for (int g = 0; g < Parts; ++g) part[i * Parts + g] = to_floats(total[g]);
    }
    alignas(64) float totals[16];  // whole numbers below 2^24
    store(multiply(sum_each(part, count * Parts), broadcast(-static_cast<float>(c.centre))), totals);
    for (int i = 0; i < count; ++i) {
      weight_groups& group = c.group[begin + i];
      for (int g = 0; g < c.parts; ++g) {
        group.scale[g] = scales[i * Parts + g];
        group.start[g] = whole_number(totals[i * Parts + g]);
        if (Parts < 8 && c.sets == 2) {
          group.scale[Parts % 8 + g] = group.scale[g];
          group.start[Parts % 8 + g] = 0;
        }
        c.middles[(begin + i) * c.middle_pitch + g] += sums[i * Parts + g];
      }
    }
  }
}

inline void quantize_unmasked(const quantize_weights_call& c) {
  if (c.parts == 1) return quantize_parts<1>(c);
  if (c.parts == 2) return quantize_parts<2>(c);
  return c.parts <= 4 ? quantize_parts<4>(c) : quantize_parts<8>(c);
}

/// Rows that are hidden have no part in it, whatever their constants are: those become 0.
inline void quantize_weights(const quantize_weights_call& c) {
  if (c.mask == nullptr) return quantize_unmasked(c);
  for (int begin = 0; begin < c.queries; begin += c.query_group) {
    const uint8* mask = c.mask + begin / c.query_group * c.mask_pitch;
    alignas(64) float scale[8 * code_tile_rows];
    alignas(64) float middle[8 * code_tile_rows];
    for (int b = 0; b < c.blocks * 16; b += 16) {
      const words seen = load_mask(mask + b);
      for (int g = 0; g < c.parts; ++g) {
        store(keep(load(c.scale + g * c.constants_pitch + b), seen), scale + g * code_tile_rows + b);
        store(keep(load(c.middle + g * c.constants_pitch + b), seen), middle + g * code_tile_rows + b);
      }
    }
    quantize_weights_call some = c;
    some.p += begin * c.p_pitch;
    some.queries = min_of(c.query_group, c.queries - begin);
    some.scale = scale;
    some.middle = middle;
    some.constants_pitch = code_tile_rows;
    some.w8 += begin * c.w8_pitch;
    some.group += begin;
    some.middles += begin * c.middle_pitch;
    quantize_unmasked(some);
  }
}
