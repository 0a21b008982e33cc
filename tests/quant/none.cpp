// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "codec_checks.hpp"

namespace {

template <class T>
std::vector<float> round_trip(std::vector<float> x) {
  x.resize(8);
  std::vector<kvc::byte> codes(kvc::quant::none<T>::template row_bytes<8>);
  kvc::quant::none<T>::template encode<8>(x.data(), 0, 1, codes.data(), nullptr);
  kvc::quant::none<T>::template decode<8>(codes.data(), nullptr, 0, 1, x.data());
  return x;
}

}  // namespace

TEST_CASE("float, bf16 and fp16 rows against the independent decoder") {
  codec_checks::check_all(policy_lists::plain{});
}

TEST_CASE("bytes of a row, written by hand") {
  const std::vector<float> x{1.0f, -2.0f, 0.5f, 1.0f / 3.0f, 0.0f, -0.0f, 65504.0f, 1e-7f};
  std::vector<kvc::byte> c(32);
  kvc::quant::none<kvc::bf16>::encode<8>(x.data(), 0, 1, c.data(), nullptr);
  CHECK(std::vector<kvc::byte>(c.begin(), c.begin() + 16) ==
        std::vector<kvc::byte>{0x80, 0x3f, 0x00, 0xc0, 0x00, 0x3f, 0xab, 0x3e,  //
                               0x00, 0x00, 0x00, 0x80, 0x80, 0x47, 0xd7, 0x33});
  kvc::quant::none<kvc::fp16>::encode<8>(x.data(), 0, 1, c.data(), nullptr);
  CHECK(std::vector<kvc::byte>(c.begin(), c.begin() + 16) ==
        std::vector<kvc::byte>{0x00, 0x3c, 0x00, 0xc0, 0x00, 0x38, 0x55, 0x35,  //
                               0x00, 0x00, 0x00, 0x80, 0xff, 0x7b, 0x02, 0x00});
  kvc::quant::none<float>::encode<8>(x.data(), 0, 1, c.data(), nullptr);
  CHECK(std::vector<kvc::byte>(c.begin(), c.begin() + 8) ==
        std::vector<kvc::byte>{0x00, 0x00, 0x80, 0x3f, 0x00, 0x00, 0x00, 0xc0});
}

TEST_CASE("infinities and NaN are kept, beside finite neighbours") {
  const std::vector<float> x{1.0f, HUGE_VALF, -HUGE_VALF, std::nanf(""), 2.0f};
  for (const std::vector<float>& y : {round_trip<float>(x), round_trip<kvc::bf16>(x), round_trip<kvc::fp16>(x)}) {
    CHECK(y[0] == 1.0f);
    CHECK(y[1] == HUGE_VALF);
    CHECK(y[2] == -HUGE_VALF);
    CHECK(y[3] != y[3]);
    CHECK(y[4] == 2.0f);
  }
}

TEST_CASE("beyond the range, fp16 saturates and bf16 rounds to infinity, as their comments say") {
  CHECK(round_trip<kvc::fp16>({1e6f, -3e38f, 65519.0f, 65521.0f})[0] == 65504.0f);
  CHECK(round_trip<kvc::fp16>({1e6f, -3e38f, 65519.0f, 65521.0f})[1] == -65504.0f);
  CHECK(round_trip<kvc::fp16>({1e6f, -3e38f, 65519.0f, 65521.0f})[2] == 65504.0f);
  CHECK(round_trip<kvc::fp16>({1e6f, -3e38f, 65519.0f, 65521.0f})[3] == 65504.0f);
  CHECK(round_trip<kvc::bf16>({3.39e38f, 3.4e38f})[0] == doctest::Approx(3.39e38).epsilon(0.004));
  CHECK(round_trip<kvc::bf16>({3.39e38f, 3.4e38f})[1] == HUGE_VALF);
}
