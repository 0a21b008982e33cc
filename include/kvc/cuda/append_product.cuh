// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cuda/append_rows.cuh"
#include "kvc/cuda/mma.cuh"

// New rows of a stream whose dims are a product with a matrix, on tensor cores:
//
//   z [rows][width] = x [rows][model_width] E^T            E [width][model_width], per slot and stored head
//
// A block takes rows of one head. It makes operands of E once, in shared memory; then each warp multiplies 16 rows at a
// time, and copies the next ones meanwhile. E's rows lie in such an order that the four threads that share a row of the
// result have neighbouring channels each: they are a team with the row in registers (row_team.cuh), and what follows is
// append_rows.cuh's.
//
// Factors are sums of bf16, and the sums are fp32. E is one of two, but for 2^-18 of each element; so is x, of one if
// it is bf16. Products of two small parts are left out: 2^-18 again. So, but for what sums of fp32 lose,
//
//   |z - E x| <= 2^-16 |E| |x|                              where what is stored has 8 bits at most, 2^-9 of |z|
//
// Rows that are stored in 11 bits (fp16) take a third part, and all products down to 2^-27. Rows that are not finite
// are made by the policy's own function: products with the zeros of E are NaN in all channels.

namespace kvc::inline v0_1::cuda::detail {

/// How a stream's rows of T are multiplied by blocks of Warps warps.
template <class Stream, class T, int Warps>
struct product_rows {
  using dims = typename Stream::dims_policy;
  using stack = typename transform<Stream>::stack;
  using team = warp_team<4, true>;
  static constexpr int width = Stream::width;
  static constexpr int model_width = Stream::model_width;
  static constexpr int limbs =
      Stream::row_bytes < 2 * width || __is_same(typename Stream::codec, quant::none<bf16>) ? 2 : 3;  ///< of E
  static constexpr int x_limbs = __is_same(T, bf16) ? 1 : __is_same(T, fp16) ? 2 : limbs;
  static constexpr int steps = ceil_div(model_width, 16);  ///< of 16 channels, which a product takes
  static constexpr int tiles = ceil_div(width, 8);         ///< of 8 columns
  static constexpr int own = 2 * tiles;                    ///< columns per thread; those beyond width are zero

  /// Whether policies take the row in registers, or want it in shared memory.
  static constexpr bool shares =
      own * 4 == width && own % 8 == 0 && stack::template take_shares<team> &&
      (Stream::has_ring || quant::detail::encodes_share<typename Stream::codec, width, team>);

  /// Memory of a warp: rows that come; a model row and a stored one, or a stored one per team. Rows lie in different
  /// banks; what they are padded with is zero.
  static constexpr int row_pitch = model_width + 16 / static_cast<int>(sizeof(T));
  static constexpr int stage_bytes = round_up(16 * row_pitch * static_cast<int>(sizeof(T)), 16);
  static constexpr int pitch = round_up(width, 4) + 4;
  static constexpr int scratch_bytes = max_of(model_width + pitch, shares ? 0 : 8 * pitch) * 4;
  static constexpr int operand_bytes = ceil_div(steps, 2) * tiles * limbs * 32 * 16;
  static constexpr int most_bytes = 98 * 1024;  ///< so that all GPUs from sm_80 on have them
  static constexpr int warps = Warps;
  static constexpr int shared_bytes = operand_bytes + warps * (stage_bytes + scratch_bytes);
  static constexpr int tile_rows = 16 * warps;  ///< of a block at a time

