// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <array>
#include <barrier>
#include <cmath>
#include <random>
#include <thread>
#include <vector>

#include "kvc/kvc.hpp"

// A team gives what one thread gives: the same bytes of every codec, the same rows of every transform. Here the teams
// are threads of the host; tests/device has those of a GPU.

namespace {

using namespace kvc;

constexpr int threads = 16;
thread_local int worker = 0;

/// The aligned team of Count of the host's threads.
template <int Count>
struct thread_team {
  static int rank() { return worker % Count; }
  static constexpr int size() { return Count; }
  static void sync() { shared().wall.arrive_and_wait(); }
  static float sum(float x) {
    return reduce(x, [](float a, float b) { return a + b; });
  }
  static float largest(float x) {
    return reduce(x, [](float a, float b) { return b > a ? b : a; });
  }
  static float least(float x) {
    return reduce(x, [](float a, float b) { return b < a ? b : a; });
  }
  static bool any(bool x) {
    return reduce(x ? 1.0f : 0.0f, [](float a, float b) { return a + b; }) > 0;
  }
  static float broadcast(float x) {
    return reduce(x, [](float a, float) { return a; });
  }
  static float exchange(float x, int bits) {
    meeting& m = shared();
    m.numbers[static_cast<std::size_t>(rank())] = x;
    sync();
    x = m.numbers[static_cast<std::size_t>(rank() ^ bits)];
    sync();
    return x;
  }
  template <int Part>
  static auto part() {
    static_assert(Count % Part == 0);
    if constexpr (Part == 1) {
      return serial_team{};
    } else {
      return thread_team<Part>{};
    }
  }

 private:
  struct meeting {
    std::barrier<> wall{Count};
    std::array<float, Count> numbers{};
  };
  static meeting& shared() {
    static std::array<meeting, threads / Count> all;
    return all[static_cast<std::size_t>(worker / Count)];
  }
  template <class Operation>
  static float reduce(float x, const Operation& f) {
    meeting& m = shared();
    m.numbers[static_cast<std::size_t>(rank())] = x;
    sync();
    x = m.numbers[0];
    for (std::size_t i = 1; i < m.numbers.size(); ++i) x = f(x, m.numbers[i]);
    sync();
    return x;
  }
};

using team = thread_team<threads>;

/// f() by all threads of a team.
template <class Function>
void together(const Function& f) {
  std::vector<std::jthread> all;
  for (int i = 0; i < threads; ++i) {
    all.emplace_back([&f, i] {
      worker = i;
      f();
    });
  }
}

/// Rows that decide ties and NaN: plain, with zeros of both signs, constant, NaN and infinities, huge and tiny.
std::vector<float> rows_of(int width, int kind) {
  std::mt19937 generator(static_cast<unsigned>(7 + kind));
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<std::size_t>(width));
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = normal(generator);
    if (kind == 1) x[i] = i % 3 == 0 ? -0.0f : (i % 3 == 1 ? 0.0f : std::abs(x[i]));
    if (kind == 2) x[i] = i < x.size() / 2 ? 1.25f : 0.0f;
    if (kind == 3 && i % 37 == 5) x[i] = i % 2 == 0 ? std::nanf("") : -INFINITY;
    if (kind == 4) x[i] *= i % 2 == 0 ? 1e30f : 1e-42f;
  }
  return x;
}
constexpr int kinds = 5;

template <class Codec, int Width>
void same_bytes() {
  CAPTURE(Codec::name.c_str());
  CAPTURE(Width);
  static_assert(quant::detail::encode_takes_team<Codec, Width, team>);
  constexpr int tokens = Codec::tokens_per_group;
  constexpr std::size_t code_bytes = tokens * Codec::template row_bytes<Width>;
  constexpr std::size_t bytes = code_bytes + Codec::template group_bytes<Width>;
  for (int kind = 0; kind < kinds; ++kind) {
    CAPTURE(kind);
    const std::vector<float> x = rows_of(tokens * Width, kind);
    std::vector<byte> alone(bytes, 0xaa), shared(bytes, 0x55);
    for (const int begin : {0, tokens / 3}) {  // a group whose beginning is cut off
      if (begin == tokens) continue;
      Codec::template encode<Width>(x.data() + begin * Width, begin, tokens, alone.data(), alone.data() + code_bytes);
      together([&] {
        Codec::template encode<Width>(x.data() + begin * Width, begin, tokens, shared.data(),
                                      shared.data() + code_bytes, team{});
      });
      CHECK(alone == shared);
      if (tokens == 1) break;
    }
  }
}

