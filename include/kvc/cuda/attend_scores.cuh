// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cuda/attend_block.cuh"

// Queries in the stored space, and the scores of a tile of rows.

namespace kvc::inline v0_1::cuda::detail {

template <class Spec, class T, int Queries>
__device__ void attend_block<Spec, T, Queries>::fold(const rows_view<const T>& q) const {
  const warp_team<> team;
  float* model_query = reinterpret_cast<float*>(shared + layout::tile_at) + warp() * layout::fold_floats;
  float* folded = model_query + Spec::query_width;
  for (int n = warp(); n < Queries; n += warps) {
    for (int c = lane(); c < shape::score_pitch; c += 32) folded[c] = 0;
    float shift = 0;
    if (n < count) {
      const T* source = q.at(step.row_indptr[index] + (query + n) / group(), head * group() + (query + n) % group());
      for (int c = lane(); c < Spec::query_width; c += 32) model_query[c] = to_float(source[c]);
      team.sync();
      shift = transform<first>::fold_query(model_query, folded, first_constants(), team);
      if constexpr (Spec::is_latent) {
        shift += transform<second>::fold_query(model_query + first::model_width, folded + shape::first_pitch,
                                               second_constants(), team);
      }
    }
    if (lane() == 0) {
      shifts()[n] = shift;
      positions()[n] = static_cast<int>(position(min_of(n, count - 1)));
    }
    team.sync();
    place<first_tile>(folded, 0, n, query_sums());
    if constexpr (Spec::is_latent) {
      place<second_tile>(folded + shape::first_pitch, shape::first_pitch, n,
                         query_sums() + first_tile::groups * Queries);
    }
    team.sync();
  }
}

template <class Spec, class T, int Queries>
template <class Tile>
__device__ void attend_block<Spec, T, Queries>::place(const float* folded, int begin, int n, float* group_sums) const {
  float sum[max_of(1, Tile::groups)] = {};
  for (int s = lane(); s < Tile::pitch / 8; s += 32) {
    for (int i = 0; i < 8; i += 2) {
      const float low = folded[Tile::channel(s, i)];
      const float high = folded[Tile::channel(s, i + 1)];
      const uint32 pair = pack_bf16(low, high);
      const int at = n * layout::query_stride + begin + 8 * s + i;
      *reinterpret_cast<uint32*>(queries(0) + at) = pair;
      if constexpr (layout::limbs == 2) {
        *reinterpret_cast<uint32*>(queries(1) + at) = pack_rest(low, high, pair);
      }
#pragma unroll
      for (int g = 0; g < Tile::groups; ++g) {
        if (Tile::group_of_slot(s) == g) sum[g] += low_bf16(pair) + high_bf16(pair);
      }
    }
  }
  for (int g = 0; g < Tile::groups; ++g) {
    const float total = warp_team<>::sum(sum[g]);
    if (lane() == 0) group_sums[g * Queries + n] = total;
  }
}

template <class Spec, class T, int Queries>
template <int Groups, int Channels>
__device__ void attend_block<Spec, T, Queries>::multiply(scores (&d)[Groups], int begin, int key_limb,
                                                         int query_limb) const {
  const uint16* k =
      tile(key_limb) + (warp() % layout::row_blocks * 16 + lane() % 16) * layout::tile_stride + lane() / 16 * 8 + begin;
  const uint16* q = queries(query_limb) + lane() % 8 * layout::query_stride + lane() / 8 * 8 + begin;
  scores odd = {};
#pragma unroll
  for (int c = 0; c < Channels; c += 32) {
    const bool pair = c + 16 < Channels;
#pragma unroll
    for (int g = 0; g < Groups; ++g) {
      uint32 a[2][4];
      load_matrices(a[0], k + g * Channels + c);
      if (pair) load_matrices(a[1], k + g * Channels + c + 16);
#pragma unroll
      for (int j = 0; j < layout::warp_queries; ++j) {
        if (!has_query_block(j)) continue;
        uint32 b[4];
        load_matrices(
            b, q + query_block(j) * 8 * layout::query_stride + g * Channels + (pair ? c : c - (lane() / 16) * 16));
        multiply_add(d[g][j], a[0], b[0], b[1]);
        if (pair) multiply_add(Groups == 1 ? odd[j] : d[g][j], a[1], b[2], b[3]);
      }
    }
  }
  if constexpr (Groups == 1) {
#pragma unroll
    for (int j = 0; j < layout::warp_queries; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) d[0][j][i] += odd[j][i];
    }
  }
}