  /// Rows that are stored in fp32 are not multiplied so.
  static constexpr bool exists = kvc::dims::detail::has_matrix<dims, model_width> &&
                                 kvc::dims::detail::takes_team<dims, model_width, warp_team<>> &&
                                 model_width % 8 == 0 && Stream::row_bytes <= 2 * width && tiles <= 20 &&
                                 shared_bytes <= most_bytes;
};

/// A pair as a sum of pairs of bf16. NaN where they are not finite.
template <int Limbs>
__device__ void split_bf16(float low, float high, uint32 (&to)[Limbs]) {
#pragma unroll
  for (int l = 0; l < Limbs; ++l) {
    to[l] = pack_bf16(low, high);
    low -= low_bf16(to[l]);
    high -= high_bf16(to[l]);
  }
}

/// E as operands of two steps, [steps / 2][tiles][limb][lane]: of the row of E that is the lane's column, four pairs of
/// channels. e: [width][model_width], pairs at once where they are Aligned; by all threads of the block.
template <class Products, bool Aligned>
__device__ void put_matrix(const float* e, uint4* to) {
  constexpr int width = Products::width;
  constexpr int model_width = Products::model_width;
  constexpr bool is_whole = 4 * Products::own == width && model_width % 32 == 0;
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll(Aligned ? 6 : 1)
  for (int i = static_cast<int>(threadIdx.x) / 32; i < ceil_div(Products::steps, 2) * Products::tiles;
       i += Products::warps) {
    const int row = Products::own * (lane / 8) + i % Products::tiles * 2 + lane / 4 % 2;
    const int first = i / Products::tiles * 32 + lane % 4 * 2;
    const float* from = e + row * model_width + first;
    uint32 limbs[4][Products::limbs];
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      float2 pair = make_float2(0, 0);
      if (is_whole || (row < width && first + 8 * p < model_width)) {
        if constexpr (Aligned) {
          pair = __ldg(reinterpret_cast<const float2*>(from + 8 * p));
        } else {
          pair = make_float2(from[8 * p], from[8 * p + 1]);
        }
      }
      split_bf16(pair.x, pair.y, limbs[p]);
    }
#pragma unroll
    for (int l = 0; l < Products::limbs; ++l) {
      to[(i * Products::limbs + l) * 32 + lane] = make_uint4(limbs[0][l], limbs[1][l], limbs[2][l], limbs[3][l]);
    }
  }
}

/// 16 rows of one head, as a warp's operands: thread l has pairs of channels of rows l / 4 and 8 more.
template <class Products, class T>
struct product_operands {
  uint32 x[Products::steps][Products::x_limbs][4];

