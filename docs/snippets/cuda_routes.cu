// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// What docs/cuda.md says of routes and instances; it needs no GPU.

#include <cstdio>

#include "cuda_instances.cuh"

namespace {

template <class Spec>
void print(const char* name, kvc::operation op, kvc::int64 queries = 1) {
  const kvc::route_answer r = kvc::cuda::route<Spec>(op, queries);
  std::printf("%s\n  %s\n  %s\n", name, r.kernel, r.why);
}

}  // namespace

int main() {
  using engine::model;
  print<engine::int4_cache>("int4, a decoding step:", kvc::operation::attend);
  print<engine::int4_cache>("int4, a prompt:", kvc::operation::attend, 512);
  print<engine::kivi_cache>("per-channel keys:", kvc::operation::attend);
  print<engine::kivi_cache>("their append:", kvc::operation::append);
  print<engine::kivi_cache>("their append by slot mapping:", kvc::operation::append_slots);
  using before_rotary = kvc::compose<model, kvc::rotary::deferred<>, kvc::quant::integer<4, 32>>;
  print<before_rotary>("keys before their rotary embedding:", kvc::operation::attend);
  using in_a_basis = kvc::compose<model, kvc::rotary::deferred<>, kvc::dims::low_rank<48>,
                                  kvc::quant::rotated<kvc::quant::integer<4>>>;
  print<in_a_basis>("the same in a basis:", kvc::operation::attend);

  // [missing]
  const kvc::status s = engine::attend(kvc::clla_cache<engine::model>::name(), {}, nullptr);
  std::printf("a composition that is not in the list: %s\n", kvc::to_string(s));
  // [missing]
}
