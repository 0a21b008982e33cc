// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cuda/attend_tile.cuh"
#include "kvc/cuda/team.cuh"

// Keys that are stored before their rotary embedding, in fewer or other channels than the model's: a key is
//
//   k_t = R_t (M z_t + b)     M [model_width][width]: the inverse of dims and wrappers, b: what they add
//
// A block makes M once from the policies' own functions. Then each warp keeps the rows of M for its share of the
// channels in registers, as operands of products with the tile of stored rows. Products leave two channels of a row
// side by side in a thread: they are ordered so that these are a pair, which the thread turns. What it has then is an
// operand of the scores' products, so that expanded keys of few queries never reach memory.

namespace kvc::inline v0_1::cuda::detail {

template <class Units>
consteval bool is_row_scaled() {
  if constexpr (Units::exists) return Units::groups <= 1 && !Units::has_offset && Units::above == 0;
  return false;
}

/// What device_tile is for other streams: a tile of the first stream as the products with queries see it.
template <class Spec, int Rows, int Threads>
struct expanded_tile {
  using stream_type = stream_of<Spec, true>;
  using rows_type = stream_rows<Spec, true>;
  using order = pair_order<typename stream_type::rotary_policy, stream_type::model_width>;
  /// Rows as they are stored: a scale of the whole row waits until it is expanded.
  static constexpr bool scales_rows = is_row_scaled<unit_codes<typename stream_type::codec, stream_type::width>>();
  using stored = device_tile<Spec, true, false, Rows, 1, scales_rows, Threads>;

  static constexpr bool expands = true;
  static constexpr bool turns = false;
  static constexpr bool by_rows = stored::by_rows;
  static constexpr bool keeps_channels = false;
  static constexpr bool in_units = false;
  static constexpr int unit = stored::unit;
  static constexpr int width = stream_type::model_width;
  static constexpr int chunks = ceil_div(width, 16);
  static constexpr int pitch = 16 * chunks;
  static constexpr int groups = 0;  ///< of what is scored
  static constexpr int constant_groups = stored::groups;
  static constexpr int group_chunks = chunks;
  static constexpr bool has_offset = false;
  static constexpr float above = 0;
  static constexpr float middle = 0;
  static constexpr int stage_bytes = stored::stage_bytes;
  static constexpr int pieces = stored::pieces;

  KVC_HD static constexpr int channel(int slot, int e) { return order::channel(8 * slot + e); }
  KVC_HD static constexpr int group_of_slot(int) { return 0; }

  __device__ static page_blocks<pieces> find_pages(const rows_type& at, int tile, int high) {
    return stored::find_pages(at, tile, high);
  }
  __device__ static void stage(const rows_type& at, const page_blocks<pieces>& pages, int tile, int low, int high,
                               byte* to) {
    stored::stage(at, pages, tile, low, high, to);
  }
  __device__ static void put_constants(int low, int high, bool exact, const byte* staged, float2* out) {
    stored::put_constants(low, high, exact, staged, out);
  }
  /// The stored rows; they are expanded afterwards.
  __device__ static void decode(const rows_type& at, int tile, int low, int high, bool exact, const byte* staged,
                                const float* constants, const rotary::table_view& table, uint16* out, int stride,
                                int limb_stride) {
    stored::decode(at, tile, low, high, exact, staged, constants, table, out, stride, limb_stride);
  }

  static constexpr int warps = Threads / 32;
  static constexpr int row_blocks = Rows / 16;
  static constexpr int share = ceil_div(chunks, warps);   ///< blocks of 16 channels that a warp expands
  static constexpr int active = ceil_div(chunks, share);  ///< warps that have any
  static constexpr int products = stored::chunks;         ///< of 16 stored channels
  /// Whether registers hold a warp's part of M.
  static constexpr bool by_product = order::exists && products * share * 4 <= 64;
  /// Infinities need the policies' own order of sums: products with the zeros of M make them NaN.
  static constexpr bool holds_infinities = __is_same(typename stream_type::codec, quant::none<bf16>) ||
                                           __is_same(typename stream_type::codec, quant::none<fp16>);