  /// Asks for rows [first, end) of the caller's array, at most 16. to: [16][row_pitch]
  __device__ static void ask(const rows_view<const T>& rows, int head, int64 first, int64 end, bool is_wide, T* to) {
    constexpr int pitch = Products::row_pitch;
    constexpr int per_piece = 16 / static_cast<int>(sizeof(T));
    constexpr int pieces = Products::model_width / per_piece;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int count = static_cast<int>(min_of<int64>(end - first, 16));
    const T* from = rows.at(first, head);
    if (is_wide) {
#pragma unroll
      for (int n = 0; n < ceil_div(16 * pieces, 32); ++n) {
        const int row = (lane + 32 * n) / pieces;
        const int channel = (lane + 32 * n) % pieces * per_piece;
        copy_async_if(row < count, to + row * pitch + channel, from + row * rows.row_stride + channel);
      }
    } else {
#pragma unroll 1
      for (int i = lane; i < count * Products::model_width; i += 32) {
        const int row = i / Products::model_width;
        const int channel = i % Products::model_width;
        to[row * pitch + channel] = from[row * rows.row_stride + channel];
      }
    }
    commit_copies();
  }
  /// Waits for them; then their memory is free.
  __device__ void take(const T* from) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    wait_copies<0>();
    __syncwarp();
#pragma unroll
    for (int s = 0; s < Products::steps; ++s) {
      if constexpr (__is_same(T, bf16)) {
        load_matrices(x[s][0], from + lane % 16 * Products::row_pitch + 16 * s + lane / 16 * 8);
      } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int channel = 16 * s + lane % 4 * 2 + i / 2 * 8;
          const T* at = from + (lane / 4 + i % 2 * 8) * Products::row_pitch + channel;
          const bool exists = Products::model_width % 16 == 0 || channel < Products::model_width;
          uint32 limbs[Products::x_limbs];
          split_bf16(exists ? to_float(at[0]) : 0.0f, exists ? to_float(at[1]) : 0.0f, limbs);
#pragma unroll
          for (int l = 0; l < Products::x_limbs; ++l) x[s][l][i] = limbs[l];
        }
      }
    }
    __syncwarp();
  }

  /// z += x E^T: z[tile][e] of row l / 4 (e < 2) or 8 more.
  __device__ void multiply(const uint4* matrix, float (&z)[Products::tiles][4]) const {
    constexpr int limbs = Products::limbs;
    constexpr int batch = 2;  // tiles whose products are independent; other warps have more
#pragma unroll
    for (int c = 0; c < ceil_div(Products::steps, 2); ++c) {
#pragma unroll
      for (int first = 0; first < Products::tiles; first += batch) {
        uint4 e[batch][limbs];
#pragma unroll
        for (int n = 0; n < batch; ++n) {
#pragma unroll
          for (int l = 0; l < limbs; ++l) {
            if (first + n >= Products::tiles) continue;
            e[n][l] = matrix[((c * Products::tiles + first + n) * limbs + l) * 32 + threadIdx.x % 32];
          }
        }
#pragma unroll
        for (int product = 0; product < 2 * limbs * Products::x_limbs; ++product) {
          const int step = 2 * c + product % 2;
          const int of_e = product / 2 % limbs;
          const int of_x = product / 2 / limbs;
          if (of_e + of_x >= limbs || step >= Products::steps) continue;
#pragma unroll
          for (int n = 0; n < batch; ++n) {
            if (first + n >= Products::tiles) continue;
            const uint4& b = e[n][of_e];
            multiply_add(z[first + n], x[step][of_x], product % 2 == 0 ? b.x : b.z, product % 2 == 0 ? b.y : b.w);
          }
        }
      }
    }
  }
};

/// One row by the policy's own function: scratch [model_width], then the stored row. Rarely called, by a whole warp:
/// its registers are its own.
template <class Products, class T>
__device__ __noinline__ void make_row(const T* row, const float* constants, float* scratch) {
  const warp_team<> team;
  for (int c = team.rank(); c < Products::model_width; c += 32) scratch[c] = to_float(row[c]);
  team.sync();
  Products::dims::template compress<Products::model_width>(scratch, scratch + Products::model_width, constants, team);
  team.sync();
}

/// Rows of a warp's teams that are there but not finite, once more, in the policy's order. row: of the first team, x:
/// [own] of the team's row; scratch: the warp's.
template <class Products, class T>
__device__ void mend_rows(const rows_view<const T>& rows, int64 row, bool is_there, int head, const float* constants,
                          float* x, float* scratch) {
  float zero = 0;
#pragma unroll
  for (int k = 0; k < Products::own; ++k) zero = __fmaf_rn(x[k], 0.0f, zero);  // NaN once one is not finite
  const unsigned lanes = __ballot_sync(~0u, is_there && !(zero == 0));
  if (lanes == 0) return;
#pragma unroll 1
  for (int i = 0; i < 8; ++i) {
    if ((lanes >> 4 * i & 15u) == 0) continue;
    make_row<Products>(rows.at(row + i, head), constants, scratch);
    if (static_cast<int>(threadIdx.x) % 32 / 4 == i) {
#pragma unroll
      for (int k = 0; k < Products::own; ++k) {
        const int channel = Products::own * Products::team::rank() + k;
        x[k] = channel < Products::width ? scratch[Products::model_width + channel] : 0.0f;
      }
    }
    __syncwarp();
  }
}

