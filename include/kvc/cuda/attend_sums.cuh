// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cuda/attend_block.cuh"

// Weighted sums of a tile of rows, and what a block has in the end.

namespace kvc::inline v0_1::cuda::detail {

template <class Spec, class T, int Queries>
__device__ void attend_block<Spec, T, Queries>::load_weights(uint32 (&b)[layout::query_blocks + 1][2], int r,
                                                             int group_or_limb) const {
  const uint16* p = weights(group_or_limb) + (r + lane() % 16) * layout::weight_stride + lane() / 16 * 8;
#pragma unroll
  for (int j = 0; j < layout::query_blocks; j += 2) {
    uint32 two[4];
    load_matrices_transposed(two, p + j * 8);
    b[j][0] = two[0], b[j][1] = two[1];
    b[j + 1][0] = two[2], b[j + 1][1] = two[3];
  }
}

template <class Spec, class T, int Queries>
__device__ void attend_block<Spec, T, Queries>::accumulate(sums& o, weight_sums& ones, bool exact) const {
  const uint32 all_ones[4] = {0x3f803f80u, 0x3f803f80u, 0x3f803f80u, 0x3f803f80u};
#pragma unroll
  for (int limb = 0; limb < (layout::limbs == 2 ? 3 : 1); ++limb) {  // high x high, rest x high, high x rest
    const uint16* v =
        tile(limb == 1 ? 1 : 0) + (lane() % 8 + lane() / 16 * 8) * layout::tile_stride + lane() / 8 % 2 * 8;
#pragma unroll
    for (int r = 0; r < layout::rows; r += 16) {
      uint32 b[layout::query_blocks + 1][2];
      if constexpr (one_group) {
        load_weights(b, r, layout::weight_groups == 1 ? (limb == 2 ? 1 : 0) : value_group(value_block(0)));
        if (one_sums > 0 && !exact) {
#pragma unroll
          for (int j = 0; j < layout::query_blocks; ++j) multiply_add(ones[0][j], all_ones, b[j][0], b[j][1]);
        }
      }
      constexpr int batch = layout::warp_values > 2 && layout::query_blocks <= 2 ? 4 : 1;  // loads come first
#pragma unroll
      for (int first_of = 0; first_of < layout::warp_values; first_of += batch) {
        uint32 a[batch][4];
#pragma unroll
        for (int i = 0; i < batch; ++i) {
          const int block = value_block(first_of + i);
          if (first_of + i >= layout::warp_values || (is_uneven && block >= layout::value_blocks)) continue;
          load_matrices_transposed(a[i], v + r * layout::tile_stride + block * 16);
        }
#pragma unroll
        for (int i = 0; i < batch; ++i) {
          const int block = value_block(first_of + i);
          if (first_of + i >= layout::warp_values || (is_uneven && block >= layout::value_blocks)) continue;
          if constexpr (!one_group) {
            load_weights(b, r, value_group(block));
            if (one_sums > 0 && !exact) {
#pragma unroll
              for (int j = 0; j < layout::query_blocks; ++j) {
                multiply_add(ones[min_of(first_of + i, max_of(1, one_sums) - 1)][j], all_ones, b[j][0], b[j][1]);
              }
            }
          }
#pragma unroll
          for (int j = 0; j < layout::query_blocks; ++j) multiply_add(o[first_of + i][j], a[i], b[j][0], b[j][1]);
        }
      }
    }
  }
}

template <class Spec, class T, int Queries>
__device__ void attend_block<Spec, T, Queries>::accumulate_seen(sums& o) const {
#pragma unroll 1
  for (int r = 0; r < layout::rows; ++r) {
    const uint16* v = tile(0) + r * layout::tile_stride;
#pragma unroll
    for (int i = 0; i < layout::warp_values; ++i) {
      if (is_uneven && value_block(i) >= layout::value_blocks) continue;
      const uint16* p =
          weights(layout::weight_groups == 1 ? 0 : value_group(value_block(i))) + r * layout::weight_stride;
#pragma unroll
      for (int j = 0; j < layout::query_blocks; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int n = j * 8 + lane() % 4 * 2 + e % 2;
          if (p[n] == hidden_weight) continue;
          const int at = value_block(i) * 16 + e / 2 * 8 + lane() / 4;
          float weight = bf16{p[n]}.value();
          float value = bf16{v[at]}.value();
          if constexpr (layout::limbs == 2) {
            weight += bf16{weights(1)[r * layout::weight_stride + n]}.value();
            value += bf16{v[layout::limb_stride + at]}.value();
          }
          o[i][j][e] += weight * value;
        }
      }
    }
  }
}

