// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Encoding rows as integers, the bytes being those of quant/integer.hpp. Included by each instruction set's file,
// inside its namespace. Groups are taken 16 at a time: their extremes in 16 vectors, then one vector of constants.

/// What a pass over 16 groups found, and the constants chosen from it, one lane each.
struct group_constants {
  words scale;     ///< bits of fp16
  words offset;    ///< the same
  floats zero;     ///< the offset's value
  floats inverse;  ///< of the scale's value
  words is_plain;  ///< codes need no bounds: the group is finite, and nothing of it beyond what fp16 holds
};

/// The stored constants of 16 groups (integer_grid::choose), from their extremes, which only affine grids ask for, and
/// the largest magnitude's bits.
template <quant::grid Grid>
KVC_SIMD group_constants choose_constants(floats low, floats high, words magnitude, int bits) {
  const float levels = static_cast<float>(1 << bits);
  const words is_finite = less_words(magnitude, broadcast_word(0x7f800000));
  const floats largest = broadcast(3.4e38f);
  group_constants k;
  floats extent = zeros();
  k.offset = word_zeros();
  k.zero = zeros();
  k.is_plain = is_finite;
  if constexpr (Grid == quant::affine) {
    k.is_plain = and_words(is_finite, below(broadcast(-65504.0f), low));
    k.offset = half_below(keep(low, is_finite));
    k.zero = keep(add(half_values(k.offset), zeros()), is_finite);  // never -0
    k.offset = and_words(half_bits(k.zero), broadcast_word(0xffff));
    extent = less_of(largest, subtract(less_of(largest, high), k.zero));
  } else {
    extent = less_of(largest, as_floats(magnitude));
  }
  const words is_positive = and_words(below(zeros(), extent), is_finite);
  const floats step = divide(extent, broadcast(Grid == quant::affine      ? levels - 1
                                               : Grid == quant::symmetric ? levels / 2 - 1
                                                                          : levels / 2));
  k.scale = half_above(keep(greater_of(step, broadcast(1.17549435e-38f)), is_positive));
  const floats value = half_values(k.scale);
  k.inverse = keep(divide(broadcast(1.0f), value), below(zeros(), value));
  k.is_plain = and_words(k.is_plain, below(value, broadcast(65504.0f)));
  k.scale = select_words(is_finite, k.scale, broadcast_word(0x7e00));  // NaN: all of the group decodes to it
  return k;
}

/// Codes of 16 channels.
template <quant::grid Grid>
KVC_SIMD words codes_of(floats x, floats zero, floats inverse, float levels) {
  if constexpr (Grid == quant::affine) {
    return nearest(less_of(greater_of(multiply(subtract(x, zero), inverse), zeros()), broadcast(levels - 1)));
  } else if constexpr (Grid == quant::symmetric) {
    const floats y = greater_of(multiply(x, inverse), broadcast(1 - levels / 2));
    return add_words(nearest(less_of(y, broadcast(levels / 2 - 1))), broadcast_word(static_cast<int32>(levels) / 2));
  } else {
    const floats y = greater_of(multiply(x, inverse), broadcast(-levels / 2));
    return add_words(floor_of(less_of(y, broadcast(levels / 2 - 1))), broadcast_word(static_cast<int32>(levels) / 2));
  }
}

/// The same codes of a plain group: as its scale was rounded up, numbers lie within the grid but for what rounding
/// adds, which rounding to nearest takes off again; only to the floor it could fall below, and the top is no code.
template <quant::grid Grid>
KVC_SIMD words plain_codes_of(floats x, floats zero, floats inverse, float levels) {
  if constexpr (Grid == quant::affine) {
    return nearest(multiply(subtract(x, zero), inverse));
  } else if constexpr (Grid == quant::symmetric) {
    return add_words(nearest(multiply(x, inverse)), broadcast_word(static_cast<int32>(levels) / 2));
  } else {
    const words w = floor_of(less_of(multiply(x, inverse), broadcast(levels / 2 - 1)));
    return greater_words(add_words(w, broadcast_word(static_cast<int32>(levels) / 2)), word_zeros());
  }
}

