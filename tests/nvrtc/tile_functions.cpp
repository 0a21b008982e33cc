// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// link: kvc_nvrtc
#include <doctest/doctest.h>
#include <nvrtc.h>

#include <string>
#include <vector>

// The tile functions compile at run time: an engine can make the kernels of a composition that it reads from a file.
// Compiling needs no GPU.

namespace {

struct compiled {
  bool succeeded = false;
  std::string log;
  std::string ptx;
};

compiled compile(const std::string& source) {
  nvrtcProgram program = nullptr;
  REQUIRE(nvrtcCreateProgram(&program, source.c_str(), "kernel.cu", 0, nullptr, nullptr) == NVRTC_SUCCESS);
  const std::string include = "-I" KVC_TEST_SOURCE_DIR "/../include";
  const char* options[] = {"--std=c++20", "--gpu-architecture=compute_80", "-default-device", include.c_str()};
  compiled result;
  result.succeeded = nvrtcCompileProgram(program, 4, options) == NVRTC_SUCCESS;
  std::size_t size = 0;
  REQUIRE(nvrtcGetProgramLogSize(program, &size) == NVRTC_SUCCESS);
  result.log.resize(size);
  REQUIRE(nvrtcGetProgramLog(program, result.log.data()) == NVRTC_SUCCESS);
  if (result.succeeded) {
    REQUIRE(nvrtcGetPTXSize(program, &size) == NVRTC_SUCCESS);
    result.ptx.resize(size);
    REQUIRE(nvrtcGetPTX(program, result.ptx.data()) == NVRTC_SUCCESS);
  }
  nvrtcDestroyProgram(&program);
  return result;
}

const std::string head = R"(
#include "kvc/attention/state.hpp"
#include "kvc/attention/tile.hpp"
#include "kvc/cache/append.hpp"
#include "kvc/cache/compose.hpp"
#include "kvc/cuda/team.cuh"
#include "kvc/methods/clla.hpp"
using namespace kvc;
)";

/// Append, read, commit and cut of one stream; by one thread, and by a team.
const std::string kernels = R"(
extern "C" __global__ void append_one(cache_view<spec> view, step_view step, rows_view<const bf16> rows) {
  const stream_rows<spec, true> at(view, step, 0, 0, 0);
  append_page<spec, true>(at, rows, 0);
  commit_ring(at, 3);
  unseal(at, 100, 20, 100);
}
extern "C" __global__ void read_one(cache_view<spec> view, step_view step, float* out) {
  const stream_rows<spec, false> at(view, step, 0, 0, 0);
  at.read(threadIdx.x, 100, out + threadIdx.x * spec::second_stream::width);
}
extern "C" __global__ void append_team(cache_view<spec> view, step_view step, rows_view<const bf16> rows) {
  using stream_type = spec::first_stream;
  __shared__ float model_row[stream_type::model_width], stored[stream_type::width];
  const cuda::warp_team<> team;
  const stream_rows<spec, true> at(view, step, 0, 0, 0);
  const auto constants = kvc::detail::constants_of<true>(view, 0, 0);
  kvc::detail::load_model_row<stream_type::model_width>(rows, 0, 0, 1, constants.merge_weights, model_row, team);
  team.sync();
  transform<stream_type>::store(model_row, stored, constants.transform, team);
  round_stored<stream_type>(stored, team);
  place_row(at, stored, at.committed, team);
}
extern "C" __global__ void load_tile(cache_view<spec> view, step_view step, float* rows, rotary::table_view table) {
  const stream_rows<spec, true> at(view, step, 0, 0, 0);
  const auto constants = kvc::detail::constants_of<true>(view, 0, 0);
  const tile_of<spec, true, true> tile{rows, rows + 64 * tile_of<spec, true, true>::pitch};
  tile.load(at, 0, 64, 60, 64, constants.transform, table);
  tile_segment segments[3];
  const int count = tile.split(0, 0, 64, 60, segments);
  for (int i = 0; i < count; ++i) rows[i] = tile.rows(segments[i])[0];
}
extern "C" __global__ void push(softmax_state* state, float* o, const float* v) {
  attention_state{state, o, 64}.push(1.0f, v);
}
)";

void compiles(const std::string& composition) {
  CAPTURE(composition);
  const compiled result = compile(head + "using spec = " + composition + ";\n" + kernels);
  CHECK_MESSAGE(result.succeeded, result.log);
  for (const char* name : {"append_one", "read_one", "load_tile", "append_team", "push"}) {
    CHECK(result.ptx.find(std::string(".entry ") + name) != std::string::npos);
  }
}

}  // namespace

TEST_CASE("tile functions compile at run time") {
  compiles("compose<shape<2, 4, 2, 64>, quant::integer<4, 32>>");
  compiles(
      "compose<shape<2, 4, 2, 64>, dims::low_rank<32>, quant::split<quant::integer<4, 32, quant::affine, "
      "quant::per_channel>, quant::exact_ends<2, 4, quant::rotated<quant::fp8_e4m3<16>>>>>");
  compiles("clla_cache<shape<2, 4, 4, 32>, 64, 16>");
}

TEST_CASE("what does not compile is found out") {
  const compiled result = compile(head + "using spec = compose<shape<2, 4, 3, 64>>;\n" + kernels);
  CHECK(!result.succeeded);
  CHECK(result.log.find("kvc: shape: query heads must be a multiple of KV heads") != std::string::npos);
}
