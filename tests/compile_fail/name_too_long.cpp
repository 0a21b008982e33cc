// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: kvc: compose: the composition's name is too long to tell it from others in cache files
#include <kvc/cache/compose.hpp>

#ifdef KVC_SHOULD_FAIL
inline constexpr int length = 600;
#else
inline constexpr int length = 300;
#endif

constexpr kvc::text long_name() {
  kvc::text t;
  for (int i = 0; i < length; ++i) t.push('x');
  return t;
}
struct mine {
  using axis = kvc::tokens_axis;
  static constexpr auto name = long_name();
  static constexpr int sinks = 0, window = 0;
};
using cache = kvc::compose<kvc::shape<2, 8, 8, 64>, mine>;
constexpr auto bytes = cache::bytes_per_token;
