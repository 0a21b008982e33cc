// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <limits>
#include <random>
#include <vector>

#include "kvc/host/simd/dispatch.hpp"
#include "kvc/quant/integer.hpp"
#include "kvc/quant/none.hpp"
#include "kvc/quant/rotated.hpp"

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
  for (const instruction_set set : kvc::host::instruction_sets) {
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

/// A tile of random packed rows of equal groups, but for the last one.
struct packed_tile {
  int fields, bits, group_bytes, groups, bytes, blocks, pitch;
  std::vector<byte> page;
  code_tile rows{};

  packed_tile(int f, int bytes_of_group, int count)
      : fields(f), bits(8 / f), group_bytes(bytes_of_group), groups(count), bytes(bytes_of_group * count), blocks(0) {
    if (below(3) == 0) bytes -= below(group_bytes);
    blocks = 1 + below(tile_blocks);
    pitch = bytes + below(3) * 4;
    page.resize(static_cast<std::size_t>(blocks * block_rows * pitch + 32));
    for (byte& b : page) b = static_cast<byte>(fields == 1 ? below(16) : below(256));
    rows.pitch = pitch;
    for (int b = 0; b < blocks; ++b) rows.block[b] = page.data() + b * block_rows * pitch;
  }
  int row_count() const { return blocks * block_rows; }
  int last_bytes() const { return bytes - (groups - 1) * group_bytes; }
  int words() const { return words_of_group(group_bytes, fields); }
  int code(int row, int byte_in_row, int field) const {
    return (page[static_cast<std::size_t>(row * pitch + byte_in_row)] >> (bits * field)) & ((1 << bits) - 1);
  }
};

template <int Fields>
void check_scores(const packed_tile& tile, int queries) {
  constexpr int index = Fields == 1 ? 0 : Fields / 2;
  constexpr int centre = Fields == 4 ? 2 : 8;
  const int count = tile.row_count(), groups = tile.groups;
  // Queries in 8 bits: scale x q8 is the query within half a step, whatever the order of the bytes.
  const int channels = tile.group_bytes * Fields, padded = (channels + 15) / 16 * 16, q_pitch = groups * padded;
  const int q8_pitch = groups * tile.words() * 4;
  std::vector<float> q = normal_values(queries * q_pitch);
  for (int i = 0; i < queries; ++i) {
    for (int g = 0; g < groups; ++g) {
      const int have = (g + 1 < groups ? tile.group_bytes : tile.last_bytes()) * Fields;
      for (int c = have; c < padded; ++c) q[static_cast<std::size_t>(i * q_pitch + g * padded + c)] = 0;
    }
  }
  std::vector<std::vector<int8>> q8;
  std::vector<std::vector<query_group>> query_groups;
  for (const kernel_table* t : tables()) {
    const kernel_scope scope(*t);
    q8.emplace_back(static_cast<std::size_t>((queries + 16) * q8_pitch + 256));
    query_groups.emplace_back(static_cast<std::size_t>(queries * groups));
    for (int begin = 0; begin < queries;) {
      const int block = query_block(queries - begin);
      for (int g = 0; g < groups; ++g) {
        t->quantize_query[index]({q.data() + begin * q_pitch + g * padded, std::min(block, queries - begin), q_pitch,
                                  padded, nullptr, nullptr, centre,
                                  q8.back().data() + begin * q8_pitch + g * tile.words() * 4 * block, block,
                                  query_groups.back().data() + begin * groups + g, groups});
      }
      begin += block;
    }
    CHECK(q8.back() == q8.front());
    CHECK(same_bits(query_groups.back(), query_groups.front()));
  }
  const auto rounded = [&](int i, int g, int channel) {
    int begin = 0;
    while (begin + query_block(queries - begin) <= i) begin += query_block(queries - begin);
    const int block = query_block(queries - begin);
    const int word = channel / (4 * Fields) * Fields + channel % Fields, byte_in_word = channel / Fields % 4;
    return static_cast<int>(q8[0][static_cast<std::size_t>(
        begin * q8_pitch + ((g * tile.words() + word) * block + i - begin) * 4 + byte_in_word)]);
  };
  const std::vector<float> scale = normal_values(groups * count), middle = normal_values(groups * count);
  std::vector<std::vector<float>> scores;
  for (const kernel_table* t : tables()) {
    const kernel_scope scope(*t);
    scores.emplace_back(static_cast<std::size_t>(queries * count), 0.5f);
    t->score_codes({tile.rows, tile.blocks, Fields, groups, tile.group_bytes, tile.last_bytes(), q8[0].data(), q8_pitch,
                    query_groups[0].data(), queries, scale.data(), middle.data(), count, scores.back().data(), count});
    CHECK(same_bits(scores.back(), scores.front()));
  }
  for (int i = 0; i < queries; ++i) {
    for (int g = 0; g < groups; ++g) {
      const double step = static_cast<double>(query_groups[0][static_cast<std::size_t>(i * groups + g)].scale);
      for (int c = 0; c < channels; ++c) {
        CHECK(std::abs(step * rounded(i, g, c) - at(q, i * q_pitch + g * padded + c)) <= step * 0.50001);
      }
    }
    for (int r = 0; r < count; ++r) {
      double wanted = 0.5, size = 0.5;
      for (int g = 0; g < groups; ++g) {
        const query_group& of = query_groups[0][static_cast<std::size_t>(i * groups + g)];
        const int end = g + 1 < groups ? tile.group_bytes : tile.last_bytes();
        double dot = 0;
        for (int b = 0; b < end; ++b) {
          for (int f = 0; f < Fields; ++f) {
            dot += rounded(i, g, b * Fields + f) * (tile.code(r, g * tile.group_bytes + b, f) - centre);
          }
        }
        const double coded = dot * static_cast<double>(of.scale) * at(scale, g * count + r);
        // Channels that the last group lacks have queries of zero, and codes that are not there no part in its start.
        const double rest = at(middle, g * count + r) * static_cast<double>(of.sum);
        wanted += coded + rest;
        size += std::abs(coded) + std::abs(rest);
      }
      CHECK(std::abs(at(scores[0], i * count + r) - wanted) <= (3 + groups) * 6e-8 * size);
    }
  }
}

template <int Fields>
void check_sums(const packed_tile& tile, int queries) {
  constexpr int centre = Fields == 4 ? 2 : 8;
  const int count = tile.row_count();
  // One chunk: up to 64 bytes, in parts of equal length or in one.
  const int bytes = std::min(64, tile.bytes), sets = bytes <= 32 ? 2 : 1;
  const int part_bytes =
      tile.group_bytes == 8 || tile.group_bytes == 16 || tile.group_bytes == 32 ? tile.group_bytes : 64;
  const int parts = part_bytes == 64 ? 1 : (bytes + part_bytes - 1) / part_bytes;
  kvc::int32 lanes[2][16];
  for (int i = 0; i < 32; ++i) {
    const int quarter = i % 16 / 4;
    const int in_row = quarter % (4 / sets) * 16 + i / 16 * 8;
    lanes[i / 16][i % 16] = quarter / (4 / sets) * parts + std::min(in_row / part_bytes, parts - 1);
  }
  std::vector<uint8> w8(static_cast<std::size_t>(queries * parts * count + 32));
  for (uint8& w : w8) w = static_cast<uint8>(below(256));
  const auto weight = [&](int i, int part, int row) {
    return static_cast<int>(w8[static_cast<std::size_t>((i * (count / 4) + row / 4) * parts * 4 + part * 4 + row % 4)]);
  };
  std::vector<weight_groups> groups(static_cast<std::size_t>(queries));
  for (int i = 0; i < queries; ++i) {
    for (int p = 0; p < parts; ++p) {
      int sum = 0;
      for (int r = 0; r < count; ++r) sum += weight(i, p, r);
      weight_groups& g = groups[static_cast<std::size_t>(i)];
      g.scale[p] = normal_values(1)[0];
      g.start[p] = -centre * sum;
      if (sets == 2) {
        g.scale[parts + p] = g.scale[p];
        g.start[parts + p] = 0;
      }
    }
  }
  std::vector<std::vector<float>> sums;
  std::vector<byte> buffer(tile_blocks * 1024);
  for (const kernel_table* t : tables()) {
    const kernel_scope scope(*t);
    sums.emplace_back(static_cast<std::size_t>(queries * Fields * 64), 0.25f);
    t->sum_codes({tile.rows, tile.blocks, tile.bytes, 0, bytes, Fields, sets, w8.data(), parts * count, parts, lanes,
                  groups.data(), queries, sums.back().data(), Fields * 64, buffer.data()});
    for (int i = 0; i < queries; ++i) {
      for (int b = 0; b < bytes; ++b) {
        const int part = std::min(b / part_bytes, parts - 1);
        const double scale = static_cast<double>(groups[static_cast<std::size_t>(i)].scale[part]);
        for (int f = 0; f < Fields; ++f) {
          double dot = 0;
          for (int r = 0; r < count; ++r) dot += weight(i, part, r) * (tile.code(r, b, f) - centre);
          const int64 from = i * Fields * 64 + f * 64 + b % 16 / 4 * 16 + b / 16 * 4 + b % 4;
          const bool same = std::memcmp(&sums.back()[static_cast<std::size_t>(from)],
                                        &sums.front()[static_cast<std::size_t>(from)], 4) == 0;
          CHECK(same);
          double got = at(sums.back(), from), start = 0.25;
          if (sets == 2) {
            got += at(sums.back(), from + 8);
            start = 0.5;
          }
          // The halves of a sum of two sets may be larger than it: each is rounded by itself.
          double size = 0;
          for (int r = 0; r < count; ++r) size += weight(i, part, r) * centre;
          CHECK(std::abs(got - (start + dot * scale)) <= 4 * 6e-8 * (start + 2 * size * std::abs(scale)));
        }
      }
    }
  }
}

template <int Fields>
void check_codes() {
  constexpr int lengths[] = {8, 16, 32, 64, 128, 3, 12, 20, 40, 100, 2, 4};
  for (int round = 0; round < 60; ++round) {
    const packed_tile tile(Fields, lengths[round % 12], 1 + below(4));
    const int few = round % 7 == 0 ? 17 + below(20) : 1 + below(12);
    const int queries = round > 12 && round % 12 == 3 ? 130 + below(40) : few;
    CAPTURE(round);
    CAPTURE(queries);
    CAPTURE(tile.bytes);
    check_scores<Fields>(tile, queries);
    check_sums<Fields>(tile, queries);
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
    std::vector<weight_groups> groups;
    bool is_first = true;
    for (const kernel_table* t : tables()) {
      const kernel_scope scope(*t);
      std::vector<float> x = raw, f(static_cast<std::size_t>(queries)), m(static_cast<std::size_t>(queries), 1.0f);
      std::vector<kvc::softmax_state> s(static_cast<std::size_t>(queries));
      for (std::size_t i = 0; i < s.size(); i += 2) s[i] = {static_cast<float>(i) - 3, 1.5f};
      std::vector<uint8> w(static_cast<std::size_t>(queries * code_tile_rows));
      std::vector<weight_groups> g(static_cast<std::size_t>(queries));
      t->load_constants({reinterpret_cast<const byte*>(pairs.data()), blocks, 1, 8.0f, scale.data(), middle.data(), 0});
      t->softmax({x.data(), count, queries, blocks, masked, count, 1, constants.data(), 0.3f, cap, s.data(), f.data()});
      t->quantize_weights({x.data(), count, queries, blocks, masked, count, 1, scale.data(), middle.data(), count,
                           w.data(), code_tile_rows, 1, 1, g.data(), 8, m.data(), 1});
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
        CHECK(std::memcmp(w.data() + i * code_tile_rows, w8.data() + i * code_tile_rows,
                          static_cast<std::size_t>(count)) == 0);
        CHECK((f[at_i] == factors[at_i] && m[at_i] == middles[at_i] && s[at_i].m == states[at_i].m &&
               s[at_i].l == states[at_i].l && g[at_i].scale[0] == groups[at_i].scale[0] &&
               g[at_i].start[0] == groups[at_i].start[0]));
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
        const double w = w8[static_cast<std::size_t>(i * code_tile_rows + r)];
        total += w;
        if (top < 1e-29) continue;
        CHECK(std::abs(w * top / 255 - (seen ? at(p, i * count + r) * at(scale, r) : 0)) <= 1.001 * top / 255);
      }
      CHECK(groups[at_i].start[0] == static_cast<int>(-8 * total));
      CHECK(std::abs(at(middles, i) - rest) <= 1e-4 * (1 + sum * 4));
    }
  }
}

