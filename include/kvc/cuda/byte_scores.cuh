// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cuda/byte_block.cuh"

// Scores of a warp's 16 rows. Products are asked for by batches of 32 bytes of a row, which are two chunks of 4-bit
// codes or one of bytes; what a batch leaves is taken while the next is under way.

namespace kvc::inline v0_1::cuda::detail {

/// The order of products: the rotary key's groups first, as their sums have units of their own.
template <class Block>
struct byte_batches {
  using latent = typename Block::latent;
  using key = typename Block::key;

  KVC_HD static constexpr int group_at(int n) { return n < key::groups ? latent::groups + n : n - key::groups; }
  KVC_HD static constexpr int begin(int g) {
    return g < latent::groups ? latent::group_begin(g) : latent::chunks + key::group_begin(g - latent::groups);
  }
  KVC_HD static constexpr int end(int g) {
    return g < latent::groups ? latent::group_end(g) : latent::chunks + key::group_end(g - latent::groups);
  }
  /// Chunks of a batch of the n-th group in this order.
  KVC_HD static constexpr int chunks_at(int n) { return n < key::groups ? 32 / key::chunk_bytes : 2; }
  /// Where a chunk lies in a row.
  KVC_HD static constexpr int offset_of(int chunk) {
    return chunk < latent::chunks ? chunk * latent::chunk_bytes
                                  : latent::row_bytes + (chunk - latent::chunks) * key::chunk_bytes;
  }
  /// Batches of the first n groups in this order.
  KVC_HD static constexpr int before(int n) {
    int sum = 0;
    for (int i = 0; i < n; ++i) sum += ceil_div(end(group_at(i)) - begin(group_at(i)), chunks_at(i));
    return sum;
  }
  /// The place of the group that a batch belongs to.
  KVC_HD static constexpr int place_of(int batch) {
    int n = 0;
    while (before(n + 1) <= batch) ++n;
    return n;
  }
  KVC_HD static constexpr int first_chunk(int batch) {
    const int n = place_of(batch);
    return begin(group_at(n)) + (batch - before(n)) * chunks_at(n);
  }
  static constexpr int count = before(Block::groups);
};

template <class Spec, class T, int Queries>
struct byte_block<Spec, T, Queries>::score_state {
  static constexpr int buffers = queries > 32 ? 1 : 2;
  products d[buffers];  ///< of a group, and of the next
  uint32 a[2][2][4];    ///< operands of a batch, and of the next
  uint32 next[4];       ///< codes of the batch after those
};

/// Scales of this thread's rows, and their constants {offsets of groups 0 to 3, 1, the key's offsets} as products take
/// them: those of number 2 (lane % 4) and the next, as bf16 of both rows, then what that leaves of both.
template <class Spec, class T, int Queries>
__device__ void byte_block<Spec, T, Queries>::load_constants(const byte* staged, row_scales& scale,
                                                             uint32 (&constants)[4]) const {
  const int part = lane() % 4;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int at = warp() * 16 + row_of(i);
    float2 of_latent[latent::groups];
    float2 of_key[max_of(1, key::groups)] = {};
    latent::constants(staged + tiles::latent_constants_at + at * latent::group_bytes, of_latent);
    if constexpr (key::groups > 0) {
      key::constants(staged + tiles::key_constants_at + at * key::group_bytes, of_key);
    }
#pragma unroll
    for (int g = 0; g < latent::groups; ++g) scale[i][g] = of_latent[g].x * up;
#pragma unroll
    for (int g = 0; g < key::groups; ++g) scale[i][latent::groups + g] = of_key[g].x * key_up;
    const auto offset = [&](int g) { return g < latent::groups ? of_latent[min_of(g, latent::groups - 1)].y : 0.0f; };
    float x = part == 0 ? offset(0) : offset(2);
    float y = part == 0 ? offset(1) : offset(3);
    x = part >= 2 ? (part == 2 ? 1.0f : key::groups > 1 ? of_key[key::groups - 1].y : 0.0f) : x;
    y = part >= 2 ? (part == 2 ? of_key[0].y : 0.0f) : y;
    constants[i] = pack_bf16(x, y);
    constants[2 + i] = pack_bf16(x - low_bf16(constants[i]), y - high_bf16(constants[i]));
  }
}

