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
        if (layout::query_blocks % layout::warp_stride != 0 && query_block(j) >= layout::query_blocks) continue;
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
template <int Begin, int Groups, int Channels>
__device__ void attend_block<Spec, T, Queries>::multiply_held(scores (&d)[Groups], const held_queries& q) const {
  const uint16* k =
      tile(0) + (warp() % layout::row_blocks * 16 + lane() % 16) * layout::tile_stride + lane() / 16 * 8 + Begin;
  constexpr int products = Groups * Channels / 16;
  constexpr int batch = 4;
  scores odd = {};
#pragma unroll
  for (int first_of = 0; first_of < products; first_of += batch) {
    uint32 a[batch][4];
#pragma unroll
    for (int i = 0; i < batch; ++i) {
      if (first_of + i < products) load_matrices(a[i], k + element<Groups, Channels>(first_of + i));
    }
#pragma unroll
    for (int i = 0; i < batch; ++i) {
      if (first_of + i >= products) continue;
      const auto& b = q[(Begin + element<Groups, Channels>(first_of + i)) / 16];
      multiply_add(Groups == 1 && i % 2 == 1 ? odd[0] : d[(first_of + i) % Groups][0], a[i], b[0], b[1]);
    }
  }
  if constexpr (Groups == 1) {
#pragma unroll
    for (int i = 0; i < 4; ++i) d[0][0][i] += odd[0][i];
  }
}

template <class Spec, class T, int Queries>
__device__ void attend_block<Spec, T, Queries>::hold(held_queries& held) const {
  if constexpr (holds_queries) {
    const uint16* q = queries(0) + (query_block(0) * 8 + lane() % 8) * layout::query_stride + lane() / 8 % 2 * 8;
#pragma unroll
    for (int i = 0; i < held_products; i += 2) {
      uint32 two[4];
      const bool pair = i + 1 < held_products;
      load_matrices(two, q + i * 16 + (pair ? lane() / 16 * 16 : 0));
      held[i][0] = two[0], held[i][1] = two[1];
      if (pair) held[i + 1][0] = two[2], held[i + 1][1] = two[3];
    }
  }
}

template <class Spec, class T, int Queries>
template <class Tile, int Begin>
__device__ void attend_block<Spec, T, Queries>::score_part(scores& s, const held_queries& held, const float2* scales,
                                                           const float* group_sums) const {
  if constexpr (Tile::groups == 0) {
    scores d[1] = {};
    if constexpr (holds_queries) {
      multiply_held<Begin, 1, Tile::pitch>(d, held);
    } else {
      multiply<1, Tile::pitch>(d, Begin, 0, 0);
    }
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
    if constexpr (Tile::groups == 1 && holds_queries) {
      multiply_held<Begin, 1, Tile::pitch>(d, held);
    } else if constexpr (Tile::groups == 1) {
      multiply<1, Tile::pitch>(d, Begin, 0, 0);
    } else {  // a group has slots in both halves
      constexpr int half = Tile::group_chunks * 8;
      if constexpr (holds_queries) {
        multiply_held<Begin, Tile::groups, half>(d, held);
        multiply_held<Begin + Tile::chunks * 8, Tile::groups, half>(d, held);
      } else {
        multiply<Tile::groups, half>(d, Begin, 0, 0);
        multiply<Tile::groups, half>(d, Begin + Tile::chunks * 8, 0, 0);
      }
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
  score_part<first_tile, 0>(s, held, first_scales(), query_sums());
  if constexpr (Spec::is_latent) {
    score_part<second_tile, shape::first_pitch>(s, held, second_scales(), query_sums() + first_tile::groups * Queries);
  }
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
