// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// The instances of docs/cuda.md: an engine's list of compositions, in a header that all its sources include.
#pragma once

#include <kvc/cuda.cuh>

namespace engine {

// [list]
using model = kvc::shape<2, 8, 2, 64>;
using int4_cache = kvc::compose<model, kvc::quant::integer<4, 32>>;
using kivi_cache = kvc::methods::kivi<model>;

/// What the engine's layers call: its own arguments, no type of a composition.
struct attend_call {
  kvc::byte* memory[3];  ///< pages, tails, staging
  kvc::int64 sizes[3];   ///< blocks, sequences, staged rows
  kvc::step_view step;
  kvc::cuda::step_bounds bounds;
  int layer;
  const kvc::bf16* q;
  float* out;
  void* workspace;
  kvc::int64 workspace_bytes;
};

template <class Spec>
kvc::status attend_on(const attend_call& call, cudaStream_t stream);

// Compiled in one .cu; here they are only named.
extern template kvc::status attend_on<int4_cache>(const attend_call&, cudaStream_t);
extern template kvc::status attend_on<kivi_cache>(const attend_call&, cudaStream_t);

/// The composition is known at run time. What is not in the list is refused: nothing else runs in its place.
inline kvc::status attend(const kvc::text& name, const attend_call& call, cudaStream_t stream) {
  if (name == int4_cache::name()) return attend_on<int4_cache>(call, stream);
  if (name == kivi_cache::name()) return attend_on<kivi_cache>(call, stream);
  return kvc::status::unsupported;
}
// [list]

}  // namespace engine
