// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The library's version: the build system and the packages read it from here. It is checked with the preprocessor:
//   #if KVC_VERSION >= 100    // 0.1.0 or later
#define KVC_VERSION_MAJOR 0
#define KVC_VERSION_MINOR 1
#define KVC_VERSION_PATCH 0

/// major * 10000 + minor * 100 + patch
#define KVC_VERSION (KVC_VERSION_MAJOR * 10000 + KVC_VERSION_MINOR * 100 + KVC_VERSION_PATCH)
