// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cuda/append_rows.cuh"

// Groups of tokens of a per-channel codec. A block per group, sequence and stored head takes all of the group's rows:
// new ones from the caller's array, older ones from the ring. New rows are staged, as queries of this step may see them
// exactly; if the group is sealed by this step, its codes are made of the rows that the threads still have.

namespace kvc::inline v0_1::cuda::detail {

/// A thread's part of a group: channels [rank * 8, + 8) of tokens slice, slice + slices, ...
template <class Stream>
struct group_part {
  using groups = group_shares<Stream>;
  using codec = typename Stream::codec;
  using levels = typename codec::levels;
  using constants_of = typename codec::constants_of;
  static constexpr int own = groups::shares::own;
  static constexpr int own_tokens = groups::own_tokens;
  static constexpr int bits = Stream::row_bytes * 8 / Stream::width;

  float x[own_tokens][own];
  bool counts[own_tokens];  ///< whether the row is encoded

  /// Codes and constants of the group; by all threads of the block, and shared memory for group_shares::shared_bytes.
  __device__ void encode(byte* codes, byte* constants, float* shared) const {
    constexpr int width = Stream::width;
    using team = typename groups::shares::team;
    const int slice = static_cast<int>(threadIdx.x) / groups::shares::lanes;
    const int channel = team::rank() * own;
    float2* const of_warps = reinterpret_cast<float2*>(shared);  // [warps][width]
    float2* const chosen = of_warps + groups::warps * width;     // [width]

    // 1. Extremes of the thread's tokens, of the warp's, of the block's. What is not finite makes the highest infinite.
#pragma unroll
    for (int k = 0; k < own; ++k) {
      float low = infinity();
      float high = -infinity();
      float zero = 0;
#pragma unroll
      for (int j = 0; j < own_tokens; ++j) {
        if (!counts[j]) continue;
        low = fminf(low, x[j][k]);
        high = fmaxf(high, x[j][k]);
        zero = __fmaf_rn(x[j][k], 0.0f, zero);
      }
      high = zero == 0 ? high : infinity();
#pragma unroll
      for (int lane = groups::shares::lanes; lane < 32; lane *= 2) {
        low = fminf(low, __shfl_xor_sync(0xffffffffu, low, lane));
        high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, lane));
      }
      if (threadIdx.x % 32 < groups::shares::lanes) {
        of_warps[static_cast<int>(threadIdx.x) / 32 * width + channel + k] = make_float2(low, high);
      }
    }
    __syncthreads();

    // 2. A thread per channel chooses.
    for (int c = static_cast<int>(threadIdx.x); c < width; c += groups::shares::threads) {
      float2 r = of_warps[c];
#pragma unroll
      for (int w = 1; w < groups::warps; ++w) {
        r.x = fminf(r.x, of_warps[w * width + c].x);
        r.y = fmaxf(r.y, of_warps[w * width + c].y);
      }
      const quant::grid_constants k = levels::choose({r.x, r.y, r.y < infinity()});
      constants_of::store(k, constants + c * constants_of::bytes);
      chosen[c] = make_float2(levels::inverse(k), k.offset);
    }
    __syncthreads();

    // 3. Codes.
    float inverse[own];
    quant::grid_constants k[own];
#pragma unroll
    for (int i = 0; i < own; ++i) {
      inverse[i] = chosen[channel + i].x;
      k[i].offset = chosen[channel + i].y;
    }
#pragma unroll
    for (int j = 0; j < own_tokens; ++j) {
      if (!counts[j]) continue;
      const int token = slice + j * groups::slices;
      quant::pack_chunk<bits, own>([&](int i) { return levels::encode(x[j][i], k[i], inverse[i]); },
                                   codes + token * Stream::row_bytes + channel * bits / 8);
    }
  }
};

template <class Spec, bool First, class T, class Params>
__device__ void append_group(const append_call<Spec, T, Params>& c, unsigned block, float* shared) {
  using stream_type = stream_of<Spec, First>;
  using groups = group_shares<stream_type>;
  using shares = row_shares<stream_type>;
  using rows_type = stream_rows<Spec, First>;
  constexpr int own_tokens = groups::own_tokens;
  constexpr int per_group = stream_type::tokens_per_group;
  const typename shares::team team;

  // 1. Which group. The step's numbers are checked before anything is made of them.
  int head = 0;
  const unsigned most = static_cast<unsigned>(groups::most(c.bounds));
  const unsigned item = static_cast<unsigned>(row_of(c.view, block, head));
  const int i = static_cast<int>(item / most);
  const int64 committed = c.step.seq_lens[i];
  const int64 length = committed + c.step.rows(i);
  if (length <= committed || is_out_of_range(c.view, c.step, c.bounds, i, committed)) return;
  const int64 g = stream_type::seal_boundary(committed) + item % most * per_group;
  if (g >= length || is_out_of_range(c.view, c.step, c.bounds, i, g)) return;
  const bool seals = g + per_group <= stream_type::seal_boundary(length);
  const rows_type at(c.view, c.step, i, c.slot, head);

  // 2. All loads are on their way before the first is used.
  row_loads<Spec, First, T, Params> loads[own_tokens];
  own_channels<shares::own, bf16> old[own_tokens];
  const int64 first_t = g + static_cast<int>(threadIdx.x) / shares::lanes;
  const int64 first_row = c.step.row_indptr[i] - committed;  // + t: of the caller's array
  const auto is_new = [&](int64 t) { return t >= committed && t < length; };
#pragma unroll
  for (int j = 0; j < own_tokens; ++j) {
    const int64 t = first_t + j * groups::slices;
    if (is_new(t)) loads[j].load(c, first_row + t, head);
    if (seals && t < committed && t >= stream_type::first_rows) {
      old[j].load(reinterpret_cast<const bf16*>(at.exact_row(t)) + team.rank() * shares::own);
    }
  }

  // 3. New rows: transformed, rounded and staged. Older ones are so.
  const kvc::detail::head_constants constants = kvc::detail::constants_of<First>(c.view, c.slot, head);
  float* const in_shared = shares::shared_row(shared);
  group_part<stream_type> part;
#pragma unroll
  for (int j = 0; j < own_tokens; ++j) {
    const int64 t = first_t + j * groups::slices;
    float(&x)[shares::own] = part.x[j];
    loads[j].get(c, first_row + t, head, is_new(t), constants.merge_weights, x);
    store_row<Spec, First>(c, first_row + t, head, is_new(t) ? t : -1, constants, x, in_shared);
    if (is_new(t)) {
      if (t < stream_type::first_rows) {
        rows_type::write_exact_share(x, at.first + t * stream_type::exact_row_bytes, team);
      }
      rows_type::write_exact_share(x, at.staged + (t - committed) * stream_type::exact_row_bytes, team);
    } else {
      old[j].unpack(x);
    }
    part.counts[j] = t >= stream_type::first_rows;
  }

  // 4. The group's codes; groups lie within pages.
  if (!seals || g + per_group <= stream_type::first_rows) return;
  byte* const segment = at.segment_of(g);
  if (segment == nullptr) return;
  const int group = static_cast<int>(g % Spec::tokens_per_page) / per_group;
  if constexpr (Params::prepares) __syncthreads();  // rows were there
  part.encode(segment + static_cast<int64>(group) * per_group * stream_type::row_bytes,
              segment + stream_type::codes_bytes + static_cast<int64>(group) * stream_type::group_bytes, shared);
}

}  // namespace kvc::inline v0_1::cuda::detail