TEST_CASE("constants of several groups are those of each alone") {
  for (const int groups : {2, 3, 4, 8, 9}) {
    std::vector<kvc::uint32> pairs(static_cast<std::size_t>(8 + block_rows * groups));
    for (auto& p : pairs) {
      p = kvc::fp16::from(std::abs(normal_values(1)[0])).bits |
          static_cast<kvc::uint32>(kvc::fp16::from(normal_values(1)[0]).bits) << 16;
    }
    for (const kernel_table* t : tables()) {
      const kernel_scope scope(*t);
      std::vector<float> scale(static_cast<std::size_t>(groups * 32)), middle = scale, one(32), one_middle(32);
      t->load_constants(
          {reinterpret_cast<const byte*>(pairs.data() + 8), 1, groups, 8.0f, scale.data(), middle.data(), 32});
      for (int g = 0; g < groups; ++g) {
        std::vector<kvc::uint32> alone;
        for (int r = 0; r < block_rows; ++r) alone.push_back(pairs[static_cast<std::size_t>(8 + r * groups + g)]);
        t->load_constants({reinterpret_cast<const byte*>(alone.data()), 1, 1, 8.0f, one.data(), one_middle.data(), 0});
        CHECK(std::memcmp(one.data(), scale.data() + g * 32, 64) == 0);
        CHECK(std::memcmp(one_middle.data(), middle.data() + g * 32, 64) == 0);
      }
    }
  }
}