/// s += scale x products.
template <class Spec, class T, int Queries>
__device__ void byte_block<Spec, T, Queries>::fold_products(int g, const products& d, const row_scales& scale,
                                                            scores& s) const {
#pragma unroll
  for (int j = 0; j < own; ++j) {
#pragma unroll
    for (int i = 0; i < 2; ++i) s[i][j] = multiply_add_integer(d[product_at(i, j)], scale[i][g], s[i][j]);
  }
}

/// What takes `positive` off again, of groups [Begin, End).
template <int Begin, int End, class Block, int Groups>
__device__ float less_positive(const float (&scale)[Groups]) {
  float sum = scale[Begin];
#pragma unroll
  for (int g = Begin + 1; g < End; ++g) sum += scale[g];
  return multiply_add_integer(Block::positive, -sum, 0.0f);
}

/// After the rotary key's products, in units of the latents': what the rows' constants add.
template <class Spec, class T, int Queries>
__device__ void byte_block<Spec, T, Queries>::add_constants(const row_scales& scale, const uint32 (&constants)[4],
                                                            scores& s) const {
  const float base[2] = {less_positive<0, latent::groups, byte_block>(scale[0]),
                         less_positive<0, latent::groups, byte_block>(scale[1])};
  const uint4* factors = reinterpret_cast<const uint4*>(shared + factor_at) + lane();
#pragma unroll
  for (int j = 0; j < own; j += 2) {
    const float2 ratio = *reinterpret_cast<const float2*>(ratios() + query_of(j));
    float c[4];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      c[2 * i] = s[i][j] * ratio.x + base[i];
      c[2 * i + 1] = s[i][j + 1] * ratio.y + base[i];
    }
    const uint4 f = factors[j / 4 * 32];  // of two blocks of queries
    const uint32 high = j % 4 == 0 ? f.x : f.z;
    multiply_add(c, constants, high, high);
    multiply_add_half(c, constants[0], constants[1], j % 4 == 0 ? f.y : f.w);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      s[i][j] = c[2 * i];
      s[i][j + 1] = c[2 * i + 1];
    }
  }
}

template <class Spec, class T, int Queries>
template <int Batch>
__device__ void byte_block<Spec, T, Queries>::issue_batch(const byte* codes, uint64 q, score_state& t) const {
  using batches = byte_batches<byte_block>;
  constexpr int n = batches::place_of(Batch);
  constexpr int begin = batches::first_chunk(Batch);
  constexpr int end = batches::end(batches::group_at(n));
  const auto unpack = [](uint32(&a)[4], uint32 w0, uint32 w1) {
    if constexpr (code_unit == 16) {
      a[0] = w0 * 16 & 0xf0f0f0f0u;
      a[1] = w1 * 16 & 0xf0f0f0f0u;
      a[2] = w0 & 0xf0f0f0f0u;
      a[3] = w1 & 0xf0f0f0f0u;
    } else {
      a[0] = w0 & 0x0f0f0f0fu;
      a[1] = w1 & 0x0f0f0f0fu;
      a[2] = w0 >> 4 & 0x0f0f0f0fu;
      a[3] = w1 >> 4 & 0x0f0f0f0fu;
    }
  };
  products& d = t.d[n % score_state::buffers];
  if constexpr (begin == batches::begin(batches::group_at(n))) {
    const int4* starts = reinterpret_cast<const int4*>(shared + start_at) + batches::group_at(n) * (queries / 2);
#pragma unroll
    for (int j = 0; j < columns; ++j) {
      const int4 start = starts[4 * j + lane() % 4];
      d[4 * j] = start.x;
      d[4 * j + 1] = start.y;
      d[4 * j + 2] = start.z;
      d[4 * j + 3] = start.w;
    }
  }
  uint32(&a)[2][4] = t.a[Batch % 2];
  constexpr int batch_chunks = batches::chunks_at(n);
  if constexpr (batch_chunks == 2) {
    unpack(a[0], t.next[0], t.next[1]);
    unpack(a[1], t.next[2], t.next[3]);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) a[0][i] = t.next[i];
  }
  if constexpr (Batch + 1 < batches::count) {
    load_settled_matrices(t.next, codes + batches::offset_of(batches::first_chunk(Batch + 1)));
  }
  warpgroup_fence();
  multiply_warpgroup(d, a[0], q + begin * operand_bytes / 16);
  if constexpr (batch_chunks == 2 && begin + 1 < end) multiply_warpgroup(d, a[1], q + (begin + 1) * operand_bytes / 16);
  warpgroup_commit();
}

