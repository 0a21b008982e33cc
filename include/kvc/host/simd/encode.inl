// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Encoding rows as integers, the bytes being those of quant/integer.hpp. Included by each instruction set's file,
// inside its namespace. Groups are taken 16 at a time: their extremes in 16 vectors, then one vector of constants.

/// The stored constants of 16 groups (integer_grid::choose), from their extremes and the largest magnitude's bits.
template <quant::grid Grid>
KVC_SIMD void choose_constants(floats low, floats high, words magnitude, int bits, words& scale, words& offset,
                               floats& zero, floats& inverse) {
  const float levels = static_cast<float>(1 << bits);
  const words is_finite = less_words(magnitude, broadcast_word(0x7f800000));
  const floats largest = broadcast(3.4e38f);
  floats extent = zeros();
  offset = word_zeros();
  zero = zeros();
  if constexpr (Grid == quant::affine) {
    offset = half_below(keep(low, is_finite));
    zero = keep(add(half_values(offset), zeros()), is_finite);  // never -0
    offset = and_words(half_bits(zero), broadcast_word(0xffff));
    extent = less_of(largest, subtract(less_of(largest, high), zero));
  } else {
    extent = less_of(largest, greater_of(subtract(zeros(), low), high));
  }
  const words is_positive = and_words(below(zeros(), extent), is_finite);
  const floats step = divide(extent, broadcast(Grid == quant::affine      ? levels - 1
                                               : Grid == quant::symmetric ? levels / 2 - 1
                                                                          : levels / 2));
  scale = half_above(keep(greater_of(step, broadcast(1.17549435e-38f)), is_positive));
  const floats value = half_values(scale);
  inverse = keep(divide(broadcast(1.0f), value), below(zeros(), value));
  scale = select_words(is_finite, scale, broadcast_word(0x7e00));  // NaN: all of the group decodes to it
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

template <quant::grid Grid>
KVC_SIMD void encode_grid(const encode_call& call) {
  const encode_call c = call;  // bytes are stored, which may be anything's: not its fields'
  const int groups = c.width / c.group;
  const int constant_halves = Grid == quant::affine ? 2 : 1;
  const float levels = static_cast<float>(1 << c.bits);
  for (int begin = 0; begin < c.rows * groups; begin += 16) {
    const int count = min_of(16, c.rows * groups - begin);
    floats low[16];
    floats high[16];
    floats magnitude[16];  // of bits, which order as floats do, NaN above all
    for (int i = 0; i < 16; ++i) {
      const int at = begin + min_of(i, count - 1);
      const float* x = c.x[at / groups] + at % groups * c.group;
      floats least = load(x);
      floats most = least;
      words bits = word_zeros();
      for (int d = 0; d < c.group; d += 16) {
        const floats v = load(x + d);
        least = less_of(v, least);
        most = greater_of(v, most);
        bits = greater_words(bits, as_words(absolute(v)));
      }
      low[i] = least;
      high[i] = most;
      magnitude[i] = as_floats(bits);
    }
    alignas(64) uint32 scale_bits[16];
    alignas(64) uint32 offset_bits[16];
    alignas(64) float zero[16];
    alignas(64) float inverse[16];
    words scale;
    words offset;
    floats zeros_at;
    floats inverses;
    choose_constants<Grid>(least_each(low), greatest_each(high), greatest_words_each(magnitude), c.bits, scale, offset,
                           zeros_at, inverses);
    store_words(scale, scale_bits);
    store_words(offset, offset_bits);
    store(zeros_at, zero);
    store(inverses, inverse);
    for (int i = 0; i < count; ++i) {
      const int at = begin + i;
      byte* constants = c.constants[at / groups] + at % groups * 2 * constant_halves;
      __builtin_memcpy(constants, &scale_bits[i], 2);
      if (Grid == quant::affine) __builtin_memcpy(constants + 2, &offset_bits[i], 2);
      const int from = at % groups * c.group;
      const float* x = c.x[at / groups] + from;
      const byte* ahead = c.ahead == nullptr ? nullptr : c.ahead[at / groups];
      if (ahead != nullptr) prefetch_bytes<3>(ahead + 4 * from, 4 * c.group);
      byte* codes = c.codes[at / groups] + from * c.bits / 8;
      const floats z = broadcast(zero[i]);
      const floats by = broadcast(inverse[i]);
      int d = 0;
      if (c.bits == 4) {
        for (; d + 64 <= c.group; d += 64) {
          words w[4];
#pragma GCC unroll 4
          for (int k = 0; k < 4; ++k) w[k] = codes_of<Grid>(load(x + d + 16 * k), z, by, levels);
          store_nibbles(w, codes + d / 2);
        }
      }
      for (; d < c.group; d += 16) {
        store_packed(codes_of<Grid>(load(x + d), z, by, levels), c.bits, codes + d * c.bits / 8);
      }
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
KVC_SIMD void rotate_run(float* x, const float* signs, float scale) {
  alignas(64) static constexpr lane_signs lanes{};
  const floats s1 = load(lanes.value[0]);
  const floats s2 = load(lanes.value[1]);
  const floats s4 = load(lanes.value[2]);
  const floats s8 = load(lanes.value[3]);
  floats y[Count];
#pragma GCC unroll 8
  for (int k = 0; k < Count; ++k) {
    y[k] = multiply(load(x + 16 * k), load(signs + 16 * k));
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
      rotate_run<8>(c.x + i, c.signs + i, scale);
    } else if (run == 64) {
      rotate_run<4>(c.x + i, c.signs + i, scale);
    } else if (run == 32) {
      rotate_run<2>(c.x + i, c.signs + i, scale);
    } else {
      rotate_run<1>(c.x + i, c.signs + i, scale);
    }
  }
  for (int i = 0; i < c.width && c.block > run; i += c.block) {
    float* x = c.x + i;
    for (int half = run; half < c.block; half *= 2)
      join_strides(x, c.block, half, 2 * half == c.block ? c.scale : 1.0f);
  }
}
