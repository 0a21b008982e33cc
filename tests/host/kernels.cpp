// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "kvc/host/simd/dispatch.hpp"

// The kernels of host/simd, for every instruction set that the machine has: against plain loops in double, and against
// each other bit by bit.

using namespace kvc::host::detail;
using kvc::byte;
using kvc::int64;
using kvc::int8;
using kvc::uint8;
using kvc::host::instruction_set;

namespace {

std::vector<const kernel_table*> tables() {
  std::vector<const kernel_table*> all;
  for (const instruction_set set : {instruction_set::portable, instruction_set::avx2, instruction_set::avx512}) {
    if (kvc::host::has(set)) all.push_back(table_of(set));
  }
  return all;
}

std::mt19937 engine(3);

int below(int n) {
  return std::uniform_int_distribution<int>(0, n - 1)(engine);
}

std::vector<float> normal_values(int count, float spread = 1) {
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> out(static_cast<std::size_t>(count));
  for (float& x : out) x = normal(engine);
  return out;
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

double at(const std::vector<float>& x, int64 i) {
  return static_cast<double>(x[static_cast<std::size_t>(i)]);
}

/// A tile of random packed rows.
struct packed_tile {
  int fields, bits, channels, bytes, blocks, pitch;
  std::vector<byte> page;
  code_tile rows{};

  explicit packed_tile(int f)
      : fields(f), bits(8 / f), channels(0), bytes(4 * (1 + below(40))), blocks(1 + below(tile_blocks)), pitch(0) {
    channels = bytes * fields;
    pitch = bytes + below(3) * 4;
    page.resize(static_cast<std::size_t>(blocks * block_rows * pitch + 32));
    for (byte& b : page) b = static_cast<byte>(fields == 1 ? below(16) : below(256));
    rows.pitch = pitch;
    for (int b = 0; b < blocks; ++b) rows.block[b] = page.data() + b * block_rows * pitch;
  }
  int count() const { return blocks * block_rows; }
  int padded() const { return (bytes + 31) / 32 * 32 * fields; }
  int code(int row, int channel) const {
    const int b = page[static_cast<std::size_t>(row * pitch + channel / fields)];
    return (b >> (bits * (channel % fields))) & ((1 << bits) - 1);
  }
};

template <int Fields>
void check_codes() {
  constexpr int index = Fields == 1 ? 0 : Fields / 2;
  constexpr int centre = Fields == 4 ? 2 : 8;
  for (int round = 0; round < 30; ++round) {
    const packed_tile tile(Fields);
    const int queries = 1 + below(9), count = tile.count();
    CAPTURE(round);
    CAPTURE(queries);
    CAPTURE(tile.bytes);

    // Queries in 8 bits: scale x q8 is the query within half a step, whatever the order of the bytes.
    const int padded = tile.padded();
    std::vector<float> q = normal_values(queries * padded);
    for (int i = 0; i < queries; ++i) {
      for (int c = tile.channels; c < padded; ++c) q[static_cast<std::size_t>(i * padded + c)] = 0;
    }
    std::vector<std::vector<int8>> q8;
    std::vector<std::vector<query_group>> groups;
    for (const kernel_table* t : tables()) {
      q8.emplace_back(static_cast<std::size_t>(queries * padded));
      groups.emplace_back(static_cast<std::size_t>(queries));
      t->quantize_query[index]({q.data(), queries, padded, padded, nullptr, nullptr, centre, q8.back().data(), padded,
                                groups.back().data(), 1});
      CHECK(q8.back() == q8.front());
      CHECK(same_bits(groups.back(), groups.front()));
    }
    const auto rounded = [&](int i, int channel) {
      const int word = channel / (4 * Fields), in_word = channel % (4 * Fields);
      return static_cast<int>(
          q8[0][static_cast<std::size_t>(i * padded + word * 4 * Fields + in_word % Fields * 4 + in_word / Fields)]);
    };
    for (int i = 0; i < queries; ++i) {
      const double step = static_cast<double>(groups[0][static_cast<std::size_t>(i)].scale);
      for (int c = 0; c < tile.channels; ++c) {
        CHECK(std::abs(step * rounded(i, c) - at(q, i * padded + c)) <= step * 0.50001);
      }
    }

    // Scores.
    const std::vector<float> scale = normal_values(count), middle = normal_values(count);
    std::vector<std::vector<float>> scores;
    std::vector<byte> buffer(1 << 18);
    for (const kernel_table* t : tables()) {
      scores.emplace_back(static_cast<std::size_t>(queries * count), 0.5f);
      t->score_codes[index]({tile.rows, tile.blocks, 0, tile.channels / 4, q8[0].data(), padded, groups[0].data(), 1,
                             queries, scale.data(), middle.data(), scores.back().data(), count, buffer.data()});
      CHECK(same_bits(scores.back(), scores.front()));
    }
    for (int i = 0; i < queries; ++i) {
      const query_group& g = groups[0][static_cast<std::size_t>(i)];
      for (int r = 0; r < count; ++r) {
        double dot = 0;
        for (int c = 0; c < tile.channels; ++c) dot += rounded(i, c) * (tile.code(r, c) - centre);
        const double coded = dot * static_cast<double>(g.scale) * at(scale, r);
        const double rest = at(middle, r) * static_cast<double>(g.sum);
        CHECK(std::abs(at(scores[0], i * count + r) - (0.5 + coded + rest)) <=
              4 * 6e-8 * (0.5 + std::abs(coded) + std::abs(rest)));
      }
    }

    // Sums.
    std::vector<uint8> w8(static_cast<std::size_t>(queries * count));
    for (uint8& w : w8) w = static_cast<uint8>(below(256));
    std::vector<weight_group> weights(static_cast<std::size_t>(queries));
    for (int i = 0; i < queries; ++i) {
      int sum = 0;
      for (int r = 0; r < count; ++r) sum += w8[static_cast<std::size_t>(i * count + r)];
      weights[static_cast<std::size_t>(i)] = {normal_values(1)[0], -centre * sum};
    }
    std::vector<std::vector<float>> sums;
    for (const kernel_table* t : tables()) {
      sums.emplace_back(static_cast<std::size_t>(queries * padded), 0.25f);
      t->sum_codes[index]({tile.rows, tile.blocks, 0, tile.bytes, w8.data(), count, weights.data(), queries,
                           sums.back().data(), padded, buffer.data()});
      CHECK(same_bits(sums.back(), sums.front()));
    }
    for (int i = 0; i < queries; ++i) {
      for (int c = 0; c < tile.channels; ++c) {
        double dot = 0;
        for (int r = 0; r < count; ++r) dot += w8[static_cast<std::size_t>(i * count + r)] * (tile.code(r, c) - centre);
        const double coded = dot * static_cast<double>(weights[static_cast<std::size_t>(i)].scale);
        CHECK(std::abs(at(sums[0], i * padded + c) - (0.25 + coded)) <= 4 * 6e-8 * (0.25 + std::abs(coded)));
      }
    }
  }
}

}  // namespace

TEST_CASE("scores and sums of packed codes are those of plain loops, in every instruction set") {
  check_codes<1>();
  check_codes<2>();
  check_codes<4>();
}

TEST_CASE("softmax and weights are the same in every instruction set, and what they should be") {
  for (int round = 0; round < 60; ++round) {
    CAPTURE(round);
    const int queries = 1 + below(40), blocks = 1 + below(tile_blocks), count = blocks * block_rows;
    const float cap = round % 3 == 0 ? 5.0f : 0.0f;
    std::vector<float> raw = normal_values(queries * count, 8), constants = normal_values(queries);
    if (round % 5 == 0) raw[0] = std::numeric_limits<float>::quiet_NaN();
    std::vector<uint8> mask(static_cast<std::size_t>(queries * count));
    for (uint8& m : mask) m = below(2) == 0 ? 255 : 0;
    if (round % 4 == 0) std::fill(mask.begin(), mask.end(), uint8{0});
    const uint8* masked = round % 2 == 0 ? mask.data() : nullptr;
    std::vector<kvc::uint32> pairs(static_cast<std::size_t>(count));
    for (auto& p : pairs) {
      p = kvc::fp16::from(std::abs(normal_values(1)[0])).bits |
          static_cast<kvc::uint32>(kvc::fp16::from(normal_values(1)[0]).bits) << 16;
    }

    std::vector<float> p, factors, middles, scale(static_cast<std::size_t>(count)), middle = scale;
    std::vector<kvc::softmax_state> states;
    std::vector<uint8> w8;
    std::vector<weight_group> groups;
    bool is_first = true;
    for (const kernel_table* t : tables()) {
      std::vector<float> x = raw, f(static_cast<std::size_t>(queries)), m(static_cast<std::size_t>(queries), 1.0f);
      std::vector<kvc::softmax_state> s(static_cast<std::size_t>(queries));
      for (std::size_t i = 0; i < s.size(); i += 2) s[i] = {static_cast<float>(i) - 3, 1.5f};
      std::vector<uint8> w(static_cast<std::size_t>(queries * count));
      std::vector<weight_group> g(static_cast<std::size_t>(queries));
      t->load_constants({reinterpret_cast<const byte*>(pairs.data()), blocks, 8.0f, scale.data(), middle.data()});
      t->softmax({x.data(), count, queries, blocks, masked, count, 1, constants.data(), 0.3f, cap, s.data(), f.data()});
      t->quantize_weights({x.data(), count, queries, blocks, masked, count, 1, scale.data(), middle.data(), w.data(),
                           count, g.data(), 8, m.data(), 1});
      if (is_first) {
        p = x;
        factors = f;
        middles = m;
        states = s;
        w8 = w;
        groups = g;
        is_first = false;
      }
      // NaN has many bits: numbers are compared where there is none.
      for (int i = 0; i < queries; ++i) {
        if (round % 5 == 0 && i == 0) {
          CHECK(std::isnan(s[0].l) == (masked == nullptr || mask[0] != 0));
          continue;
        }
        const std::size_t at_i = static_cast<std::size_t>(i);
        CHECK(std::memcmp(x.data() + i * count, p.data() + i * count,
                          sizeof(float) * static_cast<std::size_t>(count)) == 0);
        CHECK(std::memcmp(w.data() + i * count, w8.data() + i * count, static_cast<std::size_t>(count)) == 0);
        CHECK((f[at_i] == factors[at_i] && m[at_i] == middles[at_i] && s[at_i].m == states[at_i].m &&
               s[at_i].l == states[at_i].l && g[at_i].scale == groups[at_i].scale &&
               g[at_i].start == groups[at_i].start));
      }
    }
    for (int i = round % 5 == 0 ? 1 : 0; i < queries; ++i) {
      CAPTURE(i);
      const std::size_t at_i = static_cast<std::size_t>(i);
      double sum = i % 2 == 0 ? 1.5 * static_cast<double>(factors[at_i]) : 0, top = 0, rest = 1;
      const double m = static_cast<double>(states[at_i].m);
      for (int r = 0; r < count; ++r) {
        const bool seen = masked == nullptr || mask[static_cast<std::size_t>(i * count + r)] != 0;
        double s = 0.3 * (at(raw, i * count + r) + at(constants, i));
        if (cap > 0) s = 5 * std::tanh(s / 5);
        const double weight = seen ? std::exp(s - m) : 0;
        CHECK(std::abs(at(p, i * count + r) - weight) <= 2e-5 * weight + 1e-37);
        sum += weight;
        if (!seen) continue;
        top = std::max(top, weight * at(scale, r));
        rest += weight * at(middle, r);
      }
      CHECK(std::abs(static_cast<double>(states[at_i].l) - sum) <= 3e-5 * sum);
      double total = 0;
      for (int r = 0; r < count; ++r) {
        const bool seen = masked == nullptr || mask[static_cast<std::size_t>(i * count + r)] != 0;
        const double w = w8[static_cast<std::size_t>(i * count + r)];
        total += w;
        if (top < 1e-29) continue;
        CHECK(std::abs(w * top / 255 - (seen ? at(p, i * count + r) * at(scale, r) : 0)) <= 1.001 * top / 255);
      }
      CHECK(groups[at_i].start == static_cast<int>(-8 * total));
      CHECK(std::abs(at(middles, i) - rest) <= 1e-4 * (1 + sum * 4));
    }
  }
}

TEST_CASE("weights that are too small for one step keep their mean") {
  constexpr int count = 128;
  std::vector<float> p(count, 0.001f), scale(count, 1.0f), middle(count, 0.0f);
  p[0] = 1;
  std::vector<uint8> w8(count);
  weight_group g{};
  float rest = 0;
  kernels().quantize_weights(
      {p.data(), count, 1, tile_blocks, nullptr, 0, 1, scale.data(), middle.data(), w8.data(), count, &g, 8, &rest, 1});
  int sum = 0;
  for (int r = 1; r < count; ++r) sum += w8[static_cast<std::size_t>(r)];
  CHECK(std::abs(static_cast<double>(g.scale) * sum - 0.127) < 0.02);  // rounded to nearest, all would be 0
}

TEST_CASE("scores have the same bits in any block of queries and rows, and are dot products") {
  constexpr int queries = 7, rows = 37, width = 96;
  const std::vector<float> q = normal_values(queries * width), k = normal_values(rows * width);
  for (const kernel_table* t : tables()) {
    std::vector<float> together(queries * rows), twice(queries * rows, 1.0f);
    t->score_tile[0]({q.data(), queries, width, k.data(), rows, width, width, together.data(), rows});
    t->score_tile[1]({q.data(), queries, width, k.data(), rows, width, width, twice.data(), rows});
    for (int i = 0; i < queries; ++i) {
      for (int r = 0; r < rows; ++r) {
        CAPTURE(i);
        CAPTURE(r);
        float alone = 0;
        t->score_tile[0]({q.data() + i * width, 1, width, k.data() + r * width, 1, width, width, &alone, 1});
        const float x = together[static_cast<std::size_t>(i * rows + r)];
        CHECK(x == alone);
        CHECK(twice[static_cast<std::size_t>(i * rows + r)] == 1.0f + alone);
        double dot = 0, size = 0;
        for (int c = 0; c < width; ++c) {
          const double term = at(q, i * width + c) * at(k, r * width + c);
          dot += term;
          size += std::abs(term);
        }
        CHECK(std::abs(static_cast<double>(x) - dot) <= 12 * 6e-8 * size);  // 6 terms per lane, a tree of 4 levels
      }
    }
  }
}

TEST_CASE("weighted sums have the same bits in any block of queries, and are sums") {
  constexpr int queries = 6, rows = 21, width = 80;
  const std::vector<float> p = normal_values(queries * rows), v = normal_values(rows * width);
  for (const kernel_table* t : tables()) {
    std::vector<float> together(queries * width, 0.5f);
    t->sum_tile({p.data(), queries, rows, v.data(), rows, width, width, together.data(), width});
    for (int i = 0; i < queries; ++i) {
      std::vector<float> alone(width, 0.5f);
      t->sum_tile({p.data() + i * rows, 1, rows, v.data(), rows, width, width, alone.data(), width});
      for (int c = 0; c < width; ++c) {
        CAPTURE(i);
        CAPTURE(c);
        const float x = together[static_cast<std::size_t>(i * width + c)];
        CHECK(x == alone[static_cast<std::size_t>(c)]);
        double sum = 0.5, size = 0.5;
        for (int r = 0; r < rows; ++r) {
          const double term = at(p, i * rows + r) * at(v, r * width + c);
          sum += term;
          size += std::abs(term);
        }
        CHECK(std::abs(static_cast<double>(x) - sum) <= rows * 6e-8 * size);
      }
    }
  }
}

TEST_CASE("the best instruction set is chosen, and others can be") {
  const instruction_set best = kvc::host::active_instruction_set();
  CHECK(best == kvc::host::best_instruction_set());
  for (const instruction_set set : {instruction_set::portable, instruction_set::avx2, instruction_set::avx512}) {
    CAPTURE(kvc::host::name_of(set));
    if (kvc::host::has(set)) {
      CHECK(kvc::host::use_instruction_set(set) == kvc::status::ok);
      CHECK(kvc::host::active_instruction_set() == set);
    } else {
      CHECK(kvc::host::use_instruction_set(set) == kvc::status::unsupported);
    }
  }
  CHECK(kvc::host::use_instruction_set(best) == kvc::status::ok);
}
