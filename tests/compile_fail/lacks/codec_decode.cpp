// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: kvc: a codec must define 'template <int Width> KVC_HD static void decode\(const kvc::byte\* codes,
#include <kvc/cache/compose.hpp>

struct mine {
  using axis = kvc::quant_axis;
  static constexpr auto name = kvc::text("mine");
  static constexpr int tokens_per_group = 1;
  template <int Width>
  static constexpr int row_bytes = Width;
  template <int Width>
  static constexpr int group_bytes = 2;
  template <int Width>
  KVC_HD static void encode(const float* x, int begin, int end, kvc::byte* codes, kvc::byte* constants);
#ifndef KVC_SHOULD_FAIL
  template <int Width>
  KVC_HD static void decode(const kvc::byte* codes, const kvc::byte* constants, int begin, int end, float* x);
#endif
  template <int Width>
  static void bound(const float* x, int begin, int end, float* out);
};

using cache = kvc::compose<kvc::shape<4, 8, 4, 64>, mine>;
constexpr auto bytes = cache::bytes_per_token;