template <class Spec, class T, int Queries>
__device__ bool attend_block<Spec, T, Queries>::has_not_finite(int width) const {
  bool found = false;
  for (int i = static_cast<int>(threadIdx.x); i < layout::rows * width; i += threads) {
    found |= (tile(0)[i / width * layout::tile_stride + i % width] & 0x7f80u) == 0x7f80u;
  }
  return found;
}

template <class Spec, class T, int Queries>
__device__ void attend_block<Spec, T, Queries>::put_weights(const float (&p)[4], uint32 hidden, int n,
                                                            int group_index) const {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int at = (score_row() + 8 * i) * layout::weight_stride + n;
    uint32 bits = pack_bf16(p[2 * i], p[2 * i + 1]);
    if constexpr (layout::limbs == 2) {
      *reinterpret_cast<uint32*>(weights(1) + at) = pack_rest(p[2 * i], p[2 * i + 1], bits);
    }
    if (hidden != 0) {
      if (hidden & (1u << (2 * i))) bits = (bits & 0xffff0000u) | hidden_weight;
      if (hidden & (2u << (2 * i))) bits = (bits & 0xffffu) | static_cast<uint32>(hidden_weight) << 16;
    }
    *reinterpret_cast<uint32*>(weights(group_index) + at) = bits;
  }
}

template <class Spec, class T, int Queries>
__device__ void attend_block<Spec, T, Queries>::finish(
    int split, int splits, const sums& o, const weight_sums& ones, const float (&m)[layout::query_blocks][2],
    const float (&l)[layout::warp_queries][2], const float (&offset)[layout::weight_groups][layout::warp_queries][2],
    const attend_results& results) const {
  constexpr float ln2 = 0.693147181f;
  const bool direct = is_direct<Spec>(splits);
  float* offsets = reinterpret_cast<float*>(shared + layout::weight_at);  // [row_blocks][groups][Queries]
  __syncthreads();                                                        // the weights were read
#pragma unroll
  for (int j = 0; j < layout::warp_queries; ++j) {
    const int n = query_block(j) * 8 + lane() % 4 * 2;
    if (!has_query_block(j)) continue;
    const int block = warp() % layout::row_blocks;
    put_column_sums(l[j], maxima() + block * Queries + n);
    if constexpr (value_tile::has_offset) {
#pragma unroll
      for (int g = 0; g < layout::weight_groups; ++g) {
        put_column_sums(offset[g][j], offsets + (block * layout::weight_groups + g) * Queries + n);
      }
    }
  }
  __syncthreads();
#pragma unroll
  for (int j = 0; j < layout::query_blocks; ++j) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int n = j * 8 + lane() % 4 * 2 + i;
      if (n >= count) continue;
      const int64 row = step.row_indptr[index] + (query + n) / group();
      const int64 at = (row * view.model.query_heads + head * group() + (query + n) % group()) * splits + split;
      const int query_head = head * group() + (query + n) % group();
      softmax_state state{m[j][i] * ln2, 0};
      for (int b = 0; b < layout::row_blocks; ++b) state.l += maxima()[b * Queries + n];
      float* to = results.o + at * shape::value_pitch;
      float factor = 1;
      if (direct) {  // no other split, and the stored space is the model's
        to = results.out.at(row, query_head);
        if (params.sink_logits != nullptr) state.push(params.sink_logits[query_head], factor);
        factor = state.l == 0 ? 0.0f : factor / state.l;
      }
      if (warp() == 0 && lane() < 4) {
        if (!direct) {
          results.states[2 * at] = state.m;
          results.states[2 * at + 1] = state.l;
        } else if (results.lse != nullptr) {
          results.lse[at] = state.lse();
        }
      }
#pragma unroll
      for (int b = 0; b < layout::warp_values; ++b) {
        if (is_uneven && value_block(b) >= layout::value_blocks) continue;
        float more = 0;
        if constexpr (one_sums > 0) more = -(value_tile::above + value_tile::middle) * ones[one_group ? 0 : b][j][i];
        if constexpr (value_tile::has_offset) {
          for (int r = 0; r < layout::row_blocks; ++r) {
            more += offsets[(r * layout::weight_groups + value_group(value_block(b))) * Queries + n];
          }
        }
        const int first_channel = value_tile::channel(2 * value_block(b), lane() / 4);
        const int second_channel = value_tile::channel(2 * value_block(b) + 1, lane() / 4);
        const int limit = direct ? Spec::output_width : shape::value_pitch;
        if (first_channel < limit) to[first_channel] = (o[b][j][i] + more) * factor;
        if (second_channel < limit) to[second_channel] = (o[b][j][i + 2] + more) * factor;
      }
    }
  }
}

}  // namespace kvc::inline v0_1::cuda::detail