template <class Spec, class T, int Queries>
template <class Tile, int Begin>
__device__ void attend_block<Spec, T, Queries>::score_part(scores& s, const float2* scales,
                                                           const float* group_sums) const {
  if constexpr (Tile::groups == 0) {
    scores d[1] = {};
    multiply<1, Tile::pitch>(d, Begin, 0, 0);
    if constexpr (layout::limbs == 2) {
      multiply<1, Tile::pitch>(d, Begin, 1, 0);
      multiply<1, Tile::pitch>(d, Begin, 0, 1);
    }
#pragma unroll
    for (int j = 0; j < layout::warp_queries; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) s[j][i] += d[0][j][i];
    }
  } else {
    scores d[Tile::groups] = {};
    if constexpr (Tile::groups == 1) {
      multiply<1, Tile::pitch>(d, Begin, 0, 0);
    } else {  // a group has slots in both halves
      constexpr int half = Tile::group_chunks * 8;
      multiply<Tile::groups, half>(d, Begin, 0, 0);
      multiply<Tile::groups, half>(d, Begin + Tile::chunks * 8, 0, 0);
    }
#pragma unroll
    for (int g = 0; g < Tile::groups; ++g) {
      float2 k[2] = {scales[g * layout::rows + score_row()], scales[g * layout::rows + score_row() + 8]};
      k[0].y -= Tile::above * k[0].x;
      k[1].y -= Tile::above * k[1].x;
#pragma unroll
      for (int j = 0; j < layout::warp_queries; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) s[j][i] += k[i / 2].x * d[g][j][i];
        if constexpr (Tile::has_offset || Tile::above != 0) {
          const int n = min_of(query_block(j) * 8, Queries - 8) + lane() % 4 * 2;
          const float2 sum = *reinterpret_cast<const float2*>(group_sums + g * Queries + n);
          s[j][0] += k[0].y * sum.x;
          s[j][1] += k[0].y * sum.y;
          s[j][2] += k[1].y * sum.x;
          s[j][3] += k[1].y * sum.y;
        }
      }
    }
  }
}

// A warp's half of a part: half of its groups, or of the products of the only one.

template <class Spec, class T, int Queries>
template <class Tile, int Begin>
__device__ int attend_block<Spec, T, Queries>::half_element(int i) const {
  const int half = warp() / layout::row_blocks;
  if constexpr (Tile::groups > 1) {
    constexpr int groups = Tile::groups / 2;  // they take turns, first over the one half of the slots
    constexpr int channels = Tile::group_chunks * 8;
    constexpr int products = groups * channels / 16;
    return Begin + i / products * Tile::chunks * 8 + (half * groups + i % groups) * channels +
           i % products / groups * 16;
  } else {
    return Begin + half * (Tile::pitch / 2) + i * 16;
  }
}

template <class Spec, class T, int Queries>
template <class Tile, int Begin>
__device__ void attend_block<Spec, T, Queries>::hold(held_queries& held) const {
  if constexpr (halves) {
    const uint16* q = queries(0) + (lane() % 8 + lane() / 16 * 8) * layout::query_stride + lane() / 8 % 2 * 8;
#pragma unroll
    for (int i = 0; i < Tile::pitch / 32; ++i) {
      uint32 two[4];
      load_matrices(two, q + half_element<Tile, Begin>(i));
      held[Begin / 32 + i][0][0] = two[0], held[Begin / 32 + i][0][1] = two[1];
      held[Begin / 32 + i][1][0] = two[2], held[Begin / 32 + i][1][1] = two[3];
    }
  }
}