  /// M is made in this much memory per warp, in floats: 8 columns, padded against conflicts of banks, and a row.
  static constexpr int column_stride = round_up(stream_type::width, 32) + 4;
  static constexpr int making_floats = 8 * column_stride + width;
  /// A row that is expanded by a warp: stored, and the model's.
  static constexpr int row_floats = round_up(stream_type::width, 4) + round_up(width, 4);
  /// Memory of a block while it scores: rows, or each warp's part of the scores of 8 queries.
  static constexpr int work_bytes = max_of(warps * row_floats * 4, by_product ? active* row_blocks * 32 * 16 : 0);

  /// A thread's part of M, of b, and of the queries: registers. Zero at first: of what is assigned in a loop and begins
  /// undefined, compilers assume what they like.
  struct basis {
    uint32 m[by_product ? products : 1][2 * share][2] = {};
    float b[2 * share][2] = {};
    uint32 queries[share][2] = {};

    /// scratch: making_floats of this warp.
    __device__ void make(const float* constants, float* scratch, int warp) {
      using rows = transform<stream_type>;
      const warp_team<> team;
      const int lane = team.rank();
      float* unit_vector = scratch + 8 * column_stride;
#pragma unroll 1
      for (int n = 0; n < 2 * share; ++n) {  // 8 columns
        const int first = 16 * warp * share + 8 * n;
        if constexpr (has_basis) {
          for (int i = lane; i < 8 * stream_type::width; i += 32) {
            const int c = order::channel(first + i % 8);
            scratch[i % 8 * column_stride + i / 8] =
                c < width ? stream_type::dims_policy::template basis<width>(i / 8, c, constants) : 0.0f;
          }
          team.sync();
        }
        float sums[2] = {0, 0};
#pragma unroll 1
        for (int i = 0; i < 8; ++i) {
          float* column = scratch + i * column_stride;
          float sum;
          if constexpr (has_basis) {
            sum = rows::stack::fold_query(column, constants + stream_type::dims_floats, team);
          } else {
            sum = rows::fold_channel(order::channel(first + i), unit_vector, column, constants, team);
          }
          if (i / 2 == lane % 4) sums[i % 2] = sum;
        }
        team.sync();
        uint32 part[products][2];
#pragma unroll
        for (int k = 0; k < products; ++k) {
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            part[k][h] =
                pack_bf16(element(scratch, 2 * k + h, lane % 4 * 2), element(scratch, 2 * k + h, lane % 4 * 2 + 1));
          }
        }
#pragma unroll
        for (int to = 0; to < 2 * share; ++to) {  // registers are indexed by constants alone
          if (to != n) continue;
          b[to][0] = sums[0];
          b[to][1] = sums[1];
#pragma unroll
          for (int k = 0; k < products; ++k) m[k][to][0] = part[k][0], m[k][to][1] = part[k][1];
        }
        team.sync();
      }
    }
    /// Eight queries; q: the first one's elements.
    __device__ void take_queries(const uint16* q, int stride, int warp) {
#pragma unroll
      for (int i = 0; i < share; ++i) {
        const uint32* at =
            reinterpret_cast<const uint32*>(q + lane() / 4 * stride + 16 * (warp * share + i)) + lane() % 4;
        queries[i][0] = has(warp, i) ? at[0] : 0;
        queries[i][1] = has(warp, i) ? at[4] : 0;
      }
    }