/// Bit patterns, as NaN is not equal to itself.
bool same_floats(const std::vector<float>& a, const std::vector<float>& b) {
  bool same = a.size() == b.size();
  for (std::size_t i = 0; same && i < a.size(); ++i) {
    same = float_bits(a[i]) == float_bits(b[i]) || (std::isnan(a[i]) && std::isnan(b[i]));
  }
  return same;
}

template <class Wrapper, int Width>
void same_rows() {
  CAPTURE(Wrapper::name.c_str());
  static_assert(quant::detail::rows_take_team<Wrapper, Width, team>);
  const std::vector<float> constants = rows_of(2 * Width, 0);
  const float* c = constants.data();
  for (int kind = 0; kind < kinds; ++kind) {
    CAPTURE(kind);
    const std::vector<float> x = rows_of(Width, kind);
    std::vector<float> alone = x, shared = x;
    Wrapper::template forward<Width>(alone.data(), c);
    together([&] { Wrapper::template forward<Width>(shared.data(), c, team{}); });
    CHECK(same_floats(alone, shared));
    Wrapper::template inverse<Width>(alone.data(), c);
    together([&] { Wrapper::template inverse<Width>(shared.data(), c, team{}); });
    CHECK(same_floats(alone, shared));
    Wrapper::template unfold_output<Width>(alone.data(), 0.75f, c);
    together([&] { Wrapper::template unfold_output<Width>(shared.data(), 0.75f, c, team{}); });
    CHECK(same_floats(alone, shared));
    if (kind != 0) continue;
    alone = shared = x;
    const float constant = Wrapper::template fold_query<Width>(alone.data(), c);
    float of_team = 0;
    together([&] {
      const float r = Wrapper::template fold_query<Width>(shared.data(), c, team{});
      if (team::rank() == threads - 1) of_team = r;
    });
    CHECK(same_floats(alone, shared));
    CHECK(std::abs(constant - of_team) <= Width * 6e-8f * 8);  // the sum is taken in another order
  }
}

template <class Dims, int HeadDim>
void same_dims() {
  CAPTURE(Dims::name.c_str());
  static_assert(dims::detail::takes_team<Dims, HeadDim, team>);
  constexpr int width = Dims::template width<HeadDim>;
  std::vector<float> constants(Dims::template calibration_floats<HeadDim> + 1);
  Dims::template initialise<HeadDim>(constants.data());
  if (constants.size() > HeadDim) constants = rows_of(static_cast<int>(constants.size()), 0);
  const std::vector<float> row = rows_of(HeadDim, 0);
  std::vector<float> alone(width), shared(width), long_alone(HeadDim), long_shared(HeadDim);
  // Sums may be taken in another order: products of numbers around 1.
  const auto close = [](const std::vector<float>& a, const std::vector<float>& b) {
    for (std::size_t i = 0; i < a.size(); ++i) {
      if (!(std::abs(a[i] - b[i]) <= HeadDim * 6e-8f * 4)) return false;
    }
    return true;
  };
  Dims::template compress<HeadDim>(row.data(), alone.data(), constants.data());
  together([&] { Dims::template compress<HeadDim>(row.data(), shared.data(), constants.data(), team{}); });
  CHECK(close(alone, shared));
  shared = alone;
  Dims::template expand<HeadDim>(alone.data(), long_alone.data(), constants.data());
  together([&] { Dims::template expand<HeadDim>(shared.data(), long_shared.data(), constants.data(), team{}); });
  CHECK(same_floats(long_alone, long_shared));
  Dims::template fold_query<HeadDim>(row.data(), alone.data(), constants.data());
  together([&] { Dims::template fold_query<HeadDim>(row.data(), shared.data(), constants.data(), team{}); });
  CHECK(close(alone, shared));
  if (constants.size() > HeadDim) {
    shared[width / 2] += 0.01f;
    CHECK(!close(alone, shared));  // it can fail
  }
}