/// The place that a lane of the warp found, as far as such a stream has it.
template <class Stream>
__device__ row_place place_from(const row_place& found, int lane) {
  const auto from = [lane](byte* p) {
    return reinterpret_cast<byte*>(__shfl_sync(~0u, reinterpret_cast<unsigned long long>(p), lane));
  };
  row_place p;
  p.position = __shfl_sync(~0u, found.position < 0 ? -1 : 0, lane);
  if constexpr (Stream::first_rows > 0) p.first = from(found.first);
  if constexpr (Stream::has_ring) {
    p.staged = from(found.staged);
  } else {
    p.segment = from(found.segment);
    p.in_page = __shfl_sync(~0u, found.in_page, lane);
  }
  return p;
}

/// Rows [block_rows block, + block_rows) of a head and stream.
template <int Warps, class Spec, bool First, bool Slots, class T, class Params>
__device__ void append_products(const append_call<Spec, T, Params>& c, unsigned block, int block_rows, byte* shared) {
  using stream_type = stream_of<Spec, First>;
  using products = product_rows<stream_type, T, Warps>;
  using rows_type = stream_rows<Spec, First>;
  constexpr int own = products::own;
  const typename products::team team;
  const warp_team<4> alone;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const unsigned heads = static_cast<unsigned>(c.view.model.stored_heads());
  const int head = static_cast<int>(block % heads);
  const int64 begin = static_cast<int64>(block / heads) * block_rows;
  int64 end = min_of(begin + block_rows, c.bounds.total_rows);
  if constexpr (!Slots) end = min_of(end, c.step.row_indptr[c.bounds.sequences]);
  if (begin >= end) return;

  // 1. The first rows are on their way while E becomes operands.
  using operands = product_operands<products, T>;
  const rows_view<const T>& rows = First ? c.first : c.second;
  const kvc::detail::head_constants constants = kvc::detail::constants_of<First>(c.view, c.slot, head);
  uint4* const matrix = reinterpret_cast<uint4*>(shared);
  byte* const of_warp = shared + products::operand_bytes + warp * (products::stage_bytes + products::scratch_bytes);
  T* const stage = reinterpret_cast<T*>(of_warp);
  float* const scratch = reinterpret_cast<float*>(of_warp + products::stage_bytes);
  int64 first = begin + 16 * warp;
  if (products::model_width % 16 != 0) {
    for (int i = lane; i < products::stage_bytes / 16; i += 32) reinterpret_cast<uint4*>(stage)[i] = uint4{};
    __syncwarp();
  }
  operands::ask(rows, head, first, end, c.is_wide, stage);
  const float* e = products::dims::template matrix<products::model_width>(constants.transform);
  if (reinterpret_cast<size_type>(e) % 8 == 0) {
    put_matrix<products, true>(e, matrix);
  } else {
    put_matrix<products, false>(e, matrix);
  }
  __syncthreads();

#pragma unroll 1
  for (; first < end; first += products::tile_rows) {
    // 2. Operands; the next rows are on their way. Places: a lane per row.
    operands x;
    x.take(stage);
    operands::ask(rows, head, first + products::tile_rows, end, c.is_wide, stage);
    row_place found;
    if (lane < 16 && first + lane < end) found = place_of<Slots, First>(c, first + lane, head, serial_team{});

    // 3. Products.
    float z[products::tiles][4] = {};
    x.multiply(matrix, z);

    // 4. To their places, as append_rows does.
    const float* of_wrappers = constants.transform + stream_type::dims_floats;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float stored[own];
#pragma unroll
      for (int k = 0; k < own; ++k) stored[k] = z[k / 2][2 * half + k % 2];
      const int64 row = first + 8 * half;
      mend_rows<products>(rows, row, row + lane / 4 < end, head, constants.transform, stored, scratch);
      const row_place place = place_from<stream_type>(found, lane / 4 + 8 * half);
      if constexpr (products::shares) {
        products::stack::forward_share(stored, of_wrappers, team);
        if constexpr (stream_type::exact_rows > 0) {
#pragma unroll
          for (int k = 0; k < own; ++k) stored[k] = bf16::from(stored[k]).value();
        }
        put_share<rows_type>(place, stored, team);
      } else {
        float* const in_shared = scratch + lane / 4 * products::pitch;
#pragma unroll
        for (int k = 0; k < own; ++k) {
          const int channel = own * team.rank() + k;
          if (channel < products::width) in_shared[channel] = stored[k];
        }
        alone.sync();
        if (place.position >= 0) {
          products::stack::forward(in_shared, of_wrappers, alone);
          round_stored<stream_type>(in_shared, alone);
          put_row<rows_type>(place, in_shared, alone);
        }
        __syncwarp();
      }
    }
  }
}

