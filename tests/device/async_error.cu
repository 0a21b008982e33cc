// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <cstdlib>
#include <cstring>

#include "device_twin.cuh"

// Errors of kernels that ran before: calls answer device_error and say which call met it. Such an error ends the
// process's work on its device, so that this program is its own and the faulty kernel the last that it starts.

namespace {

using namespace kvc_test;
using kvc::status;

using spec = compose<shape<1, 4, 2, 128>, storage<16>>;
constexpr int64 rows = 20;

__global__ void write_to(int* nowhere) {
  *nowhere = 1;
}
__global__ void __launch_bounds__(32) idle() {}

/// A cache with an open step of 20 rows, and what attend takes.
struct open_cache {
  kvc::cuda::cache<spec> cache{{.capacity = 64, .max_step_rows = rows}};
  device_array<kvc::bf16> k{nullptr, rows * 2 * 128}, v{nullptr, rows * 2 * 128}, q{nullptr, rows * 4 * 128};
  device_array<float> out{nullptr, rows * 4 * 128};
  int64 bytes;
  device_array<byte> workspace;

  open_cache() {
    const kvc::cuda::step_request request{cache.add_sequence(), rows};
    REQUIRE(cache.try_reserve(std::span(&request, 1)) == status::ok);
    bytes = kvc::cuda::attend_workspace_bytes<spec>(cache.model(), cache.bounds());
    workspace = device_array<byte>(nullptr, static_cast<std::size_t>(bytes));
    require_cuda(cudaDeviceSynchronize(), "memory");
  }
  status append() const {
    const auto view = [](const device_array<kvc::bf16>& x) {
      return kvc::contiguous_rows<const kvc::bf16>(x.data(), 2, 128);
    };
    return kvc::cuda::append<spec, kvc::bf16>(cache.view(), cache.device_step(), cache.bounds(), 0, view(k), view(v),
                                              nullptr);
  }
  status attend() const {
    return kvc::cuda::attend<spec, kvc::bf16>(
        cache.view(), cache.device_step(), cache.bounds(), 0, kvc::contiguous_rows<const kvc::bf16>(q.data(), 4, 128),
        kvc::contiguous_rows(out.data(), 4, 128), nullptr, {.scale = 0.1f}, workspace.data(), bytes, nullptr);
  }
};

/// What a call that throws answers.
template <class Call>
status answer_of(const Call& call) {
  try {
    call();
  } catch (const kvc::error& e) {
    return e.code();
  }
  return status::ok;
}

}  // namespace

TEST_CASE("an error of an earlier kernel is told with the call that met it") {
  static_assert(kvc::cuda::detail::attend_layout<spec, kvc::cuda::detail::attend_shape<spec>::many>::bytes > 48 * 1024);
  open_cache c;
  // Without a fault all is well.
  CHECK(c.append() == status::ok);
  CHECK(c.attend() == status::ok);
  CHECK(answer_of([&] { c.cache.append(0, c.k.data(), c.v.data()); }) == status::ok);
  CHECK(answer_of([&] { c.cache.synchronize(); }) == status::ok);
  CHECK(kvc::cuda::last_error().code == cudaSuccess);
  if (std::getenv("KVC_SANITIZED") != nullptr) {
    MESSAGE("under a sanitizer nothing is done that it would report");
    return;
  }

  // Too much shared memory is no error of the device, and leaves none behind.
  CHECK(kvc::cuda::detail::launch(idle, dim3(1), 32, 4 << 20, nullptr, "idle") == status::unsupported);
  CHECK(cudaGetLastError() == cudaSuccess);
  CHECK(kvc::cuda::last_error().code == cudaSuccess);

  write_to<<<1, 1>>>(reinterpret_cast<int*>(16));  // an address that nobody has
  CHECK(cudaGetLastError() == cudaSuccess);        // it was started
  CHECK(answer_of([&] { c.cache.synchronize(); }) == status::device_error);
  const cudaError_t code = kvc::cuda::last_error().code;
  MESSAGE(cudaGetErrorName(code));
  CHECK(code != cudaSuccess);
  CHECK(std::strcmp(kvc::cuda::last_error().call, "synchronize") == 0);
  const auto is_told = [&](status s, const char* call) {
    CAPTURE(call);
    CHECK(s == status::device_error);
    CHECK(kvc::cuda::last_error().code == code);
    CHECK(std::string(kvc::cuda::last_error().call) == call);
  };
  is_told(c.append(), "append");
  is_told(c.attend(), "attend");  // asks for shared memory first
  is_told(c.append(), "append");
  is_told(answer_of([&] { c.cache.append(0, c.k.data(), c.v.data()); }), "append");
  is_told(answer_of([&] { c.cache.synchronize(); }), "synchronize");
  CHECK(kvc::cuda::detail::launch(idle, dim3(1), 32, 64 << 10, nullptr, "idle") == status::device_error);
  CHECK(std::strcmp(kvc::cuda::last_error().call, "idle") == 0);
}