/// A row in the registers of its team: what a wrapper and a codec of tokens make of it.
template <class Wrapper, class Codec, int Width>
void same_shares() {
  CAPTURE(Wrapper::name.c_str());
  CAPTURE(Codec::name.c_str());
  CAPTURE(Width);
  static_assert(quant::detail::forwards_share<Wrapper, Width, team>);
  static_assert(quant::detail::encodes_share<Codec, Width, team>);
  constexpr int own = Width / threads;
  constexpr std::size_t code_bytes = Codec::template row_bytes<Width>;
  constexpr std::size_t bytes = code_bytes + Codec::template group_bytes<Width>;
  const std::vector<float> constants = rows_of(2 * Width, 0);
  for (int kind = 0; kind < kinds; ++kind) {
    CAPTURE(kind);
    const std::vector<float> x = rows_of(Width, kind);
    std::vector<float> alone = x, shared(Width);
    std::vector<byte> alone_bytes(bytes, 0xaa), shared_bytes(bytes, 0x55), untouched(bytes, 0x33);
    Wrapper::template forward<Width>(alone.data(), constants.data());
    Codec::template encode<Width>(alone.data(), 0, 1, alone_bytes.data(), alone_bytes.data() + code_bytes);
    together([&] {
      float registers[own];
      const int first = team::rank() * own;
      for (int k = 0; k < own; ++k) registers[k] = x[static_cast<std::size_t>(first + k)];
      Wrapper::template forward_share<Width>(registers, constants.data(), team{});
      for (int k = 0; k < own; ++k) shared[static_cast<std::size_t>(first + k)] = registers[k];
      Codec::template encode_share<Width>(registers, shared_bytes.data(), shared_bytes.data() + code_bytes, true,
                                          team{});
      Codec::template encode_share<Width>(registers, untouched.data(), untouched.data() + code_bytes, false, team{});
    });
    CHECK(same_floats(alone, shared));
    CHECK(alone_bytes == shared_bytes);
    CHECK(untouched == std::vector<byte>(bytes, 0x33));
  }
}

/// As a user may write them: no function takes a team.
struct doubled : quant::none<float> {
  using axis = quant_axis;
  using inner_codec = quant::none<float>;
  static constexpr auto name = text("doubled");
  template <int Width>
  static constexpr int own_floats = 0;
  template <int Width>
  static void initialise(float*) {}
  template <int Width>
  static void forward(float* x, const float*) {
    for (int i = 0; i < Width; ++i) x[i] *= 2;
  }
  template <int Width>
  static void inverse(float* x, const float*) {
    for (int i = 0; i < Width; ++i) x[i] *= 0.5f;
  }
  template <int Width>
  static float fold_query(float* q, const float* c) {
    inverse<Width>(q, c);
    return 3;
  }
  template <int Width>
  static void unfold_output(float* o, float, const float* c) {
    inverse<Width>(o, c);
  }
};

}  // namespace

TEST_CASE("codecs of tokens: a team writes the bytes that one thread writes") {
  same_bytes<quant::none<float>, 48>();
  same_bytes<quant::none<bf16>, 64>();
  same_bytes<quant::none<fp16>, 72>();
  same_bytes<quant::fp8_e4m3<>, 64>();
  same_bytes<quant::fp8_e4m3<32, quant::scale_type::fp32>, 80>();
  same_bytes<quant::integer<8, 64, quant::symmetric>, 128>();
  same_bytes<quant::integer<6, 20>, 80>();
  same_bytes<quant::integer<5, 32>, 128>();
  same_bytes<quant::integer<4, 128>, 512>();
  same_bytes<quant::integer<4, 32>, 128>();
  same_bytes<quant::integer<4, 32>, 48>();  // the last group is shorter
  same_bytes<quant::integer<4, 24, quant::midrise>, 40>();
  same_bytes<quant::integer<3, 8>, 40>();
  same_bytes<quant::integer<3, 20>, 80>();  // groups that are not whole packing units
  same_bytes<quant::integer<2>, 8>();
  same_bytes<quant::integer<2, 4, quant::affine, quant::per_token, quant::scale_type::fp32>, 256>();
  same_bytes<quant::graded<quant::run<16, 6>, quant::run<16, 4>, quant::run<32, 3>>, 64>();
  same_bytes<quant::tapered<quant::run<16, 6>, quant::run<16, 4>, quant::run<32, 2>>, 64>();
}

