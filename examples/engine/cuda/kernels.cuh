// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

// What a step computes between its matrix products and its cache: plain kernels, a thread block per row or so.

namespace engine::kernels {

/// The sum of all threads' values, for all of them. shared: 32 floats.
__device__ inline float block_sum(float x, float* shared) {
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(~0u, x, offset);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  x = threadIdx.x % 32 < blockDim.x / 32 ? shared[threadIdx.x % 32] : 0.0f;
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(~0u, x, offset);
  return x;
}

/// out[rows][width] = table[tokens[row]][width]. A block per row.
static __global__ void embed(const float* table, const std::int32_t* tokens, int width, float* out) {
  const std::int64_t row = blockIdx.x, token = tokens[row];
  for (int i = static_cast<int>(threadIdx.x); i < width; i += static_cast<int>(blockDim.x)) {
    out[row * width + i] = table[token * width + i];
  }
}

/// out[rows][width] = x / sqrt(mean(x^2) + epsilon) * weight. A block per row.
static __global__ void rms_norm(const float* x, const float* weight, int width, float epsilon, float* out) {
  __shared__ float shared[32];
  const float* in = x + static_cast<std::int64_t>(blockIdx.x) * width;
  float squares = 0;
  for (int i = static_cast<int>(threadIdx.x); i < width; i += static_cast<int>(blockDim.x)) squares += in[i] * in[i];
  const float scale = 1.0f / sqrtf(block_sum(squares, shared) / static_cast<float>(width) + epsilon);
  for (int i = static_cast<int>(threadIdx.x); i < width; i += static_cast<int>(blockDim.x)) {
    out[static_cast<std::int64_t>(blockIdx.x) * width + i] = in[i] * scale * weight[i];
  }
}

struct rotary_shape {
  const float* cos_sin;  ///< [positions][pairs]{cos, sin}
  int pairs;             ///< of a head, those that turn
  int half_dim;          ///< pairs of a head, all of them
  int query_pairs;       ///< of a row
  int kv_pairs;          ///< of a row's keys, and of its values; 0 where the layer stores none
  bool turns_keys;
};

/// Splits rows (q | k | v) into q[rows], k[rows] and v[rows], and turns q, and k if asked, by the angles of their
/// positions *length + row. A block per row; a thread takes the two elements of a pair.
static __global__ void split_and_rotate(const float2* qkv, const std::int64_t* length, rotary_shape s, float2* q,
                                        float2* k, float2* v) {
  const std::int64_t row = blockIdx.x;
  const int all = s.query_pairs + 2 * s.kv_pairs;
  const float* angles = s.cos_sin + (*length + row) * s.pairs * 2;
  for (int i = static_cast<int>(threadIdx.x); i < all; i += static_cast<int>(blockDim.x)) {
    float2 x = qkv[row * all + i];
    const bool is_query = i < s.query_pairs, is_key = !is_query && i < s.query_pairs + s.kv_pairs;
    const int pair = i % s.half_dim;  // queries and keys are whole heads
    if (pair < s.pairs && (is_query || (is_key && s.turns_keys))) {
      const float c = angles[2 * pair], sine = angles[2 * pair + 1];
      x = {x.x * c - x.y * sine, x.x * sine + x.y * c};
    }
    if (is_query) {
      q[row * s.query_pairs + i] = x;
    } else if (is_key) {
      k[row * s.kv_pairs + i - s.query_pairs] = x;
    } else {
      v[row * s.kv_pairs + i - s.query_pairs - s.kv_pairs] = x;
    }
  }
}

/// out[rows][width] = silu(gate) * up of rows (gate | up), silu(x) = x / (1 + e^-x). Blocks of elements by rows.
static __global__ void swiglu(const float* gate_up, int width, float* out) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  const std::int64_t row = blockIdx.y;
  if (i >= width) return;
  const float gate = gate_up[row * 2 * width + i], up = gate_up[row * 2 * width + width + i];
  out[row * width + i] = gate / (1.0f + expf(-gate)) * up;
}

/// The most likely token, the first of equals, becomes the next step's; it is also kept at written[*length]. One block
/// of 1024 threads.
static __global__ void __launch_bounds__(1024)
    choose_token(const float* logits, int vocabulary, const std::int64_t* length, std::int32_t* next,
                 std::int32_t* written) {
  __shared__ float best_of[32];
  __shared__ int index_of[32];
  float best = logits[0];
  int index = 0;
  const auto take = [&](float x, int i) {
    if (x > best || (x == best && i < index)) {
      best = x;
      index = i;
    }
  };
  const auto take_from_warp = [&] {
    for (int offset = 16; offset > 0; offset /= 2) {
      const float x = __shfl_xor_sync(~0u, best, offset);
      const int i = __shfl_xor_sync(~0u, index, offset);
      take(x, i);
    }
  };
#pragma unroll 8
  for (int i = static_cast<int>(threadIdx.x); i < vocabulary; i += 1024) take(logits[i], i);
  take_from_warp();
  if (threadIdx.x % 32 == 0) {
    best_of[threadIdx.x / 32] = best;
    index_of[threadIdx.x / 32] = index;
  }
  __syncthreads();
  if (threadIdx.x >= 32) return;
  best = best_of[threadIdx.x];
  index = index_of[threadIdx.x];
  take_from_warp();
  if (threadIdx.x == 0) {
    *next = index;
    written[*length] = index;
  }
}

}  // namespace engine::kernels
