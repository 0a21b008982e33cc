#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
# Installs what is missing, builds everything in build/tests and runs all tests through ctest.
set -euo pipefail

usage() {
  cat <<'TXT'
use: bash tests/run.sh [options]

  --no-cuda          leave CUDA out, even where nvcc is
  --require-cuda     fail where nvcc is not (CI)
  --no-sanitizers    leave out the second build of every host test, with ASan and UBSan
  --jobs N           compile and test N at a time (default: all cores, as far as the memory goes)
  --filter REGEX     run only the tests whose name matches (everything is built all the same)
  --help             this text

CUDA tests are compiled wherever nvcc is found on PATH or in CUDACXX, and run where there is a GPU.
Exit code: 0 if everything was built and passed, 1 if not, 2 for a wrong option.
TXT
}

say() { printf '== %s\n' "$*"; }
wrong_use() { printf 'run.sh: %s\n\n' "$*" >&2; usage >&2; exit 2; }

cuda=AUTO sanitized=ON jobs='' filter=''
while [ $# -gt 0 ]; do
  case $1 in
    --no-cuda) cuda=OFF ;;
    --require-cuda) cuda=ON ;;
    --no-sanitizers) sanitized=OFF ;;
    --jobs) [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || wrong_use "--jobs wants a number"; jobs=$2; shift ;;
    --filter) [ -n "${2:-}" ] || wrong_use "--filter wants a regular expression"; filter=$2; shift ;;
    --help|-h) usage; exit 0 ;;
    *) wrong_use "there is no option '$1'" ;;
  esac
  shift
done

cd "$(dirname "${BASH_SOURCE[0]}")/.."

# ---- What is needed, and what of it is missing ------------------------------------------------------------------------

missing=()
need_command() { command -v "$1" >/dev/null 2>&1 || missing+=("$2"); }
need_package() { dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q 'ok installed' || missing+=("$1"); }

if [ -n "${CXX:-}" ]; then
  command -v "${CXX%% *}" >/dev/null 2>&1 || { echo "run.sh: CXX is '$CXX', which is not to be found" >&2; exit 1; }
else
  need_command g++ g++
fi
need_command cmake cmake
need_command ninja ninja-build
need_command python3 python3
need_command pkg-config pkg-config
need_command clang-format clang-format
need_command clang++ clang  # compiles the headers for NEON
if command -v dpkg-query >/dev/null 2>&1; then
  need_package doctest-dev
  need_package libeigen3-dev
  need_package nlohmann-json3-dev
  need_package libbenchmark-dev
else
  echo '#include <doctest/doctest.h>' | "${CXX:-c++}" -x c++ -E - >/dev/null 2>&1 || missing+=(doctest)
fi

if [ ${#missing[@]} -gt 0 ]; then
  say "to be installed: ${missing[*]}"
  if ! command -v apt-get >/dev/null 2>&1; then
    echo "run.sh: this system has no apt-get; install these by its own means and start again: ${missing[*]}" >&2
    exit 1
  fi
  as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
      echo "run.sh: neither root nor sudo; ask somebody to run: apt-get install ${missing[*]}" >&2
      exit 1
    fi
    as_root=(sudo)
  fi
  install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}")
  # Package lists may be absent or old: they are fetched once, then the installation counts.
  if ! { "${as_root[@]}" apt-get update -qq && "${install[@]}"; }; then
    echo "run.sh: could not install: ${missing[*]}" >&2
    exit 1
  fi
fi

cmake_version=$(cmake --version | sed -n '1s/[^0-9]*\([0-9.]*\).*/\1/p')
if [ "$(printf '%s\n' 3.25 "$cmake_version" | sort -V | head -n 1)" != 3.25 ]; then
  echo "run.sh: CMake $cmake_version is too old: 3.25 is needed (Debian 12, Ubuntu 24.04, or pip install cmake)" >&2
  exit 1
fi

if [ -z "$jobs" ]; then
  # A compiler with sanitizers takes up to about 2 GB.
  jobs=$(nproc)
  memory_kb=$(sed -n 's/^MemAvailable: *\([0-9]*\).*/\1/p' /proc/meminfo 2>/dev/null || true)
  if [ -n "$memory_kb" ]; then
    fit=$((memory_kb / 2000000))
    [ "$fit" -ge 1 ] || fit=1
    [ "$jobs" -le "$fit" ] || jobs=$fit
  fi
fi

device=OFF
cuda_options='-O0 -DNDEBUG'  # of the host's half of CUDA programs, which cannot run without a GPU: half of their time
if [ "$cuda" != OFF ] && command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q '^GPU 0'; then
  device=ON
  cuda_options='-O3 -DNDEBUG'
fi

# ---- Configure, build, test -------------------------------------------------------------------------------------------

build=build/tests
generator=()
[ -f $build/CMakeCache.txt ] || generator=(-G Ninja)

say "configure ($build)"
cmake -S . -B $build "${generator[@]}" -DCMAKE_BUILD_TYPE=Release -DKVC_BUILD_TESTS=ON -DKVC_BUILD_EXAMPLES=ON \
  -DKVC_BUILD_BENCH=ON -DKVC_ENABLE_CUDA="$cuda" -DKVC_TEST_SANITIZED="$sanitized" -DKVC_TEST_DEVICE="$device" \
  -DCMAKE_CUDA_FLAGS_RELEASE="$cuda_options"

say "build ($jobs at a time)"
keep_going=()
if grep -q '^CMAKE_GENERATOR:INTERNAL=Ninja$' $build/CMakeCache.txt; then keep_going=(-- -k 0); fi
built=yes
cmake --build $build --parallel "$jobs" "${keep_going[@]}" || built=no

say "test"
selection=()
[ -z "$filter" ] || selection=(-R "$filter")
# What does not build is not the end: ctest reports the tests that it belongs to as not run.
if [ $built = no ]; then
  say "the build FAILED in part (see above); the rest is tested, and this run fails"
  export KVC_BUILD_FAILED=1  # the test build.complete fails
fi
passed=yes
ctest --test-dir $build --output-on-failure --no-tests=error --parallel "$jobs" "${selection[@]}" 2>&1 || passed=no
[ $built = yes ] && [ $passed = yes ]
