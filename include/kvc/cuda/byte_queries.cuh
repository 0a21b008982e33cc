// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cuda/byte_block.cuh"

// Queries on their way to products of bytes: into the stored space, and to operands, once per block.

namespace kvc::inline v0_1::cuda::detail {

/// The model's queries of this warp: asked for early, as memory is far.
template <class Spec, class T, int Queries>
__device__ void byte_block<Spec, T, Queries>::load_queries(const rows_view<const T>& q, loaded_queries& x) const {
#pragma unroll
  for (int f = 0; f < folds; ++f) {
    const int n = warp_index + f * warps;
    if (n >= count) continue;
    const T* source = q.at(first_row + (query + n) / group(), (query + n) % group());
#pragma unroll
    for (int i = 0; i * 32 < Spec::query_width; ++i) {
      x[f][i] = i * 32 + lane() < Spec::query_width ? to_float(source[i * 32 + lane()]) : 0.0f;
    }
  }
}

/// A stream's part of a folded query, of which x[c] is this lane's of channel 32 c + lane, as operands of products from
/// chunk Begin on. Returns its scale, and what its groups add up to in such units.
template <class Spec, class T, int Queries>
template <class Rows, int Begin, int Groups, int Unit>
__device__ float byte_block<Spec, T, Queries>::put_query(const float* x, int n, float (&sum)[Rows::groups]) const {
  uint32 top_bits = 0;
#pragma unroll
  for (int c = 0; c < Rows::chunks; ++c) top_bits = max_of(top_bits, __float_as_uint(x[c]) & 0x7fffffffu);
  top_bits = __reduce_max_sync(~0u, top_bits);  // what is not finite is larger
  const bool is_finite_query = top_bits < 0x7f800000u;
  const bool is_used = is_finite_query && top_bits > 0x00800000u;
  const float top = __uint_as_float(top_bits);
  const float inverse = is_used ? 127.0f * reciprocal_of(top) : 0.0f;
  // Integers are the low bits of floats whose units they are; finer ones for the sums, which are exact in one step.
  constexpr float whole = 0x1.8p23f;
  constexpr float fine = 0x1.8p9f;
  constexpr float fine_unit = 0x1p-14f;
  static_assert(Rows::chunks * 32 * 127 < 1 << 17);
  // A word of 4-bit codes holds 8 channels of a row: the even ones in its low nibbles, which are the first half of a
  // product's depth, the odd ones in its high nibbles. Bytes are in their order.
  const int half = Rows::bits == 4 ? lane() % 2 : lane() / 16;
  const int of_half = Rows::bits == 4 ? lane() / 2 : lane() % 16;
  byte* to = shared + query_at + Begin * operand_bytes + half * (16 * queries) + n * 16 + of_half;
#pragma unroll
  for (int g = 0; g < Rows::groups; ++g) {
    int32 sum8 = 0;
    int32 fine_sum = 0;
#pragma unroll
    for (int c = Rows::group_begin(g); c < Rows::group_end(g); ++c) {
      const float scaled = is_used ? x[c] * inverse : 0.0f;
      const int32 q = __float_as_int(scaled + whole) - __float_as_int(whole);
      sum8 += q;
      fine_sum += __float_as_int(scaled + fine) - __float_as_int(fine);
      to[c * operand_bytes] = static_cast<byte>(q);
    }
    sum8 = __reduce_add_sync(~0u, sum8);
    sum[g] = static_cast<float>(__reduce_add_sync(~0u, fine_sum)) * fine_unit;
    if (lane() <
        2) {  // what scores of rows 0 to 7 and of rows 8 to 15 begin with: the middle for what rounding has changed
      const int32 start = positive + __float2int_rn(Rows::middle * Unit * (sum[g] - static_cast<float>(sum8)));
      reinterpret_cast<int32*>(shared + start_at)[(Groups + g) * 2 * queries + n / 2 * 4 + n % 2 + 2 * lane()] = start;
    }
  }
  return !is_finite_query ? quiet_nan() : is_used ? top * (1 / 127.0f) : 1.0f;
}

/// A folded query's rotary part as bf16 operands.
template <class Spec, class T, int Queries>
__device__ void byte_block<Spec, T, Queries>::put_halves(const float* x, int n) const {
#pragma unroll
  for (int c = 0; c < second::width / 32; ++c) {
    byte* to = shared + query_at + (latent::chunks + 2 * c + lane() / 16) * operand_bytes +
               lane() / 8 % 2 * (16 * queries) + n * 16 + lane() % 8 * 2;
    *reinterpret_cast<uint16*>(to) = static_cast<uint16>(pack_bf16(x[c], 0.0f));
  }
}

template <class Spec, class T, int Queries>
__device__ void byte_block<Spec, T, Queries>::fold(const loaded_queries& x) const {
  using of_first = transform<first>;
  using of_second = transform<second>;
  const warp_team<> lanes;
  const float unit = params.soft_cap > 0 ? params.scale : params.scale * 1.44269504f;
#pragma unroll
  for (int f = 0; f < folds; ++f) {
    const int n = warp_index + f * warps;
    if (n >= queries) break;
    float folded[fold_chunks];
    float shift = 0;
    if constexpr (!folds_in_rows) {
#pragma unroll
      for (int c = 0; c < fold_chunks; ++c) folded[c] = n < count ? x[f][c] * unit : 0.0f;
    } else {
      float* of_model = reinterpret_cast<float*>(shared + team_at) + warp_index * fold_floats;
      float* of_rows = of_model + Spec::query_width;
      for (int c = 0; c < score_width; c += 32) of_rows[c + lane()] = 0;
      if (n < count) {
#pragma unroll
        for (int i = 0; i * 32 < Spec::query_width; ++i) {
          if (i * 32 + lane() < Spec::query_width) of_model[i * 32 + lane()] = x[f][i] * unit;
        }
        lanes.sync();
        shift = of_first::fold_query(of_model, of_rows, view.calibration.first(slot, 0), lanes);
        shift += of_second::fold_query(of_model + first::model_width, of_rows + first::width,
                                       view.calibration.second(slot, 0), lanes);
      }
      lanes.sync();
#pragma unroll
      for (int c = 0; c < fold_chunks; ++c) folded[c] = of_rows[32 * c + lane()];
      lanes.sync();
    }
    float of_latent[latent::groups];
    float of_key[max_of(1, key::groups)] = {};
    const float unit_of_latent = put_query<latent, 0, 0, code_unit>(folded, n, of_latent);
    const float inverse = reciprocal_of(unit_of_latent);
    float ratio = down * inverse;
    if constexpr (is_wide) {
      put_halves(folded + latent::chunks, n);
    } else {
      ratio = inverse * put_query<key, latent::chunks, latent::groups, key_unit>(folded + latent::chunks, n, of_key);
    }
    // What meets a row's constants, in their order (load_constants): as bf16 and the rest.
    float factor = lane() == 4 ? shift * inverse : 0.0f;
#pragma unroll
    for (int g = 0; g < latent::groups; ++g) factor = lane() == g ? of_latent[g] : factor;
#pragma unroll
    for (int g = 0; g < key::groups; ++g) factor = lane() == 5 + g ? of_key[g] * ratio : factor;
    if (lane() < 8) {
      const uint32 high = pack_bf16(factor * down, 0.0f);
      const uint32 low = pack_bf16(factor * down - low_bf16(high), 0.0f);
      uint16* to = reinterpret_cast<uint16*>(shared + factor_at + n / 16 * 512 + n % 8 * 64 + n / 8 % 2 * 8);
      to[lane() / 2 * 8 + lane() % 2] = static_cast<uint16>(high);
      to[lane() / 2 * 8 + 2 + lane() % 2] = static_cast<uint16>(low);
    }
    if (lane() == 0) {
      units()[n] = unit_of_latent / down;
      ratios()[n] = ratio;
    }
  }
}

/// Which rows the queries see, by one warp.
template <class Spec, class T, int Queries>
__device__ void byte_block<Spec, T, Queries>::put_visible() const {
  using tokens = typename Spec::tokens_policy;
  for (int n = lane(); n < queries; n += 32) {
    const visible_rows v =
        kvc::visible_at(position(min_of(n, count - 1)), tokens::sinks, tokens::window, params.window);
    visible()[n] = make_int4(static_cast<int>(v.sinks.begin), static_cast<int>(v.sinks.end),
                             static_cast<int>(v.recent.begin), static_cast<int>(v.recent.end));
  }
}

}  // namespace kvc::inline v0_1::cuda::detail