template <class Spec, class T, int Queries>
template <class Tile, int Begin>
__device__ void attend_block<Spec, T, Queries>::score_half(float (&s)[2][4], const held_queries& held,
                                                           const float2* scales, const float* group_sums) const {
  if constexpr (halves) {
    constexpr int groups = Tile::groups > 1 ? Tile::groups / 2 : 1;
    constexpr int products = Tile::pitch / 32;
    constexpr int batch = 4;  // loads come first
    const int half = warp() / layout::row_blocks;
    const uint16* k =
        tile(0) + (warp() % layout::row_blocks * 16 + lane() % 16) * layout::tile_stride + lane() / 16 * 8;
    float d[groups][2][4] = {};
#pragma unroll
    for (int first_of = 0; first_of < products; first_of += batch) {
      uint32 a[batch][4];
#pragma unroll
      for (int i = 0; i < batch; ++i) {
        if (first_of + i < products) load_matrices(a[i], k + half_element<Tile, Begin>(first_of + i));
      }
#pragma unroll
      for (int i = 0; i < batch; ++i) {
        if (first_of + i >= products) continue;
        const auto& b = held[Begin / 32 + first_of + i];
#pragma unroll
        for (int j = 0; j < 2; ++j) multiply_add(d[(first_of + i) % groups][j], a[i], b[j][0], b[j][1]);
      }
    }
#pragma unroll
    for (int g = 0; g < groups; ++g) {
      float2 k[2] = {make_float2(1, 0), make_float2(1, 0)};
      const int group = Tile::groups > 1 ? half * groups + g : 0;
      if constexpr (Tile::groups > 0) {
        k[0] = scales[group * layout::rows + score_row()];
        k[1] = scales[group * layout::rows + score_row() + 8];
      }
#pragma unroll
      for (int j = 0; j < 2; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) s[j][i] += k[i / 2].x * d[g][j][i];
        if constexpr (Tile::groups > 0 && (Tile::has_offset || Tile::above != 0)) {
          if (Tile::groups == 1 && half == 1) continue;  // once for both halves
          const float2 sum = *reinterpret_cast<const float2*>(group_sums + group * Queries + j * 8 + lane() % 4 * 2);
          const float offset[2] = {k[0].y - Tile::above * k[0].x, k[1].y - Tile::above * k[1].x};
#pragma unroll
          for (int i = 0; i < 4; ++i) s[j][i] += offset[i / 2] * (i % 2 == 0 ? sum.x : sum.y);
        }
      }
    }
  }
}

template <class Spec, class T, int Queries>
__device__ void attend_block<Spec, T, Queries>::score_plainly(scores& s) const {
  for (int j = 0; j < layout::warp_queries; ++j) {
    for (int i = 0; i < 4; ++i) {
      const int k = (score_row() + i / 2 * 8) * layout::tile_stride;
      const int q = min_of(query_block(j) * 8 + lane() % 4 * 2 + i % 2, Queries - 1) * layout::query_stride;
      float sum = 0;
      for (int c = 0; c < shape::score_pitch; ++c) {
        const float key = bf16{tile(0)[k + c]}.value() + bf16{tile(1)[k + c]}.value();
        const float query_value = bf16{queries(0)[q + c]}.value() + bf16{queries(1)[q + c]}.value();
        sum += key * query_value;
      }
      s[j][i] = sum;
    }
  }
}

template <class Spec, class T, int Queries>
__device__ void attend_block<Spec, T, Queries>::score(scores& s, const held_queries& held) const {
  for (int j = 0; j < layout::warp_queries; ++j) {
    for (int i = 0; i < 4; ++i) s[j][i] = 0;
  }
  if constexpr (layout::limbs == 2) {
    if (__syncthreads_or(has_not_finite(shape::score_pitch))) {
      score_plainly(s);
      return;
    }
  }
  const float* second_sums = query_sums() + first_tile::groups * Queries;
  if constexpr (halves) {
    float own[2][4] = {};
    score_half<first_tile, 0>(own, held, first_scales(), query_sums());
    score_half<second_tile, shape::first_pitch>(own, held, second_scales(), second_sums);
    // The other block's half goes to the other warp, through the memory of the weights.
    float4* exchange = reinterpret_cast<float4*>(shared + layout::weight_at);  // [warps][32]
    const int block = query_block(0);
    const float4 given = block == 0 ? make_float4(own[1][0], own[1][1], own[1][2], own[1][3])
                                    : make_float4(own[0][0], own[0][1], own[0][2], own[0][3]);
    exchange[warp() * 32 + lane()] = given;
    __syncthreads();
    const float4 taken = exchange[(warp() + (block == 0 ? layout::row_blocks : -layout::row_blocks)) * 32 + lane()];
    s[0][0] = (block == 0 ? own[0][0] : own[1][0]) + taken.x;
    s[0][1] = (block == 0 ? own[0][1] : own[1][1]) + taken.y;
    s[0][2] = (block == 0 ? own[0][2] : own[1][2]) + taken.z;
    s[0][3] = (block == 0 ? own[0][3] : own[1][3]) + taken.w;
  } else {
    score_part<first_tile, 0>(s, first_scales(), query_sums());
    if constexpr (Spec::is_latent) score_part<second_tile, shape::first_pitch>(s, second_scales(), second_sums);
  }
}

