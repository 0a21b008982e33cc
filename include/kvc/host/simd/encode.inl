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
KVC_SIMD void encode_grid(const encode_call& c) {
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
      const float* x = c.x[at / groups] + at % groups * c.group;
      byte* codes = c.codes[at / groups] + at % groups * c.group * c.bits / 8;
      const floats z = broadcast(zero[i]);
      const floats by = broadcast(inverse[i]);
      for (int d = 0; d < c.group; d += 16) {
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
