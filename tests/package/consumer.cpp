// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// A user's program: it prints the version, which the caller compares with the project's.
#if __has_include(<kvc/kvc.hpp>)
#include <kvc/kvc.hpp>
#endif
#include <cstdio>
#include <kvc/version.hpp>

#if __has_include(<kvc/kvc.hpp>)
static_assert(kvc::clla_cache<kvc::shape<32, 16, 16, 128>>::bytes_per_token == 4928);
#endif

int main() {
  std::printf("kvc %d.%d.%d\n", KVC_VERSION_MAJOR, KVC_VERSION_MINOR, KVC_VERSION_PATCH);
}