TEST_CASE("weights of several groups stand side by side, the same as alone") {
  constexpr int queries = 21;
  for (const int parts : {1, 2, 3, 4, 5, 8}) {
    for (const int blocks : {1, 3, 8}) {
      const int count = blocks * block_rows, room = room_for(parts), sets = parts <= 4 ? 2 : 1;
      std::vector<float> p = normal_values(queries * count), scale = normal_values(parts * count),
                         middle = normal_values(parts * count);
      for (float& x : p) x = std::abs(x);
      for (float& x : scale) x = std::abs(x);
      std::vector<uint8> mask(static_cast<std::size_t>(count), 255);
      mask[3] = 0;
      for (const kernel_table* t : tables()) {
        const kernel_scope scope(*t);
        std::vector<uint8> together(static_cast<std::size_t>(queries * room * code_tile_rows)),
            alone(static_cast<std::size_t>(queries * code_tile_rows));
        std::vector<weight_groups> groups(queries), one(queries);
        std::vector<float> rests(static_cast<std::size_t>(queries * parts), 0.0f), rest(queries);
        t->quantize_weights({p.data(), count, queries, blocks, mask.data(), 0, 1, scale.data(), middle.data(), count,
                             together.data(), room * code_tile_rows, parts, sets, groups.data(), 8, rests.data(),
                             parts});
        for (int part = 0; part < parts; ++part) {
          std::fill(rest.begin(), rest.end(), 0.0f);
          t->quantize_weights({p.data(), count, queries, blocks, mask.data(), 0, 1, scale.data() + part * count,
                               middle.data() + part * count, count, alone.data(), code_tile_rows, 1, 1, one.data(), 8,
                               rest.data(), 1});
          for (int i = 0; i < queries; ++i) {
            const weight_groups& g = groups[static_cast<std::size_t>(i)];
            const weight_groups& o = one[static_cast<std::size_t>(i)];
            CHECK((g.scale[part] == o.scale[0] && g.start[part] == o.start[0]));
            if (sets == 2) CHECK((g.scale[room + part] == o.scale[0] && g.start[room + part] == 0));
            CHECK(rests[static_cast<std::size_t>(i * parts + part)] == rest[static_cast<std::size_t>(i)]);
            bool same = true;
            for (int r = 0; r < count; ++r) {
              same =
                  same &&
                  together[static_cast<std::size_t>((i * code_tile_rows / 4 + r / 4) * room * 4 + part * 4 + r % 4)] ==
                      alone[static_cast<std::size_t>(i * code_tile_rows + r)];
            }
            CHECK(same);
            CHECK(alone[static_cast<std::size_t>(i * code_tile_rows + 3)] == 0);
          }
        }
      }
    }
  }
}

