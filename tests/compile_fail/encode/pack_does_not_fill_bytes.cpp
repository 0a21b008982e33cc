// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: kvc: the number of channels does not fill whole bytes at this many bits
#include <kvc/quant/pack.hpp>

#ifdef KVC_SHOULD_FAIL
inline constexpr int count = 20;
#else
inline constexpr int count = 24;
#endif

void call(const kvc::uint8* codes, kvc::byte* packed) {
  kvc::quant::pack<5, count>(codes, packed);
}