    /// Rows [16 block, 16 block + 16) of the tile whose first row is `begin`, as operands. Inside: the table has all of
    /// them; else those below end.
    template <bool Inside>
    __device__ void expand(const uint16* tile, int stride, const float2* scales, const rotary::table_view& table,
                           int begin, int end, int block, int warp, uint32 (&k)[share][4]) const {
      const int row = 16 * block + lane() / 4;
      float4 angles[share][2];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        // From the tile's first row of this thread on, they are at distances known at compile time.
        const float* at = Inside ? angles_of<order>(table, begin + lane() / 4) + (16 * block + 8 * r) * 2 * order::count
                                 : angles_of<order>(table, min_of(begin + row + 8 * r, end - 1));
#pragma unroll
        for (int i = 0; i < share; ++i) {
          angles[i][r] = load_angles<order>(at, has(warp, i) ? 8 * (warp * share + i) + lane() % 4 * 2 : 0);
        }
      }
      float x[2 * share][4] = {};
      const uint16* z = tile + (16 * block + lane() % 16) * stride + lane() / 16 * 8;
#pragma unroll
      for (int p = 0; p < products; ++p) {
        uint32 a[4];
        load_matrices(a, z + 16 * p);
#pragma unroll
        for (int n = 0; n < 2 * share; ++n) multiply_add(x[n], a, m[p][n][0], m[p][n][1]);
      }
      float scale[2] = {1, 1};
      if constexpr (constant_groups > 0) {
        scale[0] = scales[row].x;
        scale[1] = scales[row + 8].x;
      }
#pragma unroll
      for (int n = 0; n < 2 * share; ++n) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          float low = x[n][2 * r] * scale[r] + b[n][0];
          float high = x[n][2 * r + 1] * scale[r] + b[n][1];
          const float4 a = angles[n / 2][r];
          turn_pair(low, high, n % 2 == 0 ? a.x : a.z, n % 2 == 0 ? a.y : a.w);
          k[n / 2][n % 2 * 2 + r] = pack_bf16(low, high);
        }
      }
    }
  };

  __device__ static int lane() {
    return static_cast<int>(threadIdx.x) % 32;
  }
  /// Whether a warp's i-th block of 16 channels is one of the row.
  __device__ static bool has(int warp, int i) {
    return chunks == share * warps || warp * share + i < chunks;
  }

  /// An operand of few queries from rows in a thread, to a tile in memory.
  __device__ static void put(const uint32 (&k)[share][4], uint16* tile, int stride, int block, int warp) {
#pragma unroll
    for (int i = 0; i < share; ++i) {
      if (!has(warp, i)) continue;
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int row = 16 * block + lane() / 4 + e % 2 * 8;
        const int position = 16 * (warp * share + i) + e / 2 * 8 + lane() % 4 * 2;
        *reinterpret_cast<uint32*>(tile + row * stride + position) = k[i][e];
      }
    }
  }

  /// Row by row with the policies' own functions, in place, a warp per row. scratch: row_floats of this warp.
  __device__ static void expand_rows(uint16* tile, int stride, const float2* scales, const float* constants,
                                     const rotary::table_view& table, int begin, int end, float* scratch, int warp) {
    using policy = typename stream_type::rotary_policy;
    const warp_team<> team;
    float* z = scratch;
    float* x = scratch + round_up(stream_type::width, 4);
#pragma unroll 1
    for (int r = warp; r < Rows; r += warps) {
      uint16* row = tile + r * stride;
      const float scale = constant_groups > 0 ? scales[r].x : 1.0f;
      for (int i = lane(); i < stored::pitch; i += 32) {
        const int c = stored::channel(i / 8, i % 8);
        if (c < stream_type::width) z[c] = bf16{row[i]}.value() * scale;
      }
      team.sync();
      transform<stream_type>::restore(z, x, constants, team);
      const float* angles = table.at(min_of(begin + r, end - 1));
      if constexpr (rotary::detail::takes_team<policy, width, warp_team<>>) {
        policy::template rotate<width>(x, angles, team);
      } else {
        if (lane() == 0) policy::template rotate<width>(x, angles);
        team.sync();
      }
      for (int i = lane(); i < pitch; i += 32) {
        const int c = order::channel(i);
        row[i] = c < width ? bf16::from(x[c]).bits : static_cast<uint16>(0);
      }
      team.sync();
    }
  }

 private:
  static constexpr bool has_basis = requires(const float* constants) {
    stream_type::dims_policy::template basis<width>(0, 0, constants);
  };
  /// Of this thread's column of M: what stands at an element of a slot of the stored rows.
  __device__ static float element(const float* columns, int slot, int e) {
    const int c = stored::channel(slot, e);
    return c < stream_type::width ? columns[lane() / 4 * column_stride + c] : 0.0f;
  }
};

/// Nothing, where keys are scored as they are stored.
struct no_basis {};

}  // namespace kvc::inline v0_1::cuda::detail
