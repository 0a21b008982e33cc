// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// What the GPU's benchmarks share: device arrays, times of captured graphs, and the read ceiling.

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <kvc/core/config.hpp>
#include <string>
#include <vector>

namespace kvc_bench {

using kvc::byte;
using kvc::int32;
using kvc::int64;

inline void check(cudaError_t e, const char* what) {
  if (e == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(e));
  std::exit(1);
}

template <class T>
struct device_array {
  explicit device_array(int64 count) {
    check(cudaMalloc(&data, static_cast<std::size_t>(std::max<int64>(count, 1)) * sizeof(T)), "cudaMalloc");
  }
  explicit device_array(const std::vector<T>& host) : device_array(static_cast<int64>(host.size())) {
    check(cudaMemcpy(data, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  device_array(const device_array&) = delete;
  ~device_array() { cudaFree(data); }
  T* data = nullptr;
};

template <class T>
std::vector<T> copy_back(const T* data, int64 count) {
  std::vector<T> host(static_cast<std::size_t>(count));
  check(cudaMemcpy(host.data(), data, host.size() * sizeof(T), cudaMemcpyDeviceToHost), "cudaMemcpy");
  return host;
}
template <class T>
void copy(T* data, const std::vector<T>& host) {
  check(cudaMemcpy(data, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice), "cudaMemcpy");
}

/// For JSON, which has no NaN.
inline std::string number(double x) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3e", x);
  return std::isfinite(x) ? text : "null";
}

/// Median over 15 replays of a graph of `launches` calls, in microseconds per call; `before` is not timed.
inline double time_graph(int launches, const std::function<void(int, cudaStream_t)>& call,
                         const std::function<void(cudaStream_t)>& before = {}) {
  cudaStream_t stream;
  check(cudaStreamCreate(&stream), "stream");
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "capture");
  for (int i = 0; i < launches; ++i) call(i, stream);
  check(cudaStreamEndCapture(stream, &graph), "capture");
  check(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin), "event");
  check(cudaEventCreate(&end), "event");
  std::vector<float> times;
  for (int r = 0; r < 17; ++r) {
    if (before) before(stream);
    check(cudaEventRecord(begin, stream), "record");
    check(cudaGraphLaunch(exec, stream), "replay");
    check(cudaEventRecord(end, stream), "record");
    check(cudaStreamSynchronize(stream), "replay");
    float ms = 0;
    check(cudaEventElapsedTime(&ms, begin, end), "time");
    if (r >= 2) times.push_back(ms);
  }
  std::sort(times.begin(), times.end());
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
  return 1000.0 * static_cast<double>(times[times.size() / 2]) / launches;
}

static __global__ void read_kernel(const uint4* data, int64 count, uint4* out) {
  uint4 sum = make_uint4(0, 0, 0, 0);
  const int64 stride = static_cast<int64>(gridDim.x) * blockDim.x;
  int64 i = static_cast<int64>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (; i + 3 * stride < count; i += 4 * stride) {
    uint4 v[4];
    for (int k = 0; k < 4; ++k) v[k] = __ldcs(data + i + k * stride);
    for (int k = 0; k < 4; ++k) sum.x ^= v[k].x ^ v[k].y, sum.y ^= v[k].z ^ v[k].w;
  }
  if (sum.x == 0x12345u && sum.y == 0x54321u) *out = sum;
}

inline double read_ceiling() {
  const int64 bytes = int64{2} << 30;
  device_array<uint4> data(bytes / 16), out(1);
  check(cudaMemset(data.data, 0x5a, static_cast<std::size_t>(bytes)), "memset");
  const double us =
      time_graph(4, [&](int, cudaStream_t s) { read_kernel<<<528, 512, 0, s>>>(data.data, bytes / 16, out.data); });
  return static_cast<double>(bytes) / us * 1e-3;
}

/// --filter TEXT: ids that contain it; --out FILE: one JSON object per line.
struct options {
  std::string filter;
  std::FILE* out = nullptr;

  options(int argc, char** argv) {
    for (int i = 1; i + 1 < argc; i += 2) {
      const std::string name = argv[i];
      if (name == "--filter") filter = argv[i + 1];
      if (name == "--out") out = std::fopen(argv[i + 1], "w");
    }
  }
  options(const options&) = delete;
  ~options() {
    if (out != nullptr) std::fclose(out);
  }
  bool skips(const char* id) const { return std::string(id).find(filter) == std::string::npos; }
};

}  // namespace kvc_bench