template <quant::grid Grid, bool IsPlain>
KVC_SIMD void encode_group(const float* x, int group, floats zero, floats inverse, int bits, byte* codes) {
  const float levels = static_cast<float>(1 << bits);
  const auto codes_at = [&](int d) __attribute__((always_inline)) {
    return IsPlain ? plain_codes_of<Grid>(load(x + d), zero, inverse, levels)
                   : codes_of<Grid>(load(x + d), zero, inverse, levels);
  };
  int d = 0;
  if (bits == 4) {
    for (; d + 64 <= group; d += 64) {
      words w[4];
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) w[k] = codes_at(d + 16 * k);
      store_nibbles(w, codes + d / 2);
    }
  }
  for (; d < group; d += 16) store_packed(codes_at(d), bits, codes + d * bits / 8);
}

/// A group of a call's rows.
struct group_cursor {
  int row = 0;
  int in_row = 0;
  KVC_SIMD void advance(int groups) {
    if (++in_row == groups) {
      in_row = 0;
      ++row;
    }
  }
};

/// Extremes of 16 groups, a vector each.
struct group_extremes {
  floats low[16];
  floats high[16];
  floats magnitude[16];  // of bits, which order as floats do, NaN above all
};

template <quant::grid Grid>
KVC_SIMD void find_extremes(const float* x, int group, int i, group_extremes& e) {
  floats least = load(x);
  floats most = least;
  words bits = word_zeros();
  for (int d = 0; d < group; d += 16) {
    const floats v = load(x + d);
    if constexpr (Grid == quant::affine) {
      least = less_of(v, least);
      most = greater_of(v, most);
    }
    bits = greater_words(bits, as_words(absolute(v)));
  }
  e.low[i] = least;
  e.high[i] = most;
  e.magnitude[i] = as_floats(bits);
}

/// Extremes of the next 16 groups are found while these are encoded: memory is read at an even pace.
template <quant::grid Grid>
KVC_SIMD void encode_grid(const encode_call& call) {
  const encode_call c = call;  // bytes are stored, which may be anything's: not its fields'
  const int groups = c.width / c.group;
  const int total = c.rows * groups;
  constexpr bool is_affine = Grid == quant::affine;
  group_cursor ahead;
  group_cursor here;
  group_extremes e;
  for (int i = 0; i < 16; ++i) e.low[i] = e.high[i] = e.magnitude[i] = zeros();
  for (int i = 0; i < min_of(16, total); ++i, ahead.advance(groups)) {
    find_extremes<Grid>(c.x[ahead.row] + ahead.in_row * c.group, c.group, i, e);
  }
  for (int begin = 0; begin < total; begin += 16) {
    alignas(64) uint32 scale[16];
    alignas(64) uint32 offset[16];
    alignas(64) float zero[16];
    alignas(64) float inverse[16];
    alignas(64) int32 is_plain[16];
    const group_constants k =
        choose_constants<Grid>(is_affine ? least_each(e.low) : zeros(), is_affine ? greatest_each(e.high) : zeros(),
                               greatest_words_each(e.magnitude), c.bits);
    store_words(k.scale, scale);
    store_words(k.offset, offset);
    store(k.zero, zero);
    store(k.inverse, inverse);
    store_words(k.is_plain, is_plain);
    for (int i = 0; i < min_of(16, total - begin); ++i, here.advance(groups)) {
      byte* constants = c.constants[here.row] + here.in_row * (is_affine ? 4 : 2);
      __builtin_memcpy(constants, &scale[i], 2);
      if (is_affine) __builtin_memcpy(constants + 2, &offset[i], 2);
      const int from = here.in_row * c.group;
      const float* x = c.x[here.row] + from;
      byte* codes = c.codes[here.row] + from * c.bits / 8;
      if (c.ahead != nullptr && c.ahead[here.row] != nullptr) {
        prefetch_bytes<2>(c.ahead[here.row] + 4 * from, 4 * c.group);
      }
      if (is_plain[i] != 0) {
        encode_group<Grid, true>(x, c.group, broadcast(zero[i]), broadcast(inverse[i]), c.bits, codes);
      } else {
        encode_group<Grid, false>(x, c.group, broadcast(zero[i]), broadcast(inverse[i]), c.bits, codes);
      }
      if (ahead.row == c.rows) continue;
      find_extremes<Grid>(c.x[ahead.row] + ahead.in_row * c.group, c.group, i, e);
      ahead.advance(groups);
    }
  }
}