TEST_CASE("weights that are too small for one step keep their mean") {
  constexpr int count = 128;
  std::vector<float> p(count, 0.001f), scale(count, 1.0f), middle(count, 0.0f);
  p[0] = 1;
  std::vector<uint8> w8(count);
  weight_groups g{};
  float rest = 0;
  const kernel_scope scope(kernels());
  kernels().quantize_weights({p.data(), count, 1, tile_blocks, nullptr, 0, 1, scale.data(), middle.data(), count,
                              w8.data(), count, 1, 1, &g, 8, &rest, 1});
  int sum = 0;
  for (int r = 1; r < count; ++r) sum += w8[static_cast<std::size_t>(r)];
  CHECK(std::abs(static_cast<double>(g.scale[0]) * sum - 0.127) < 0.02);  // rounded to nearest, all would be 0
}

/// Rows of any scale, with what is hard to encode: nothing but one number, numbers beyond fp16's range, the least and
/// the greatest floats, -0, infinities, NaN.
std::vector<float> hard_rows(int rows, int width) {
  const float inf = std::numeric_limits<float>::infinity();
  const float hard[] = {0.0f,     -0.0f,
                        1.0f,     -1.0f,
                        65504.0f, -65504.0f,
                        65520.0f, -65520.0f,
                        1e6f,     -1e6f,
                        3.4e38f,  -3.4e38f,
                        1e-8f,    -1e-8f,
                        1e-40f,   -1e-40f,
                        6.0e-8f,  9.8e5f,
                        -9.83e5f, inf,
                        -inf,     std::numeric_limits<float>::quiet_NaN()};
  constexpr int kinds = static_cast<int>(std::size(hard));
  std::vector<float> x;
  for (int r = 0; r < rows; ++r) {
    std::vector<float> row = normal_values(width, std::ldexp(1.0f, below(40) - 30));
    if (r % 4 == 1) {
      for (int n = 1 + below(3); n > 0; --n) row[static_cast<std::size_t>(below(width))] = hard[below(kinds)];
    } else if (r % 4 == 2) {
      std::fill(row.begin(), row.end(), hard[below(kinds)]);
    } else if (r % 4 == 3) {
      for (float& v : row) v = hard[below(kinds - (below(4) == 0 ? 0 : 3))];
    }
    x.insert(x.end(), row.begin(), row.end());
  }
  return x;
}

