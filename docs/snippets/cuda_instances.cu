// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// The one source of the engine that compiles kernels.

#include "cuda_instances.cuh"

// [instances]
template <class Spec>
kvc::status engine::attend_on(const attend_call& c, cudaStream_t stream) {
  const kvc::extents<Spec> e;
  kvc::cache_view<Spec> view;
  view.model = e;
  view.pages = c.memory[0];
  view.blocks = c.sizes[0];
  view.block_stride = Spec::page_bytes(e.stored_heads());
  view.slot_stride = view.blocks * view.block_stride;
  view.tails = c.memory[1];
  view.tail_stride = Spec::tail_bytes(e);
  view.sequences = static_cast<int>(c.sizes[1]);
  view.staging = c.memory[2];
  view.staging_rows = c.sizes[2];
  const auto q = kvc::contiguous_rows<const kvc::bf16>(c.q, e.query_heads, Spec::query_width);
  const auto out = kvc::contiguous_rows(c.out, e.query_heads, Spec::output_width);
  return kvc::cuda::attend<Spec, kvc::bf16>(view, c.step, c.bounds, c.layer, q, out, nullptr, {.scale = 0.125f},
                                            c.workspace, c.workspace_bytes, stream);
}

template kvc::status engine::attend_on<engine::int4_cache>(const attend_call&, cudaStream_t);
template kvc::status engine::attend_on<engine::kivi_cache>(const attend_call&, cudaStream_t);
// [instances]