template <class Spec, class T, int Queries>
template <bool Inside, class Basis>
__device__ void attend_block<Spec, T, Queries>::put_parts(const Basis& basis, const cursor& c, float4* parts) const {
#pragma unroll
  for (int block = 0; block < layout::row_blocks; ++block) {
    uint32 k[first_tile::share][4];
    basis.template expand<Inside>(tile(0), layout::tile_stride, first_scales(), params.rotary, c.begin, c.rows.end,
                                  block, warp(), k);
    float d[4] = {};
#pragma unroll
    for (int i = 0; i < first_tile::share; ++i) {
      if (first_tile::has(warp(), i)) multiply_add(d, k[i], basis.queries[i][0], basis.queries[i][1]);
    }
    parts[(warp() * layout::row_blocks + block) * 32 + lane()] = make_float4(d[0], d[1], d[2], d[3]);
  }
}

template <class Spec, class T, int Queries>
template <class Basis>
__device__ void attend_block<Spec, T, Queries>::score_expanded(scores& s, const Basis& basis, const held_queries& held,
                                                               const cursor& c, bool finite) const {
  byte* work = shared + layout::weight_at;
  if constexpr (expands_by_product) {
    if (finite || !__syncthreads_or(has_not_finite(first_tile::stored::pitch))) {
      // Sequences that end where the table does have a tile that it does not hold.
      const bool inside = c.begin + layout::rows <= params.rotary.positions;
      if constexpr (scores_parts) {
        float4* parts = reinterpret_cast<float4*>(work);  // [active warps][row_blocks][32]
        if (warp() < first_tile::active && inside) {
          put_parts<true>(basis, c, parts);
        } else if (warp() < first_tile::active) {
          put_parts<false>(basis, c, parts);
        }
        __syncthreads();
        for (int i = 0; i < 4; ++i) s[0][i] = 0;
#pragma unroll
        for (int w = 0; w < first_tile::active; ++w) {
          const float4 part = parts[(w * layout::row_blocks + warp() % layout::row_blocks) * 32 + lane()];
          s[0][0] += part.x, s[0][1] += part.y, s[0][2] += part.z, s[0][3] += part.w;
        }
      } else {
        uint32 k[layout::row_blocks][first_tile::share][4];
#pragma unroll
        for (int block = 0; block < layout::row_blocks; ++block) {
          basis.template expand<false>(tile(0), layout::tile_stride, first_scales(), params.rotary, c.begin, c.rows.end,
                                       block, warp(), k[block]);
        }
        __syncthreads();  // the stored rows were read
#pragma unroll
        for (int block = 0; block < layout::row_blocks; ++block) {
          first_tile::put(k[block], tile(0), layout::tile_stride, block, warp());
        }
        __syncthreads();
        score(s, held);
      }
      return;
    }
  }
  float* scratch = reinterpret_cast<float*>(work) + warp() * first_tile::row_floats;
  first_tile::expand_rows(tile(0), layout::tile_stride, first_scales(), first_constants(), params.rotary, c.begin,
                          c.rows.end, scratch, warp());
  __syncthreads();
  score(s, held);
}

template <class Spec, class T, int Queries>
__device__ uint32 attend_block<Spec, T, Queries>::hidden_scores(const cursor& c,
                                                                const span_finder<Spec, layout::rows>& find) const {
  uint32 hidden = 0;
#pragma unroll 1
  for (int bit = 0; bit < 4 * layout::warp_queries; ++bit) {
    const int n = min_of(query_block(bit / 4) * 8 + lane() % 4 * 2 + bit % 2, Queries - 1);
    const int r = score_row() + bit % 4 / 2 * 8;
    const bool seen = r >= c.low() && r < c.high() && find.sees(positions()[n], c.begin + r, c.rows.source);
    hidden |= static_cast<uint32>(!seen) << bit;
  }
  return hidden;
}

}  // namespace kvc::inline v0_1::cuda::detail
