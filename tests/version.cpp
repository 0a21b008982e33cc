// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <kvc/version.hpp>
#include <string>

#if KVC_VERSION < 100
#error "the version can be compared by the preprocessor"
#endif

TEST_CASE("the version is one number made of its three parts") {
  CHECK(KVC_VERSION == KVC_VERSION_MAJOR * 10000 + KVC_VERSION_MINOR * 100 + KVC_VERSION_PATCH);
  CHECK(KVC_VERSION_MINOR < 100);
  CHECK(KVC_VERSION_PATCH < 100);
}

TEST_CASE("the build system reads the version from the header") {
  const std::string from_header = std::to_string(KVC_VERSION_MAJOR) + "." + std::to_string(KVC_VERSION_MINOR) + "." +
                                  std::to_string(KVC_VERSION_PATCH);
  CHECK(from_header == KVC_TEST_PROJECT_VERSION);
}
