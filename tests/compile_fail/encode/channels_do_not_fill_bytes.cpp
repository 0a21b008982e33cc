// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: kvc: quant::integer: the segment's channels do not fill whole bytes at this many bits
#include <kvc/quant/integer.hpp>

#ifdef KVC_SHOULD_FAIL
inline constexpr int width = 20;
#else
inline constexpr int width = 24;
#endif

void call(const float* x, kvc::byte* codes, kvc::byte* constants) {
  kvc::quant::integer<3, 32>::encode<width>(x, 0, 1, codes, constants);
}
