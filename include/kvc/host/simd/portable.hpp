// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/host/simd/calls.hpp"

#if defined(__CUDACC__)  // nvcc warns of the host compiler's pragmas
#pragma nv_diagnostic push
#pragma nv_diag_suppress 1675
#endif

// The operations that the kernels of host/simd are written with, on vectors of 16 lanes of 32 bits, for any machine.
// The other files of this folder have the same ones for one instruction set each. All of them give the same bits, but
// for add_product.

#define KVC_SIMD inline __attribute__((always_inline))

namespace kvc::inline v0_1::host::detail::portable {

// Sums that a kernel keeps in registers: queries by vectors.
inline constexpr int queries_at_once = 1;
inline constexpr int vectors_at_once = 1;
inline constexpr int score_queries = 1;  // of query_block
inline constexpr int score_sets = 1;
inline constexpr int sum_queries = 1;
inline constexpr int sum_vectors = 1;
inline constexpr int few_sum_vectors = sum_vectors;  // of up to half as many queries
inline constexpr int few = 16;                       // vectors that reductions of few read
inline constexpr bool has_own_fields = false;        // kernels for 4 and for 2 bits beside those for any number

struct floats {
  float lane[16];
};
struct words {
  int32 lane[16];
};

template <class Function>
KVC_SIMD floats make_floats(const Function& f) {
  floats y;
  for (int i = 0; i < 16; ++i) y.lane[i] = f(i);
  return y;
}
template <class Function>
KVC_SIMD words make_words(const Function& f) {
  words y;
  for (int i = 0; i < 16; ++i) y.lane[i] = f(i);
  return y;
}
KVC_SIMD int byte_of(int32 word, int i) {
  return static_cast<int>((static_cast<uint32>(word) >> (8 * i)) & 0xffu);
}

// ---- floats
KVC_SIMD floats zeros() {
  return make_floats([](int) { return 0.0f; });
}
KVC_SIMD floats broadcast(float x) {
  return make_floats([&](int) { return x; });
}
KVC_SIMD floats load(const float* p) {
  return make_floats([&](int i) { return p[i]; });
}
KVC_SIMD void store(const floats& x, float* p) {
  for (int i = 0; i < 16; ++i) p[i] = x.lane[i];
}
KVC_SIMD floats add(const floats& a, const floats& b) {
  return make_floats([&](int i) { return a.lane[i] + b.lane[i]; });
}
KVC_SIMD floats subtract(const floats& a, const floats& b) {
  return make_floats([&](int i) { return a.lane[i] - b.lane[i]; });
}
KVC_SIMD floats multiply(const floats& a, const floats& b) {
  return make_floats([&](int i) { return a.lane[i] * b.lane[i]; });
}
KVC_SIMD floats divide(const floats& a, const floats& b) {
  return make_floats([&](int i) { return a.lane[i] / b.lane[i]; });
}
/// a b + c, rounded once
KVC_SIMD floats multiply_add(const floats& a, const floats& b, const floats& c) {
  return make_floats([&](int i) { return __builtin_fmaf(a.lane[i], b.lane[i], c.lane[i]); });
}
/// c + a b: as multiply_add where the machine has it, but here rounded twice, as it may be slow.
KVC_SIMD floats add_product(const floats& c, const floats& a, const floats& b) {
  return make_floats([&](int i) { return c.lane[i] + a.lane[i] * b.lane[i]; });
}
KVC_SIMD floats absolute(const floats& x) {
  return make_floats([&](int i) { return x.lane[i] < 0 ? -x.lane[i] : x.lane[i]; });
}
/// b where one is NaN, as in less_of
KVC_SIMD floats greater_of(const floats& a, const floats& b) {
  return make_floats([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
}
KVC_SIMD floats less_of(const floats& a, const floats& b) {
  return make_floats([&](int i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
}
KVC_SIMD words as_words(const floats& x) {
  return make_words([&](int i) { return static_cast<int32>(float_bits(x.lane[i])); });
}
KVC_SIMD floats as_floats(const words& x) {
  return make_floats([&](int i) { return bits_float(static_cast<uint32>(x.lane[i])); });
}
/// x, zero in all bits where the mask is 0; masks are 0 or -1
KVC_SIMD floats keep(const floats& x, const words& mask) {
  return make_floats([&](int i) { return mask.lane[i] != 0 ? x.lane[i] : 0.0f; });
}
KVC_SIMD floats select(const words& mask, const floats& a, const floats& b) {
  return make_floats([&](int i) { return mask.lane[i] != 0 ? a.lane[i] : b.lane[i]; });
}
KVC_SIMD words below(const floats& x, const floats& limit) {
  return make_words([&](int i) { return x.lane[i] < limit.lane[i] ? -1 : 0; });
}
/// The magnitude of y, which has no sign, with the sign of x.
KVC_SIMD floats with_sign_of(const floats& x, const floats& y) {
  return make_floats([&](int i) { return bits_float(float_bits(y.lane[i]) | (float_bits(x.lane[i]) & 0x80000000u)); });
}
/// Lanes whose numbers differ in the bit Half, exchanged.
template <int Half>
KVC_SIMD floats exchange(const floats& x) {
  return make_floats([&](int l) { return x.lane[l ^ Half]; });
}
/// The upper half added to the lower one, and so on.
KVC_SIMD float sum_of(floats x) {
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) x.lane[i] += x.lane[i + half];
  }
  return x.lane[0];
}
KVC_SIMD float greatest_of(const floats& x) {
  float y = x.lane[0];
  for (int i = 1; i < 16; ++i) y = x.lane[i] > y ? x.lane[i] : y;
  return y;
}
/// Of 16 vectors at once.
KVC_SIMD floats sum_each(const floats (&v)[16], int /*count*/ = 16) {
  return make_floats([&](int i) { return sum_of(v[i]); });
}
KVC_SIMD floats greatest_each(const floats (&v)[16], int /*count*/ = 16) {
  return make_floats([&](int i) { return greatest_of(v[i]); });
}

KVC_SIMD floats least_each(const floats (&v)[16]) {
  return make_floats([&](int i) {
    float y = v[i].lane[0];
    for (int l = 1; l < 16; ++l) y = v[i].lane[l] < y ? v[i].lane[l] : y;
    return y;
  });
}

// ---- words
KVC_SIMD words word_zeros() {
  return make_words([](int) { return 0; });
}
KVC_SIMD words broadcast_word(int32 x) {
  return make_words([&](int) { return x; });
}
KVC_SIMD words load_words(const void* p) {
  words y;
  __builtin_memcpy(&y, p, 64);
  return y;
}
KVC_SIMD void store_words(const words& x, void* p) {
  __builtin_memcpy(p, &x, 64);
}
KVC_SIMD words add_words(const words& a, const words& b) {
  return make_words(
      [&](int i) { return static_cast<int32>(static_cast<uint32>(a.lane[i]) + static_cast<uint32>(b.lane[i])); });
}
KVC_SIMD words and_words(const words& a, const words& b) {
  return make_words([&](int i) { return a.lane[i] & b.lane[i]; });
}
KVC_SIMD words shift_right(const words& x, const words& bits) {
  return make_words([&](int i) { return static_cast<int32>(static_cast<uint32>(x.lane[i]) >> bits.lane[i]); });
}
KVC_SIMD words shift_left_23(const words& x) {
  return make_words([&](int i) { return static_cast<int32>(static_cast<uint32>(x.lane[i]) << 23); });
}
KVC_SIMD floats to_floats(const words& x) {
  return make_floats([&](int i) { return static_cast<float>(x.lane[i]); });
}
/// Towards zero; of numbers from 0 to 255, whatever of others.
KVC_SIMD words truncate(const floats& x) {
  return make_words([&](int i) { return x.lane[i] > 0 && x.lane[i] < 256 ? static_cast<int32>(x.lane[i]) : 0; });
}
/// To nearest, ties to even; of numbers whose magnitude is below 128, whatever of others.
KVC_SIMD words nearest(const floats& x) {
  return make_words(
      [&](int i) { return x.lane[i] > -128 && x.lane[i] < 128 ? static_cast<int32>(round_even(x.lane[i])) : 0; });
}
/// Towards minus infinity, of numbers whose magnitude is below 2^31.
KVC_SIMD words floor_of(const floats& x) {
  return make_words([&](int i) { return static_cast<int32>(__builtin_floorf(x.lane[i])); });
}
KVC_SIMD words less_words(const words& a, const words& b) {
  return make_words([&](int i) { return a.lane[i] < b.lane[i] ? -1 : 0; });
}
KVC_SIMD words greater_words(const words& a, const words& b) {
  return make_words([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
}
KVC_SIMD words select_words(const words& mask, const words& a, const words& b) {
  return make_words([&](int i) { return mask.lane[i] != 0 ? a.lane[i] : b.lane[i]; });
}
/// Of 16 vectors at once, their bits as words.
KVC_SIMD words greatest_words_each(const floats (&v)[16]) {
  return make_words([&](int i) {
    int32 y = 0;
    for (int l = 0; l < 16; ++l) y = max_of(y, static_cast<int32>(float_bits(v[i].lane[l])));
    return y;
  });
}

// ---- bytes
/// The low bytes of 16 words.
KVC_SIMD void store_bytes(const words& x, uint8* p) {
  for (int i = 0; i < 16; ++i) p[i] = static_cast<uint8>(x.lane[i]);
}
KVC_SIMD void store_bytes(const words& x, int8* p) {
  for (int i = 0; i < 16; ++i) p[i] = static_cast<int8>(x.lane[i]);
}
/// 16 channels in the order of the packed words (query_lane).
template <int Fields>
KVC_SIMD words query_order(const words& x) {
  words y;
  scatter_words<query_lane<Fields>>(x.lane, y.lane);
  return y;
}
/// Lanes 0 to 3, 4 to 7, .., `stride` bytes apart.
KVC_SIMD void store_lanes(const words& x, void* p, int64 stride) {
  for (int i = 0; i < 4; ++i) __builtin_memcpy(static_cast<byte*>(p) + i * stride, x.lane + 4 * i, 16);
}
/// Lane 4 l + k: the low bytes of the words 4 l to 4 l + 3 of w[k].
KVC_SIMD words pack_words(const words (&w)[4]) {
  return make_words([&](int i) {
    uint32 y = 0;
    for (int b = 0; b < 4; ++b) y |= static_cast<uint32>(w[i % 4].lane[i / 4 * 4 + b] & 0xff) << (8 * b);
    return static_cast<int32>(y);
  });
}
/// That, where a row's weights lie (weight_lane).
template <int Parts>
KVC_SIMD void store_weights(const words& x, uint8* p) {
  scatter_words<weight_lane<Parts>>(x.lane, p);
}
/// 16 bytes, each 0 or 255, as a mask.
KVC_SIMD words load_mask(const uint8* p) {
  return make_words([&](int i) { return p[i] != 0 ? -1 : 0; });
}
/// The fp16 numbers in the halves of 16 words.
KVC_SIMD void halves(const words& x, floats& low, floats& high) {
  low = make_floats([&](int i) { return fp16{static_cast<uint16>(x.lane[i] & 0xffff)}.value(); });
  high = make_floats([&](int i) { return fp16{static_cast<uint16>(static_cast<uint32>(x.lane[i]) >> 16)}.value(); });
}
/// The fp16 number that is x, the least one not below x, the greatest not above x; finite x, saturating.
KVC_SIMD words half_bits(const floats& x) {
  return make_words([&](int i) { return static_cast<int32>(fp16::from(x.lane[i]).bits); });
}
KVC_SIMD words half_above(const floats& x) {
  return make_words([&](int i) { return static_cast<int32>(fp16_above(x.lane[i]).bits); });
}
KVC_SIMD words half_below(const floats& x) {
  return make_words([&](int i) { return static_cast<int32>(fp16_below(x.lane[i]).bits); });
}
KVC_SIMD floats half_values(const words& x) {
  return make_floats([&](int i) { return fp16{static_cast<uint16>(x.lane[i])}.value(); });
}
/// 16 codes, each a word, packed in `bits` bits.
KVC_SIMD void store_packed(const words& x, int bits, byte* p) {
  uint8 codes[16];
  store_bytes(x, codes);
  pack_16(codes, bits, p);
}
/// 64 codes in 4 bits.
KVC_SIMD void store_nibbles(const words (&w)[4], byte* p) {
  for (int k = 0; k < 4; ++k) store_packed(w[k], 4, p + 8 * k);
}
/// 4 bytes in all lanes.
KVC_SIMD words broadcast_4(const void* p) {
  int32 x;
  __builtin_memcpy(&x, p, 4);
  return broadcast_word(x);
}
/// Of eight words, those that the lanes name.
KVC_SIMD words pick_words(const void* eight, const words& lanes) {
  int32 x[8];
  __builtin_memcpy(x, eight, 32);
  return make_words([&](int i) { return x[lanes.lane[i]]; });
}
/// sum + the products of four unsigned codes, below 16, with four signed bytes, the same for all lanes.
KVC_SIMD words dot_query(const words& sum, const words& codes, const int8* query) {
  return make_words([&](int i) {
    int32 y = sum.lane[i];
    for (int b = 0; b < 4; ++b) y += byte_of(codes.lane[i], b) * query[b];
    return y;
  });
}
/// sum + the products of four unsigned bytes with four unsigned codes, below 16.
KVC_SIMD words dot_weights(const words& sum, const words& weights, const words& codes) {
  return make_words([&](int i) {
    int32 y = sum.lane[i];
    for (int b = 0; b < 4; ++b) y += byte_of(weights.lane[i], b) * byte_of(codes.lane[i], b);
    return y;
  });
}

// ---- orders
/// x[j] lane r: the j-th word of row r, of 16 rows of 32 bytes.
KVC_SIMD void load_transposed(const byte* rows, int64 pitch, words (&x)[8]) {
  for (int r = 0; r < 16; ++r) {
    int32 row[8];
    __builtin_memcpy(row, rows + r * pitch, 32);
    for (int j = 0; j < 8; ++j) x[j].lane[r] = row[j];
  }
}
/// Of 4 rows of up to 64 bytes: x[j] lane 4 l + i: their bytes 16 l + 4 j + i, zeros from `bytes` rounded up to 32 on
/// at the latest.
KVC_SIMD void load_interleaved(const byte* rows, int64 pitch, int bytes, words (&x)[4]) {
  for (int j = 0; j < 4; ++j) {
    byte lanes[16][4] = {};
    for (int r = 0; r < 4; ++r) {
      for (int l = 0; l < 16; ++l) {
        const int at = l / 4 * 16 + 4 * j + l % 4;
        if (at < bytes) lanes[l][r] = rows[r * pitch + at];
      }
    }
    __builtin_memcpy(&x[j], lanes, 64);
  }
}
/// Of 8 rows of 32 bytes, in the same order: lanes below 8 those of the rows 0 to 3, the others of the rows 4 to 7.
KVC_SIMD void load_interleaved_twice(const byte* rows, int64 pitch, words (&x)[4]) {
  words low[4];
  words high[4];
  load_interleaved(rows, pitch, 32, low);
  load_interleaved(rows + 4 * pitch, pitch, 32, high);
  for (int j = 0; j < 4; ++j) x[j] = make_words([&](int i) { return i < 8 ? low[j].lane[i] : high[j].lane[i - 8]; });
}

#include "kvc/host/simd/codes.inl"
#include "kvc/host/simd/encode.inl"
#include "kvc/host/simd/softmax.inl"
#include "kvc/host/simd/tiles.inl"

inline constexpr kernel_table table = make_table();

}  // namespace kvc::inline v0_1::host::detail::portable

#undef KVC_SIMD
#if defined(__CUDACC__)
#pragma nv_diagnostic pop
#endif
