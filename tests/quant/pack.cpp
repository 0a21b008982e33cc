// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <kvc/quant/pack.hpp>
#include <kvc/testing/failures.hpp>
#include <vector>

namespace {

constexpr int count = 64;

/// Bit by bit: bit b of code i is bit (i * bits + b) of the row, counted from the lowest bit of the first byte.
std::vector<unsigned char> packed_bit_by_bit(const std::vector<unsigned char>& codes, int bits) {
  std::vector<unsigned char> row(static_cast<std::size_t>(count * bits / 8), 0);
  for (int i = 0; i < count; ++i) {
    for (int b = 0; b < bits; ++b) {
      const int at = i * bits + b;
      if (codes[static_cast<std::size_t>(i)] >> b & 1)
        row[static_cast<std::size_t>(at / 8)] |= static_cast<unsigned char>(1 << at % 8);
    }
  }
  return row;
}

template <int Bits>
void check_bits() {
  CAPTURE(Bits);
  static_assert(kvc::quant::packing<Bits>::unit * Bits == 8 * kvc::quant::packing<Bits>::unit_bytes);
  kvc::testing::random_source r(Bits);
  int wrong = 0;
  const auto check = [&wrong](const std::vector<unsigned char>& codes) {
    std::vector<unsigned char> row(count * Bits / 8 + 2, 0xa5), back(count + 2, 0xa5);
    kvc::quant::pack<Bits, count>(codes.data(), row.data() + 1);
    const std::vector<unsigned char> expected = packed_bit_by_bit(codes, Bits);
    if (row.front() != 0xa5 || row.back() != 0xa5) ++wrong;
    if (std::vector<unsigned char>(row.begin() + 1, row.end() - 1) != expected) ++wrong;
    kvc::quant::unpack<Bits, count>(expected.data(), back.data() + 1);
    if (back.front() != 0xa5 || back.back() != 0xa5) ++wrong;
    if (std::vector<unsigned char>(back.begin() + 1, back.end() - 1) != codes) ++wrong;
  };
  // Every code at every place, among zeros and among ones; then random rows.
  for (int place = 0; place < count; ++place) {
    for (int code = 0; code < 1 << Bits; ++code) {
      for (const int others : {0, (1 << Bits) - 1}) {
        std::vector<unsigned char> codes(count, static_cast<unsigned char>(others));
        codes[static_cast<std::size_t>(place)] = static_cast<unsigned char>(code);
        check(codes);
      }
    }
  }
  for (int n = 0; n < 500; ++n) {
    std::vector<unsigned char> codes(count);
    for (unsigned char& c : codes) c = static_cast<unsigned char>(r.bits() & ((1u << Bits) - 1u));
    check(codes);
  }
  CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("packing is the bit stream of the format page, at every number of bits") {
  check_bits<1>();
  check_bits<2>();
  check_bits<3>();
  check_bits<4>();
  check_bits<5>();
  check_bits<6>();
  check_bits<7>();
  check_bits<8>();
}

TEST_CASE("the even channel is the low nibble") {
  const unsigned char codes[] = {0x1, 0x2, 0xe, 0xf};
  unsigned char row[2];
  kvc::quant::pack<4, 4>(codes, row);
  CHECK(row[0] == 0x21);
  CHECK(row[1] == 0xfe);
}

TEST_CASE("three bits cross the bytes") {
  const unsigned char codes[] = {1, 2, 3, 4, 5, 6, 7, 0};  // 001 010 011 100 101 110 111 000, from the low end
  unsigned char row[3];
  kvc::quant::pack<3, 8>(codes, row);
  CHECK(row[0] == 0xd1);
  CHECK(row[1] == 0x58);
  CHECK(row[2] == 0x1f);
}