/// What follows once a batch's products are there.
template <class Spec, class T, int Queries>
template <int Batch>
__device__ void byte_block<Spec, T, Queries>::take_batch(const row_scales& scale, const uint32 (&constants)[4],
                                                         score_state& t, scores& s) const {
  using batches = byte_batches<byte_block>;
  constexpr int n = batches::place_of(Batch);
  if constexpr (Batch + 1 == batches::before(n + 1)) {
    fold_products(batches::group_at(n), t.d[n % score_state::buffers], scale, s);
    if constexpr (n == key::groups - 1) add_constants(scale, constants, s);
  }
}

template <class Spec, class T, int Queries>
template <int Batch>
__device__ void byte_block<Spec, T, Queries>::score_from(const byte* codes, uint64 q, const row_scales& scale,
                                                         const uint32 (&constants)[4], score_state& t,
                                                         scores& s) const {
  using batches = byte_batches<byte_block>;
  if constexpr (Batch < batches::count) {
    constexpr bool is_first = Batch == 0;
    constexpr bool needs_products = !is_first && score_state::buffers == 1 &&
                                    batches::place_of(Batch) != batches::place_of(is_first ? 0 : Batch - 1);
    if constexpr (needs_products) {
      warpgroup_wait<0>();
      take_batch<Batch - 1>(scale, constants, t, s);
    }
    issue_batch<Batch>(codes, q, t);
    if constexpr (!is_first && !needs_products) {
      warpgroup_wait<1>();
      take_batch<Batch - 1>(scale, constants, t, s);
    }
    score_from<Batch + 1>(codes, q, scale, constants, t, s);
  } else {
    warpgroup_wait<0>();
    take_batch<Batch - 1>(scale, constants, t, s);
  }
}

/// d = products of the rotary keys' rows in bf16 with the queries' part.
template <class Spec, class T, int Queries>
__device__ void byte_block<Spec, T, Queries>::issue_halves(const byte* codes, uint64 q, key_products& d) const {
  uint32 a[key::chunks][4];
#pragma unroll
  for (int c = 0; c < key::chunks; ++c) load_settled_matrices(a[c], codes + latent::row_bytes + c * key::chunk_bytes);
#pragma unroll
  for (float& x : d) x = 0;
  warpgroup_fence();
#pragma unroll
  for (int c = 0; c < key::chunks; ++c) {
    multiply_warpgroup_bf16(d, a[c], q + (latent::chunks + c) * operand_bytes / 16);
  }
  warpgroup_commit();
}

/// `codes`: this lane's row of matrices. Scores are in units of the queries (units()).
template <class Spec, class T, int Queries>
__device__ void byte_block<Spec, T, Queries>::score(const byte* codes, const row_scales& scale,
                                                    const uint32 (&constants)[4], scores& s) const {
  using batches = byte_batches<byte_block>;
  const uint64 q = warpgroup_operand(shared + query_at, queries);
  score_state t;
  load_settled_matrices(t.next, codes + batches::offset_of(batches::first_chunk(0)));
  if constexpr (is_wide) {
    key_products of_key;
    issue_halves(codes, q, of_key);
    if constexpr (score_state::buffers > 1) issue_batch<0>(codes, q, t);
    warpgroup_wait<score_state::buffers - 1>();
#pragma unroll
    for (int j = 0; j < own; ++j) {
#pragma unroll
      for (int i = 0; i < 2; ++i) s[i][j] = of_key[product_at(i, j)];
    }
    add_constants(scale, constants, s);
    score_from<score_state::buffers - 1>(codes, q, scale, constants, t, s);
  } else {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float start = less_positive<latent::groups, groups, byte_block>(scale[i]);
#pragma unroll
      for (int j = 0; j < own; ++j) s[i][j] = start;
    }
    score_from<0>(codes, q, scale, constants, t, s);
  }
}

}  // namespace kvc::inline v0_1::cuda::detail
