// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cuda/row_team.cuh"

// Sealing: groups of tokens that a step completes go from the open tail (staging and ring) into their page. Where
// append treats groups whole (append_groups.cuh) they are sealed there.

namespace kvc::inline v0_1::cuda::detail {

/// A block per group of tokens; where every token is its own group, a team per token.
template <class Stream>
struct seal_teams {
  static constexpr int threads = 128;
  static constexpr int per_group = Stream::tokens_per_group;
  static constexpr bool by_block = per_group > 1;
  static constexpr int lanes = by_block ? threads : row_teams<Stream>::lanes;
  static constexpr int per_block = threads / lanes;
  static constexpr int pitch = round_up(per_group * Stream::width, 32) + (by_block || lanes == 32 ? 0 : lanes);
  static constexpr bool exist = Stream::has_ring && !group_shares<Stream>::exists;
  static constexpr int shared_bytes = exist ? per_block * pitch * 4 : 0;

  __device__ static auto team() {
    if constexpr (by_block) {
      return block_team<threads>{};
    } else {
      return warp_team<lanes>{};
    }
  }
};

/// Whether row t of the step's sequence i, or what leads there, is out of range; asked only where a report is wanted.
template <class Spec>
__device__ bool is_out_of_range(const cache_view<Spec>& view, const step_view& step, const step_bounds& bounds, int i,
                                int64 t) {
  if (bounds.report == nullptr) return false;
  const int64 length = step.seq_lens[i] + step.rows(i);
  if (reports(bounds.report, step.rows(i) > bounds.max_rows, wrong_rows)) return true;
  if (reports(bounds.report, step.seq_lens[i] < 0 || length > bounds.max_length || t < 0 || t >= length, wrong_length))
    return true;
  if (Spec::has_tail &&
      reports(bounds.report, step.sequence_id(i) < 0 || step.sequence_id(i) >= view.sequences, wrong_sequence))
    return true;
  const int32 block = step.block(i, t / Spec::tokens_per_page);
  return reports(bounds.report, block < 0 || block >= view.blocks, wrong_table);
}

template <class Spec, bool First>
__device__ void seal_groups(const cache_view<Spec>& view, const step_view& step, const step_bounds& bounds, int slot,
                            int most, float* shared) {
  using stream_type = stream_of<Spec, First>;
  using teams = seal_teams<stream_type>;
  if constexpr (teams::exist) {
    const auto team = teams::team();
    const int64 item = static_cast<int64>(blockIdx.x) * teams::per_block + threadIdx.x / teams::lanes;
    const int64 i = item / most;
    if (i >= bounds.sequences) return;
    const int64 committed = step.seq_lens[i];
    const int64 begin = stream_type::seal_boundary(committed);
    const int64 end = stream_type::seal_boundary(committed + step.rows(static_cast<int>(i)));
    const int64 g = begin + item % most * stream_type::tokens_per_group;
    if (g >= end || is_out_of_range(view, step, bounds, static_cast<int>(i), g)) return;
    const stream_rows<Spec, First> at(view, step, static_cast<int>(i), slot, static_cast<int>(blockIdx.y));
    seal_group(at, g, shared + threadIdx.x / teams::lanes * teams::pitch, team);
  }
}

/// most: groups that a sequence can complete in the step, of the stream with the smaller ones.
template <class Spec>
KVC_KERNEL void __launch_bounds__(128)
    seal_kernel(const __grid_constant__ cache_view<Spec> view, const __grid_constant__ step_view step,
                const __grid_constant__ step_bounds bounds, int slot, int most_first, int most_second) {
  extern __shared__ __align__(16) byte shared[];
  float* const floats = reinterpret_cast<float*>(shared);
  if (blockIdx.z == (seal_teams<typename Spec::first_stream>::exist ? 0u : 1u)) {
    seal_groups<Spec, true>(view, step, bounds, slot, most_first, floats);
  } else {
    seal_groups<Spec, false>(view, step, bounds, slot, most_second, floats);
  }
}

template <class Spec>
inline constexpr int seal_shared_bytes = max_of(seal_teams<typename Spec::first_stream>::shared_bytes,
                                                seal_teams<typename Spec::second_stream>::shared_bytes);

/// Whether its groups fit into a block's shared memory on this device: asked before rows are written.
template <class Spec>
status allow_seal() {
  if constexpr (seal_shared_bytes<Spec> == 0) {
    return status::ok;
  } else {
    return allow_shared(seal_kernel<Spec>, seal_shared_bytes<Spec>, "append");
  }
}

template <class Spec>
status seal(const cache_view<Spec>& view, const step_view& step, const step_bounds& bounds, int slot,
            cudaStream_t stream) {
  using first = seal_teams<typename Spec::first_stream>;
  using second = seal_teams<typename Spec::second_stream>;
  if constexpr (!first::exist && !second::exist) {
    return status::ok;
  } else {
    const int64 most_first = ceil_div<int64>(bounds.max_rows, first::per_group);
    const int64 most_second = ceil_div<int64>(bounds.max_rows, second::per_group);
    const unsigned blocks = max_of(first::exist ? blocks_for(bounds.sequences * most_first, first::per_block) : 0u,
                                   second::exist ? blocks_for(bounds.sequences * most_second, second::per_block) : 0u);
    const unsigned streams = first::exist && second::exist ? 2 : 1;
    const dim3 grid(blocks, static_cast<unsigned>(view.model.stored_heads()), streams);
    return launch(seal_kernel<Spec>, grid, 128, seal_shared_bytes<Spec>, stream, "append", view, step, bounds, slot,
                  static_cast<int>(most_first), static_cast<int>(most_second));
  }
}

}  // namespace kvc::inline v0_1::cuda::detail
