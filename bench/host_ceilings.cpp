// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "host_ceilings.hpp"

#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace kvc_bench {

char result[64];  // of external linkage: what is written to it counts as used

#if defined(__x86_64__)

namespace {

// As many sums as hide the latency of their instruction on any core, of the 32 registers that there are.
constexpr int sums = 16;

volatile int any_int = 0x01010101;
volatile float any_float = 1e-6f;

}  // namespace

bool has_integer_dots() {
  return __builtin_cpu_supports("avx512vnni");
}
bool has_bf16_dots() {
  return __builtin_cpu_supports("avx512bf16");
}
bool has_fp32_fmas() {
  return __builtin_cpu_supports("avx512f") || __builtin_cpu_supports("fma");
}

[[gnu::target("avx512f,avx512vnni")]] double integer_dots(long rounds) {
  const __m512i a = _mm512_set1_epi32(any_int);
  const __m512i b = _mm512_set1_epi32(any_int);
  __m512i sum[sums];
#pragma GCC unroll 16
  for (int i = 0; i < sums; ++i) sum[i] = _mm512_set1_epi32(any_int + i);
  for (long r = 0; r < rounds; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < sums; ++i) sum[i] = _mm512_dpbusd_epi32(sum[i], a, b);
  }
  for (int i = 1; i < sums; ++i) sum[0] = _mm512_xor_si512(sum[0], sum[i]);
  std::memcpy(result, &sum[0], sizeof sum[0]);
  return static_cast<double>(rounds) * sums * 64 * 2;
}

double tile_dots(long rounds) {
  struct alignas(64) {
    std::uint8_t head[16] = {1};
    std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } const shape;
  alignas(64) static char tile[1024];
  std::memset(tile, any_int & 1, sizeof tile);
  asm volatile("ldtilecfg %0" ::"m"(shape));
  asm volatile("tileloadd (%0,%1,1), %%tmm4; tileloadd (%0,%1,1), %%tmm5" ::"r"(tile), "r"(64L) : "memory");
  for (long r = 0; r < rounds; ++r) {
    asm volatile(
        "tdpbusd %tmm5, %tmm4, %tmm0; tdpbusd %tmm5, %tmm4, %tmm1; tdpbusd %tmm5, %tmm4, %tmm2; "
        "tdpbusd %tmm5, %tmm4, %tmm3");
  }
  asm volatile("tilestored %%tmm0, (%0,%1,1); tilerelease" ::"r"(tile), "r"(64L) : "memory");
  std::memcpy(result, tile, sizeof result);
  return static_cast<double>(rounds) * 4 * 16 * 16 * 64 * 2;
}

[[gnu::target("avx512f,avx512bf16")]] double bf16_dots(long rounds) {
  const __m512bh a = _mm512_cvtne2ps_pbh(_mm512_set1_ps(any_float), _mm512_set1_ps(any_float));
  const __m512bh b = a;
  __m512 sum[sums];
#pragma GCC unroll 16
  for (int i = 0; i < sums; ++i) sum[i] = _mm512_set1_ps(any_float);
  for (long r = 0; r < rounds; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < sums; ++i) sum[i] = _mm512_dpbf16_ps(sum[i], a, b);
  }
  for (int i = 1; i < sums; ++i) sum[0] = _mm512_add_ps(sum[0], sum[i]);
  std::memcpy(result, &sum[0], sizeof sum[0]);
  return static_cast<double>(rounds) * sums * 32 * 2;
}

namespace {

[[gnu::target("avx512f")]] double fmas_512(long rounds) {
  const __m512 a = _mm512_set1_ps(any_float);
  __m512 sum[sums];
#pragma GCC unroll 16
  for (int i = 0; i < sums; ++i) sum[i] = _mm512_set1_ps(any_float);  // read anew: no two are known to be equal
  for (long r = 0; r < rounds; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < sums; ++i) sum[i] = _mm512_fmadd_ps(a, a, sum[i]);
  }
  for (int i = 1; i < sums; ++i) sum[0] = _mm512_add_ps(sum[0], sum[i]);
  std::memcpy(result, &sum[0], sizeof sum[0]);
  return static_cast<double>(rounds) * sums * 16 * 2;
}

[[gnu::target("avx2,fma")]] double fmas_256(long rounds) {
  constexpr int few = 12;  // of 16 registers
  const __m256 a = _mm256_set1_ps(any_float);
  __m256 sum[few];
#pragma GCC unroll 12
  for (int i = 0; i < few; ++i) sum[i] = _mm256_set1_ps(any_float);
  for (long r = 0; r < rounds; ++r) {
#pragma GCC unroll 12
    for (int i = 0; i < few; ++i) sum[i] = _mm256_fmadd_ps(a, a, sum[i]);
  }
  for (int i = 1; i < few; ++i) sum[0] = _mm256_add_ps(sum[0], sum[i]);
  std::memcpy(result, &sum[0], sizeof sum[0]);
  return static_cast<double>(rounds) * few * 8 * 2;
}

[[gnu::target("avx512f")]] std::uint64_t read_512(const char* p, std::size_t bytes) {
  __m512i sum[8] = {};
  std::size_t i = 0;
  for (; i + 512 <= bytes; i += 512) {
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) sum[k] = _mm512_add_epi64(sum[k], _mm512_loadu_si512(p + i + k * 64));
  }
  for (; i + 64 <= bytes; i += 64) sum[0] = _mm512_add_epi64(sum[0], _mm512_loadu_si512(p + i));
  for (int k = 1; k < 8; ++k) sum[0] = _mm512_add_epi64(sum[0], sum[k]);
  std::uint64_t x[8];
  std::memcpy(x, &sum[0], sizeof x);
  return x[0] ^ x[1] ^ x[2] ^ x[3] ^ x[4] ^ x[5] ^ x[6] ^ x[7];
}

[[gnu::target("avx512f,avx512bw,avx512bf16")]] void copy_512(const float* from, std::size_t count, std::uint16_t* to) {
  for (std::size_t i = 0; i + 32 <= count; i += 32) {
    const __m512bh x = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(from + i + 16), _mm512_loadu_ps(from + i));
    std::memcpy(to + i, &x, sizeof x);
  }
}

}  // namespace

double fp32_fmas(long rounds) {
  return __builtin_cpu_supports("avx512f") ? fmas_512(rounds) : fmas_256(rounds);
}

#else

bool has_integer_dots() {
  return false;
}
bool has_bf16_dots() {
  return false;
}
bool has_fp32_fmas() {
  return false;
}
double integer_dots(long) {
  return 0;
}
double tile_dots(long) {
  return 0;
}
double bf16_dots(long) {
  return 0;
}
double fp32_fmas(long) {
  return 0;
}

#endif

std::uint64_t read_all(const void* data, std::size_t bytes) {
  const char* p = static_cast<const char*>(data);
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return read_512(p, bytes);
#endif
  std::uint64_t sum[8] = {};
  for (std::size_t i = 0; i + 64 <= bytes; i += 64) {
    std::uint64_t x[8];
    std::memcpy(x, p + i, 64);
    for (int k = 0; k < 8; ++k) sum[k] += x[k];
  }
  for (int k = 1; k < 8; ++k) sum[0] += sum[k];
  return sum[0];
}

void copy_to_bf16(const float* from, std::size_t count, std::uint16_t* to) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512bf16")) return copy_512(from, count, to);
#endif
  for (std::size_t i = 0; i < count; ++i) {
    std::uint32_t u;
    std::memcpy(&u, from + i, 4);
    to[i] = static_cast<std::uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
}

}  // namespace kvc_bench
