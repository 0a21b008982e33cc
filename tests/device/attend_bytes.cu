// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include "device_products_suite.cuh"

// Attention over latents in 4-bit codes, rotary keys in 4 or 8 bits or bf16, with products of bytes
// (cuda/attend_bytes.cuh), within the error of rounding queries and weights to 8 bits, as on the host; here weights are
// fp16, which is less. Blocks have 16, 32 or 64 queries, groups 64 channels or multiples of 128.

namespace {

using namespace kvc_test;

template <class Shape, int Rank, int Rotary, class Quant, class... Policies>
using latent_cache = compose<Shape, kvc::heads::latent, kvc::dims::latent<Rank, Rotary>, Quant, Policies...>;

using specs = list<
    kvc::clla_cache<shape<2, 16, 16, 32>, 512, 64>,
    latent_cache<shape<1, 4, 4, 32>, 128, 32, integer<4, 64, symmetric>, storage<16>>,
    latent_cache<shape<1, 3, 3, 32>, 256, 64, kv<rotated<integer<4, 64, midrise>>, integer<4, 32>>,
                 sinks_and_window<3, 150>, storage<32>>,
    latent_cache<shape<1, 5, 5, 32>, 384, 32, integer<4, 128, affine, per_token, scale_type::fp32>, storage<128>>,
    latent_cache<shape<1, 6, 6, 32>, 320, 32, integer<4, whole_segment, midrise>>,
    latent_cache<shape<1, 13, 13, 32>, 128, 64, kv<integer<4, whole_segment>, integer<4, whole_segment, symmetric>>>,
    // rotary keys in bytes
    latent_cache<shape<1, 16, 16, 32>, 512, 64, kv<integer<4, 128>, integer<8, whole_segment, symmetric>>>,
    latent_cache<shape<1, 5, 5, 32>, 256, 32, kv<integer<4, 64, symmetric>, integer<8, 32, affine>>, storage<16>>,
    latent_cache<shape<1, 7, 7, 32>, 320, 64, kv<integer<4, whole_segment>, integer<8, 32, midrise>>>,
    // and in bf16
    latent_cache<shape<1, 16, 16, 32>, 512, 64, kv<integer<4, 128>, none<>>>,
    latent_cache<shape<1, 6, 6, 32>, 256, 32, kv<rotated<integer<4, 64, midrise>>, none<>>, sinks_and_window<3, 150>,
                 storage<16>>>;

template <class... Specs>
constexpr bool all_take_bytes(list<Specs...>) {
  return (kvc::cuda::detail::byte_shape<Specs>::exists && ...);
}
static_assert(all_take_bytes(specs{}), "the test would be of another kernel");

template <class... Specs>
bool have_bytes_code(list<Specs...>) {
  using kvc::cuda::detail::has_bytes_code;
  return ((has_bytes_code<Specs, float, 16>() && has_bytes_code<Specs, float, 32>() &&
           has_bytes_code<Specs, float, kvc::cuda::detail::attend_shape<Specs>::most_byte_queries>()) &&
          ...);
}

}  // namespace

std::vector<device_composition> kvc_test::suite() {
  return device_compositions_of(specs{});
}
std::vector<int64> kvc_test::query_counts() {
  return {16, 30, 70};
}

/// Elsewhere, the same calls take another kernel, which the other tests of the device attend with.
bool kvc_test::runs_here() {
  int device = 0, major = 0, minor = 0;
  cuda_check(cudaGetDevice(&device), "cudaGetDevice");
  cuda_check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "cudaDeviceGetAttribute");
  cuda_check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "cudaDeviceGetAttribute");
  const bool here = have_bytes_code(specs{});
  const bool must = major == 9 && minor == 0;
  CHECK_MESSAGE((here || !must), "no code for this GPU: compile for sm_90a");
  if (!here && !must) MESSAGE("skipped: another GPU, of compute capability ", major, ".", minor);
  return here;
}