TEST_CASE("codecs of channels: a team writes the bytes that one thread writes") {
  same_bytes<quant::integer<4, 32, quant::affine, quant::per_channel>, 128>();
  same_bytes<quant::integer<2, 16, quant::symmetric, quant::per_channel>, 40>();
  same_bytes<quant::integer<3, 8, quant::midrise, quant::per_channel, quant::scale_type::fp32>, 24>();
}

TEST_CASE("rows in registers: a team writes the bytes that one thread writes") {
  using plain = quant::centred<quant::none<float>>;
  using turned = quant::rotated<quant::none<float>>;
  same_shares<plain, quant::none<float>, 128>();
  same_shares<turned, quant::none<bf16>, 256>();
  same_shares<turned, quant::none<fp16>, 128>();
  same_shares<turned, quant::integer<4, 32>, 128>();
  same_shares<turned, quant::integer<4, 16>, 256>();
  same_shares<plain, quant::integer<4>, 512>();
  same_shares<turned, quant::integer<8, 64, quant::symmetric>, 256>();
  same_shares<turned, quant::integer<3, 8, quant::midrise>, 256>();  // two groups per thread
  same_shares<plain, quant::integer<2, 64, quant::affine, quant::per_token, quant::scale_type::fp32>, 128>();
  // Where groups and threads do not fit, there is no such function.
  static_assert(!quant::detail::encodes_share<quant::integer<4, 40>, 80, team>);
  static_assert(!quant::detail::encodes_share<quant::integer<3, 32>, 64, team>);
  static_assert(!quant::detail::encodes_share<quant::integer<4, 32, quant::affine, quant::per_channel>, 128, team>);
  static_assert(!quant::detail::forwards_share<turned, 96, team>);
}

TEST_CASE("row transforms: a team gives the rows that one thread gives") {
  same_rows<quant::rotated<quant::none<float>>, 128>();
  same_rows<quant::rotated<quant::none<float>>, 96>();
  same_rows<quant::rotated<quant::none<float>>, 40>();
  same_rows<quant::centred<quant::none<float>>, 72>();
  same_dims<dims::full, 64>();
  same_dims<dims::pruned<40>, 72>();
  same_dims<dims::low_rank<24>, 72>();
  same_dims<dims::low_rank<64>, 128>();

  const std::vector<float> key = rows_of(64, 0), angles = rows_of(64, 2);
  std::vector<float> alone = key, shared = key;
  using rotary_policy = rotary::deferred<rotary::pairs::half_split, 48>;
  static_assert(rotary::detail::takes_team<rotary_policy, 64, team>);
  rotary_policy::rotate<64>(alone.data(), angles.data());
  together([&] { rotary_policy::rotate<64>(shared.data(), angles.data(), team{}); });
  CHECK(same_floats(alone, shared));
}

TEST_CASE("a policy that knows no teams is run by one thread of them") {
  using stream_type = stream<dims::full, doubled, 64, rotary::applied, storage<>>;
  using rows = transform<stream_type>;
  static_assert(!rows::takes_team<team>);
  static_assert(transform<stream<dims::full, quant::integer<4>, 64, rotary::applied, storage<>>>::takes_team<team>);
  const std::vector<float> x = rows_of(64, 0);
  std::vector<float> alone(64), shared(64);
  rows::store(x.data(), alone.data(), nullptr);
  together([&] { rows::store(x.data(), shared.data(), nullptr, team{}); });
  CHECK(same_floats(alone, shared));
  CHECK(alone[3] == 2 * x[3]);
  std::array<float, threads> constants{};
  together([&] {
    constants[static_cast<std::size_t>(team::rank())] = rows::fold_query(x.data(), shared.data(), nullptr, team{});
  });
  for (const float c : constants) CHECK(c == 3);
}

TEST_CASE("the comparison can fail: a nibble is changed") {
  using codec = quant::integer<4, 32>;
  const std::vector<float> x = rows_of(64, 0);
  std::vector<byte> alone(32 + 8), shared(32 + 8);
  codec::encode<64>(x.data(), 0, 1, alone.data(), alone.data() + 32);
  together([&] { codec::encode<64>(x.data(), 0, 1, shared.data(), shared.data() + 32, team{}); });
  CHECK(alone == shared);
  shared[7] ^= 0x10;
  CHECK(alone != shared);
}