template <class Stream, class T, class Params>
inline constexpr bool multiplies = !Params::prepares && product_rows<Stream, T, 4>::exists;

/// Both streams of a composition in one launch, as far as they are products: the first blocks treat the first one.
template <class Spec, class T, class Params>
struct product_grid {
  template <bool First>
  static constexpr bool has = multiplies<stream_of<Spec, First>, T, Params>;
  static constexpr bool exists = has<true> || has<false>;
  static constexpr bool is_all = has<true> && has<false>;

  /// Warps of a block: many, if memory and registers suffice.
  template <bool First, int Warps>
  static constexpr bool fits = !has<First> || product_rows<stream_of<Spec, First>, T, Warps>::exists;
  static constexpr int warps = fits<true, 8> && fits<false, 8> ? 8 : 4;
  template <bool First>
  using products = product_rows<stream_of<Spec, First>, T, warps>;
  static constexpr int threads = 32 * warps;
  static constexpr int shared_bytes =
      max_of(has<true> ? products<true>::shared_bytes : 0, has<false> ? products<false>::shared_bytes : 0);

  /// E is worth some rows: more of them where there are blocks enough for a large GPU.
  static constexpr int64 enough_blocks = 256;
  static int block_rows(int64 rows, int heads) {
    constexpr int tile = products<true>::tile_rows;
    const int64 tiles = ceil_div<int64>(rows, tile) * heads * (is_all ? 2 : 1);
    return tile * static_cast<int>(min_of<int64>(ceil_div(tiles, enough_blocks), 1 << 16));
  }
};

template <class Spec, class T, row_preparation Params, bool Slots>
KVC_KERNEL void __launch_bounds__(product_grid<Spec, T, Params>::threads, 1)
    append_product_kernel(const __grid_constant__ append_call<Spec, T, Params> c, int block_rows) {
  extern __shared__ __align__(16) byte shared[];
  using grid = product_grid<Spec, T, Params>;
  if constexpr (grid::template has<true>) {
    if (blockIdx.x < c.first_blocks) append_products<grid::warps, Spec, true, Slots>(c, blockIdx.x, block_rows, shared);
  }
  if constexpr (grid::template has<false>) {
    if (blockIdx.x >= c.first_blocks) {
      append_products<grid::warps, Spec, false, Slots>(c, blockIdx.x - c.first_blocks, block_rows, shared);
    }
  }
}

/// Launches it over the rows of the streams that are products.
template <bool Slots, class Spec, class T, row_preparation Params>
status launch_products(append_call<Spec, T, Params> c, const char* call, cudaStream_t stream) {
  using grid = product_grid<Spec, T, Params>;
  const int heads = c.view.model.stored_heads();
  const int block_rows = grid::block_rows(c.bounds.total_rows, heads);
  const int64 blocks = ceil_div<int64>(c.bounds.total_rows, block_rows) * heads;
  if (2 * blocks > most_items) return status::invalid_argument;
  c.first_blocks = grid::template has<true> ? static_cast<unsigned>(blocks) : 0;
  return launch(append_product_kernel<Spec, T, Params, Slots>,
                dim3(static_cast<unsigned>(grid::is_all ? 2 * blocks : blocks)), grid::threads, grid::shared_bytes,
                stream, call, c, block_rows);
}

}  // namespace kvc::inline v0_1::cuda::detail