inline void encode(const encode_call& c) {
  switch (c.grid) {
    case quant::affine:
      return encode_grid<quant::affine>(c);
    case quant::symmetric:
      return encode_grid<quant::symmetric>(c);
    case quant::midrise:
      return encode_grid<quant::midrise>(c);
  }
}

// ---- rotation

/// Butterflies between vectors, in ascending stride.
template <int Count>
KVC_SIMD void join_vectors(floats (&y)[Count]) {
#pragma GCC unroll 3
  for (int half = 1; half < Count; half *= 2) {
#pragma GCC unroll 8
    for (int k = 0; k < Count; ++k) {
      if ((k & half) != 0) continue;
      const floats a = y[k];
      const floats b = y[k + half];
      y[k] = add(a, b);
      y[k + half] = subtract(a, b);
    }
  }
}

/// The stride `half`.
KVC_SIMD void join_strides(float* x, int block, int half, float scale) {
  const floats by = broadcast(scale);
  for (int base = 0; base < block; base += 2 * half) {
    for (int i = base; i < base + half; i += 16) {
      const floats a = load(x + i);
      const floats b = load(x + i + half);
      store(multiply(add(a, b), by), x + i);
      store(multiply(subtract(a, b), by), x + i + half);
    }
  }
}

/// Lanes without the bit Half become x[l] + x[l + Half], those with it x[l - Half] - x[l]: the products are exact.
template <int Half>
KVC_SIMD floats butterfly(floats x, floats signs) {
  return add_product(exchange<Half>(x), x, signs);
}

struct lane_signs {
  float value[4][16];
  constexpr lane_signs() : value() {
    for (int i = 0; i < 64; ++i) value[i / 16][i % 16] = (i % 16 >> i / 16) % 2 == 1 ? -1.0f : 1.0f;
  }
};

/// Butterflies of the strides below 16 Count, in ascending order: within vectors, then between them.
template <int Count>
KVC_SIMD void rotate_run(const float* from, float* x, const float* signs, float scale) {
  alignas(64) static constexpr lane_signs lanes{};
  const floats s1 = load(lanes.value[0]);
  const floats s2 = load(lanes.value[1]);
  const floats s4 = load(lanes.value[2]);
  const floats s8 = load(lanes.value[3]);
  floats y[Count];
#pragma GCC unroll 8
  for (int k = 0; k < Count; ++k) {
    y[k] = multiply(load(from + 16 * k), load(signs + 16 * k));
    y[k] = butterfly<8>(butterfly<4>(butterfly<2>(butterfly<1>(y[k], s1), s2), s4), s8);
  }
  join_vectors(y);
#pragma GCC unroll 8
  for (int k = 0; k < Count; ++k) store(multiply(y[k], broadcast(scale)), x + 16 * k);
}

/// As quant/rotated.hpp has it, in the same order.
inline void rotate(const rotate_call& call) {
  const rotate_call c = call;
  const int run = min_of(c.block, 128);
  const float scale = c.block <= 128 ? c.scale : 1.0f;
  for (int i = 0; i < c.width; i += run) {
    if (run == 128) {
      rotate_run<8>(c.from + i, c.x + i, c.signs + i, scale);
    } else if (run == 64) {
      rotate_run<4>(c.from + i, c.x + i, c.signs + i, scale);
    } else if (run == 32) {
      rotate_run<2>(c.from + i, c.x + i, c.signs + i, scale);
    } else {
      rotate_run<1>(c.from + i, c.x + i, c.signs + i, scale);
    }
  }
  for (int i = 0; i < c.width && c.block > run; i += c.block) {
    float* x = c.x + i;
    for (int half = run; half < c.block; half *= 2)
      join_strides(x, c.block, half, 2 * half == c.block ? c.scale : 1.0f);
  }
}
