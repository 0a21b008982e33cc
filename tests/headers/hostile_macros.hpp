// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Names that platform headers, other libraries and users' code define as macros. The standard library comes first,
// because it does not expect them either; then any of our headers that uses one of the names does not compile.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cassert>
#include <cfloat>
#include <charconv>
#include <chrono>
#include <climits>
#include <cmath>
#include <compare>
#include <complex>
#include <concepts>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <initializer_list>
#include <iterator>
#include <limits>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <numbers>
#include <numeric>
#include <optional>
#include <random>
#include <set>
#include <source_location>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <tuple>
#include <type_traits>
#include <typeinfo>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <variant>
#include <vector>

#if __has_include(<immintrin.h>) && (defined(__x86_64__) || defined(__i386__))
#include <immintrin.h>
#endif
#if __has_include(<arm_neon.h>) && defined(__ARM_NEON)
#include <arm_neon.h>
#endif
#if __has_include(<Eigen/Dense>) && !defined(__CUDACC__)
#include <Eigen/Dense>
#endif
#if defined(__CUDACC__)
#include <cooperative_groups.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_pipeline.h>
#include <cuda_runtime.h>
#include <mma.h>
#endif

// Windows headers
#undef min
#undef max
#define min(a, b) hostile macro min
#define max(a, b) hostile macro max
#define small hostile macro small
#define near hostile macro near
#define far hostile macro far
#define interface hostile macro interface
// <complex.h>, <termios.h>, <sys/param.h> and Arduino-like headers
#undef I
#define I hostile macro I
#undef B0
#define B0 hostile macro B0
#define F hostile macro F
// test frameworks, loggers and tensor libraries
#undef CHECK
#undef REQUIRE
#undef ASSERT
#undef VERIFY
#undef LOG
#undef TEST
#define CHECK(...) hostile macro CHECK
#define REQUIRE(...) hostile macro REQUIRE
#define ASSERT(...) hostile macro ASSERT
#define VERIFY(...) hostile macro VERIFY
#define LOG(...) hostile macro LOG
#define TEST(...) hostile macro TEST
// attention code in the wild
#define DIVIDE_ROUND_UP(a, b) hostile macro DIVIDE_ROUND_UP
#define WARP_SIZE hostile macro WARP_SIZE
#define HEAD_DIM hostile macro HEAD_DIM
