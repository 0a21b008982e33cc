// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// The program of docs/cuda.md: one decoding step over the caller's device memory, captured once and replayed with
// other lengths and tables. Compiled wherever nvcc is; to run it takes a GPU.

#include <cstdio>
#include <cstdlib>
#include <vector>

#include "kvc/cuda.cuh"

namespace {

using model = kvc::shape<2, 8, 2, 64>;
using spec = kvc::compose<model, kvc::quant::integer<4, 32>, kvc::storage<16>>;
using kvc::int32;
using kvc::int64;

constexpr int sequences = 2, blocks = 64;
constexpr int64 most_rows = 16 * 16;  // of one sequence: 16 pages

template <class T>
T* on_device(std::size_t count) {
  void* data = nullptr;
  kvc::cuda::require(cudaMalloc(&data, count * sizeof(T)), "cudaMalloc");
  kvc::cuda::require(cudaMemset(data, 0, count * sizeof(T)), "cudaMemset");
  return static_cast<T*>(data);
}
template <class T>
void write(T* to, const std::vector<T>& from) {
  kvc::cuda::require(cudaMemcpy(to, from.data(), from.size() * sizeof(T), cudaMemcpyDefault), "cudaMemcpy");
}

}  // namespace

int main() try {
  // [limits]
  kvc::cuda::device_limits limits;  // multiprocessors and shared memory: plans depend on both
  kvc::cuda::require(kvc::cuda::current_device(limits), "current_device");
  // [limits]

  // [memory]
  const kvc::extents<spec> extents;
  kvc::cache_view<spec> view;  // the host's struct, with device pointers
  view.model = extents;
  view.blocks = blocks;
  view.block_stride = spec::page_bytes(extents.stored_heads());
  view.slot_stride = blocks * view.block_stride;
  view.pages = on_device<kvc::byte>(static_cast<std::size_t>(kvc::page_pool_bytes(extents, blocks)));
  // [memory]

  // [step]
  // Arrays at addresses that never change. The host writes to them between replays; kernels alone read them.
  int64* seq_lens = on_device<int64>(sequences);
  int64* row_indptr = on_device<int64>(sequences + 1);
  int32* block_table = on_device<int32>(sequences * 16);
  const kvc::step_view step{sequences, nullptr, seq_lens, row_indptr, block_table, 16};

  kvc::cuda::step_bounds bounds;
  bounds.sequences = sequences;
  bounds.total_rows = sequences;  // one new row each
  bounds.max_rows = 1;
  bounds.max_length = most_rows;
  bounds.report = on_device<kvc::uint32>(1);
  // [step]

  kvc::bf16* k = on_device<kvc::bf16>(sequences * 2 * 64);
  kvc::bf16* v = on_device<kvc::bf16>(sequences * 2 * 64);
  kvc::bf16* q = on_device<kvc::bf16>(sequences * 8 * 64);
  float* out = on_device<float>(sequences * 8 * 64);
  float* lse = on_device<float>(sequences * 8);
  cudaStream_t stream;
  kvc::cuda::require(cudaStreamCreate(&stream), "cudaStreamCreate");

  // [capture]
  const int64 bytes = kvc::cuda::attend_workspace_bytes<spec>(extents, bounds, limits);
  kvc::byte* workspace = on_device<kvc::byte>(static_cast<std::size_t>(bytes));
  const auto keys = kvc::contiguous_rows<const kvc::bf16>(k, 2, 64);
  const auto values = kvc::contiguous_rows<const kvc::bf16>(v, 2, 64);
  const auto queries = kvc::contiguous_rows<const kvc::bf16>(q, 8, 64);
  const auto outputs = kvc::contiguous_rows(out, 8, 64);

  kvc::cuda::require(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "cudaStreamBeginCapture");
  kvc::status s = kvc::status::ok;
  for (int layer = 0; layer < 2 && s == kvc::status::ok; ++layer) {
    s = kvc::cuda::append<spec, kvc::bf16>(view, step, bounds, layer, keys, values, stream);
    if (s != kvc::status::ok) break;
    s = kvc::cuda::attend<spec, kvc::bf16>(view, step, bounds, layer, queries, outputs, lse, {.scale = 0.125f},
                                           workspace, bytes, stream, limits);
  }
  cudaGraph_t graph;
  kvc::cuda::require(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
  kvc::cuda::require(s, "a captured call");
  cudaGraphExec_t decode;
  kvc::cuda::require(cudaGraphInstantiate(&decode, graph, 0), "cudaGraphInstantiate");
  // [capture]

  // [replay]
  write(block_table, {5, 2, 9, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,  //
                      1, 3, 8, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0});
  for (int64 length = 0; length < 40; ++length) {
    const bool both = length < 20;  // later the second sequence gets no row: its part of the graph does nothing
    write(seq_lens, {length, both ? length : 20});
    write(row_indptr, {0, 1, both ? 2 : 1});
    kvc::cuda::require(cudaGraphLaunch(decode, stream), "cudaGraphLaunch");
    kvc::cuda::require(cudaStreamSynchronize(stream), "decode");
  }
  // [replay]

  // [report]
  kvc::uint32 report = 0;
  kvc::cuda::require(cudaMemcpy(&report, bounds.report, sizeof report, cudaMemcpyDefault), "cudaMemcpy");
  if (report != 0) std::printf("a length, a table or a sequence id was out of range: code %u\n", report);
  // [report]
  float first = 0;
  kvc::cuda::require(cudaMemcpy(&first, lse, sizeof first, cudaMemcpyDefault), "cudaMemcpy");
  std::printf("40 rows, lse %g\n", first);
  return report == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
} catch (const kvc::error& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return EXIT_FAILURE;
}
