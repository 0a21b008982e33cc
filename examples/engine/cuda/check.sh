#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# The engine on a GPU, checked on a machine that has one: builds it, compares its tokens with the host's, times it, and
# lets the report read through all caches there, and on the host beside it.
set -euo pipefail

usage() {
  cat <<'TXT'
use: bash examples/engine/cuda/check.sh --model FILE --text FILE [options]

  --model FILE      a Llama-architecture model in GGUF with heads of 64 channels
  --text FILE       the text to read
  --sample-text FILE  what calibrated caches are fitted to (default: what kvc_report finds)
  --out DIR         where check.txt, trained.txt, report.json, host/report.json and compare.txt go (default: build/device/engine)
  --eigen DIR       where Eigen/Core is, if CMake does not find Eigen
  --json DIR        where nlohmann/json.hpp is, if CMake does not find it; without it there is no report
  --arch ARCH       what to compile for (default: the GPU of this machine, else 90)
  --jobs N          compile N at a time (default: all cores)
  --tokens N        greedy tokens to compare (default 256)
  --window N        tokens of the report's window (default 2048)
  --no-host         no report on the host, and no comparison with it
  --build-only      compile, and run nothing
  --only WHAT       run 'check' or 'report' alone
  --help            this text

Exit code: 0 if the tokens and the reports agree, 1 if not or something failed, 2 for a wrong option.
TXT
}

say() { printf '== %s\n' "$*" >&2; }
wrong_use() { printf 'check.sh: %s\n' "$*" >&2; exit 2; }
fail() { printf 'check.sh: %s\n' "$*" >&2; exit 1; }

model='' text='' sample='' out=build/device/engine eigen='' json='' arch='' jobs=$(nproc) tokens=256 window=2048
host=yes run=yes only=''
while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) usage; exit 0 ;;
    --no-host) host=no ;;
    --build-only) run=no ;;
    --model | --text | --sample-text | --out | --eigen | --json | --arch | --jobs | --tokens | --window | --only)
      [ -n "${2:-}" ] || wrong_use "$1 needs a value"
      case $1 in
        --model) model=$(realpath -m -- "$2") ;;
        --text) text=$(realpath -m -- "$2") ;;
        --sample-text) sample=$(realpath -m -- "$2") ;;
        --out) out=$2 ;;
        --eigen) eigen=$(realpath -m -- "$2") ;;
        --json) json=$(realpath -m -- "$2") ;;
        --arch) arch=$2 ;;
        --jobs) jobs=$2 ;;
        --tokens) tokens=$2 ;;
        --window) window=$2 ;;
        --only) only=$2 ;;
      esac
      shift ;;
    *) wrong_use "there is no option '$1' (--help shows those there are)" ;;
  esac
  shift
done
case $only in '' | check | report) ;; *) wrong_use "--only takes check or report, not '$only'" ;; esac
if [ $run = yes ]; then
  [ -n "$model" ] || wrong_use "--model is missing"
  [ -n "$text" ] || wrong_use "--text is missing"
  [ -f "$model" ] || fail "there is no file '$model'"
  [ -f "$text" ] || fail "there is no file '$text'"
fi

cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
command -v nvcc >/dev/null 2>&1 || PATH=$PATH:/usr/local/cuda/bin
command -v nvcc >/dev/null 2>&1 || fail "there is no nvcc on PATH"
build=build/engine-device
mkdir -p "$out" $build
out=$(cd "$out" && pwd)

# ---- Build ------------------------------------------------------------------------------------------------------------

# Headers in a folder, as a package that CMake finds.
package() {  # package NAME TARGET FOLDER
  local folder=$PWD/$build/packages/$1
  mkdir -p "$folder"
  printf 'add_library(%s INTERFACE IMPORTED)\ntarget_include_directories(%s INTERFACE "%s")\n' "$2" "$2" "$3" \
    >"$folder/$1Config.cmake"
  printf 'set(PACKAGE_VERSION 9)\nset(PACKAGE_VERSION_COMPATIBLE TRUE)\n' >"$folder/$1ConfigVersion.cmake"
  options+=("-D$1_DIR=$folder")
}
options=()
[ -z "$eigen" ] || package Eigen3 Eigen3::Eigen "$eigen"
[ -z "$json" ] || package nlohmann_json nlohmann_json::nlohmann_json "$json"
[ -z "$arch" ] || options+=("-DCMAKE_CUDA_ARCHITECTURES=$arch")
[ -f $build/CMakeCache.txt ] || options+=(-G Ninja)

say "build ($build, $jobs at a time)"
cmake -S . -B $build -DCMAKE_BUILD_TYPE=Release -DKVC_BUILD_TESTS=OFF -DKVC_BUILD_BENCH=OFF -DKVC_ENABLE_CUDA=ON \
  -DKVC_ENGINE_HEAD_DIMS=64 "${options[@]}" >"$out/configure.log" 2>&1 || { cat "$out/configure.log" >&2; fail "cmake failed"; }
if grep -q 'the engine is off\|the engine is on the host alone' "$out/configure.log"; then
  fail "$(grep 'the engine is' "$out/configure.log") (Eigen and cuBLAS are needed; --eigen says where Eigen/Core is)"
fi
targets=(kvc_engine_device_check kvc_engine_trained_check)
report=yes
if grep -q 'the report is off' "$out/configure.log"; then
  say "no report: nlohmann/json.hpp was not found (--json says where)"
  report=no
else
  targets+=(kvc_report)
fi
cmake --build $build --parallel "$jobs" --target "${targets[@]}" >"$out/build.log" 2>&1 ||
  { tail -n 60 "$out/build.log" >&2; fail "the build failed"; }
[ $run = yes ] || exit 0

# ---- Tokens and speed -------------------------------------------------------------------------------------------------

status=0
if [ "$only" != report ]; then
  say "tokens and speed"
  $build/examples/engine/kvc_engine_device_check "$model" "$text" "$tokens" | tee "$out/check.txt" || status=1
  if [ $report = yes ]; then  # they need the same JSON parser
    say "trained models"
    $build/examples/engine/kvc_engine_trained_check "$text" examples/models/*.safetensors | tee "$out/trained.txt" || status=1
  fi
fi

# ---- The report -------------------------------------------------------------------------------------------------------

if [ "$only" = check ] || [ $report = no ]; then
  exit $status
fi
arguments=(--model "$model" --text "$text" --window "$window" --windows 1)
[ -z "$sample" ] || arguments+=(--sample-text "$sample")
say "report on the GPU"
$build/examples/report/kvc_report "${arguments[@]}" --device cuda --out "$out" || fail "there is no report"
if [ $host = yes ]; then
  say "report on the host"
  $build/examples/report/kvc_report "${arguments[@]}" --out "$out/host" || fail "there is no report of the host"
  say "comparison"
  python3 examples/engine/cuda/compare_reports.py "$out/host/report.json" "$out/report.json" | tee "$out/compare.txt" ||
    status=1
fi
exit $status
