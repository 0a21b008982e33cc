// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <kvc/cuda/device.cuh>
#include <kvc/cuda/route.cuh>
#include <string>

#include "compositions.hpp"

// Routes are constants, so that most is checked where this compiles.

using namespace kvc_test;
using kvc::operation;
using kvc::cuda::route;

namespace {

consteval bool has(const char* s, const char* part) {
  for (; *s != '\0'; ++s) {
    int i = 0;
    while (part[i] != '\0' && s[i] == part[i]) ++i;
    if (part[i] == '\0') return true;
  }
  return false;
}
template <class Spec>
consteval bool attends(const char* part, kvc::int64 queries = 1) {
  return has(route<Spec>(operation::attend, queries).kernel, part);
}
template <class Spec>
consteval bool is_slow(operation op) {
  return has(route<Spec>(op).why, "slow");
}

using model = shape<1, 32, 8, 128>;
using plain = compose<model>;
using int4 = compose<model, integer<4, 128>>;
using odd_key = compose<model, kv<integer<3, 128>, integer<4, 128>>>;
using kivi = compose<model, kv<integer<2, 32, affine, per_channel>, integer<2, 32>>>;
using newest = compose<model, exact_ends<0, 8, integer<4, 128>>>;
using ends = compose<model, exact_ends<4, 0, integer<4, 128>>>;
using before_rotary = compose<model, half_split<>, integer<4, 128>>;
using fp32 = compose<model, none<float>>;
using flagship = kvc::clla_cache<shape<2, 16, 16, 128>>;
using odd_groups = compose<model, integer<4, 16>>;

static_assert(!has("abc", "abd") && has("abc", "bc"));
static_assert(attends<plain>("keys as stored, values as stored"));
static_assert(attends<int4>("attend_codes_kernel, 8 queries x 16 rows per warp: codes as they lie"));
static_assert(attends<odd_key>("attend_kernel, 8 queries x 64 rows: keys as stored, values as stored"));
static_assert(attends<int4>("attend_kernel, 64 queries x 64 rows: keys decoded, values decoded", 32));
static_assert(has(route<int4>(operation::attend).why, "queries are two bytes"));
static_assert(has(route<odd_key>(operation::attend).why, "sums and weights take scales"));
static_assert(has(route<plain>(operation::attend).why, "bf16 holds the elements exactly"));
static_assert(attends<kivi>("keys per channel, values as stored"));
static_assert(attends<odd_groups>("keys decoded"));
static_assert(attends<fp32>("keys pairs of bf16"));
static_assert(attends<before_rotary>("keys turned, values as stored"));
static_assert(attends<compose<model, half_split<>, low_rank<64>, integer<4, 128>>>("keys expanded"));
static_assert(attends<compose<shape<1, 32, 8, 256>, half_split<>, low_rank<128>, integer<4, 128>>>("keys by warps"));
static_assert(attends<compose<model, half_split<>, none<float>>>("keys turned"));
static_assert(attends<compose<model, half_split<>, low_rank<64>, none<float>>>("keys row by row"));
static_assert(attends<flagship>("attend_bytes_kernel, 16 queries x 64 rows: codes as they lie"));
static_assert(attends<flagship>("attend_bytes_kernel, 32 queries", 17));
static_assert(has(route<flagship>(operation::attend).why, "rounded to 8 bits"));
constexpr kvc::cuda::device_limits a100{.multiprocessors = 108, .shared_bytes = 166912, .has_warpgroups = false};
constexpr kvc::cuda::device_limits sm_86{.multiprocessors = 84, .shared_bytes = 101376, .has_warpgroups = false};
static_assert(has(route<flagship>(operation::attend, 1, a100).kernel, "latent as stored, rotary key as stored"));
static_assert(!is_slow<before_rotary>(operation::attend) && !is_slow<int4>(operation::attend));
static_assert(is_slow<compose<model, half_split<>, low_rank<64>, none<float>>>(operation::attend));
static_assert(!is_slow<flagship>(operation::attend) && !is_slow<flagship>(operation::append));

static_assert(has(route<kivi>(operation::append).kernel, "a block per group of tokens and 8 threads per row"));
static_assert(!has(route<kivi>(operation::append).kernel, "seal_kernel"));
static_assert(has(route<newest>(operation::append).kernel, "16 threads per row; seal_kernel"));
static_assert(!has(route<int4>(operation::append).kernel, "seal_kernel"));
static_assert(has(route<int4>(operation::append).kernel, "8 threads per row"));
static_assert(!is_slow<int4>(operation::append) && !is_slow<kivi>(operation::append));
static_assert(has(route<compose<model, low_rank<96>>>(operation::append).kernel, "append_product_kernel, 16 rows per"));
static_assert(!has(route<compose<model, low_rank<96>>>(operation::append).kernel, "append_kernel"));
static_assert(has(route<compose<model, kv_dims<full, low_rank<64>>, integer<4, 32>>>(operation::append).kernel,
                  "16 rows per warp; append_kernel, 8 threads per row"));
static_assert(has(route<compose<model, low_rank<96>, none<float>>>(operation::append).kernel, "append_kernel, 8 thr"));

// Too large for a device: said before, as the launch would.
constexpr kvc::cuda::device_limits small_device{.multiprocessors = 1, .shared_bytes = 16384};
static_assert(route<int4>(operation::attend, 1, small_device).code == kvc::status::unsupported);

// The table of docs/cuda.md: bytes of a block of few and of many queries, and what a device can do with them.
enum class fits { nothing, decoding, both };
template <class Spec>
consteval fits on(const kvc::cuda::device_limits& device) {
  const auto attends = [&](int queries) {
    return route<Spec>(operation::attend, queries, device).code == kvc::status::ok;
  };
  return attends(100) ? fits::both : attends(1) ? fits::decoding : fits::nothing;
}
template <class Spec>
consteval bool takes(int few, int many) {
  using sizes = kvc::cuda::detail::attend_shape<Spec>;
  return kvc::cuda::detail::attend_layout<Spec, sizes::few>::bytes == few &&
         kvc::cuda::detail::attend_layout<Spec, sizes::many>::bytes == many;
}
template <class Spec>
consteval bool row_of_table(int few, int many, fits on_a100, fits on_sm_86) {
  return takes<Spec>(few, many) && on<Spec>({}) == fits::both && on<Spec>(a100) == on_a100 &&
         on<Spec>(sm_86) == on_sm_86;
}
using d256 = shape<1, 32, 8, 256>;
using fp32_latent = compose<shape<2, 16, 16, 128>, kvc::heads::latent, latent<512, 64>, none<float>>;
static_assert(row_of_table<compose<model, integer<4, 32>>>(57004, 66156, fits::both, fits::both));
static_assert(row_of_table<plain>(88492, 111212, fits::both, fits::decoding));
static_assert(row_of_table<compose<d256, integer<4, 32>>>(112556, 119404, fits::both, fits::nothing));
static_assert(row_of_table<flagship>(148524, 157548, fits::both, fits::nothing));
static_assert(row_of_table<fp32_latent>(152876, 190444, fits::decoding, fits::nothing));
static_assert(row_of_table<compose<d256>>(172460, 209516, fits::nothing, fits::nothing));
static_assert(row_of_table<fp32>(176684, 220780, fits::nothing, fits::nothing));

template <class Spec>
void check_routes() {
  CAPTURE(Spec::name().c_str());
  for (const operation op : {operation::append, operation::append_slots, operation::attend, operation::gather,
                             operation::fork, operation::truncate, operation::save}) {
    for (const int queries : {1, 100}) {
      const kvc::route_answer answer = route<Spec>(op, queries);
      CHECK(std::string(answer.why).size() > 10);
      CHECK(std::string(answer.kernel).size() > 3);
      const bool unsupported = op == operation::append_slots && Spec::has_tail;
      CHECK(answer.code == (unsupported ? kvc::status::unsupported : kvc::status::ok));
    }
  }
}
template <class... Specs>
void check_all(list<Specs...>) {
  (check_routes<Specs>(), ...);
}

}  // namespace

TEST_CASE("every operation has an answer for every composition, with its reason") {
  check_all(all_compositions{});
  CHECK(route<plain>(static_cast<operation>(99)).code == kvc::status::invalid_argument);
}

TEST_CASE("append_slots does what its route says") {
  CHECK(route<ends>(operation::append_slots).code == kvc::status::unsupported);
  CHECK(kvc::cuda::append_slots<ends, float>({}, 0, {}, {}, nullptr, 1, nullptr) == kvc::status::unsupported);
}

TEST_CASE("the device says what plans depend on") {
  kvc::cuda::device_limits limits{0, 0};
  int devices = 0;
  const bool exists = cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0;
  const kvc::status s = kvc::cuda::current_device(limits);
  CHECK((s == kvc::status::ok) == exists);
  if (exists) {
    CHECK(limits.multiprocessors > 0);
    CHECK(limits.shared_bytes >= 99 * 1024);
  } else {
    CHECK(s == kvc::status::device_error);
    CHECK(std::string(kvc::cuda::last_error().call) == "current_device");
  }
}