template <int Bits, int Group, kvc::quant::grid Grid, int Width>
void check_encoded_bytes() {
  using codec = kvc::quant::integer<Bits, Group, Grid>;
  constexpr int row_bytes = codec::template row_bytes<Width>, constant_bytes = codec::template group_bytes<Width>;
  for (const int rows : {1, 15, 64}) {
    const std::vector<float> x = hard_rows(rows, Width);
    std::vector<byte> codes(static_cast<std::size_t>(rows * row_bytes)),
        constants(static_cast<std::size_t>(rows * constant_bytes));
    codec::template encode<Width>(x.data(), 0, rows, codes.data(), constants.data());
    for (const kernel_table* t : tables()) {
      const kernel_scope scope(*t);
      std::vector<byte> got(codes.size()), got_constants(constants.size());
      std::vector<const float*> from;
      std::vector<byte*> to, to_constants;
      for (int r = 0; r < rows; ++r) {
        from.push_back(x.data() + r * Width);
        to.push_back(got.data() + r * row_bytes);
        to_constants.push_back(got_constants.data() + r * constant_bytes);
      }
      t->encode({from.data(), nullptr, to.data(), to_constants.data(), rows, Width, Group, Bits, Grid});
      CHECK(same_bits(got, codes));
      CHECK(same_bits(got_constants, constants));
    }
  }
}

TEST_CASE("encoded rows have the bytes of quant::integer, whatever the numbers") {
  using namespace kvc::quant;
  for (int i = 0; i < 20; ++i) {
    check_encoded_bytes<4, 128, affine, 128>();
    check_encoded_bytes<4, 64, midrise, 128>();
    check_encoded_bytes<4, 32, symmetric, 96>();
    check_encoded_bytes<4, 64, symmetric, 192>();
    check_encoded_bytes<2, 32, affine, 128>();
    check_encoded_bytes<3, 16, midrise, 48>();
    check_encoded_bytes<8, 64, symmetric, 64>();
    check_encoded_bytes<8, 32, midrise, 64>();
  }
}

TEST_CASE("rotated rows have the bits of quant::rotated") {
  const auto check = []<int Width>(std::integral_constant<int, Width>) {
    using rotation = kvc::quant::rotated<kvc::quant::none<float>>;
    constexpr int block = rotation::block<Width>;
    const std::vector<float> row = normal_values(Width);
    std::vector<float> wanted = row, signs;
    rotation::forward<Width>(wanted.data(), nullptr);
    for (int i = 0; i < Width; ++i) signs.push_back(kvc::quant::hadamard_sign(i));
    for (const kernel_table* t : tables()) {
      const kernel_scope scope(*t);
      std::vector<float> got = row;
      t->rotate({got.data(), got.data(), signs.data(), Width, block, 1.0f / kvc::sqrt_of(static_cast<float>(block))});
      CAPTURE(Width);
      CHECK(same_bits(got, wanted));
    }
  };
  check(std::integral_constant<int, 16>{});
  check(std::integral_constant<int, 32>{});
  check(std::integral_constant<int, 48>{});
  check(std::integral_constant<int, 64>{});
  check(std::integral_constant<int, 96>{});
  check(std::integral_constant<int, 128>{});
  check(std::integral_constant<int, 256>{});
  check(std::integral_constant<int, 1024>{});
}

TEST_CASE("scores have the same bits in any block of queries and rows, and are dot products") {
  constexpr int queries = 7, rows = 37, width = 96;
  const std::vector<float> q = normal_values(queries * width), k = normal_values(rows * width);
  for (const kernel_table* t : tables()) {
    const kernel_scope scope(*t);
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
    const kernel_scope scope(*t);
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
  for (const instruction_set set : kvc::host::instruction_sets) {
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
