#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
# Builds and runs every test that needs a GPU, with nvcc and nothing else, and writes what happened as JSON.
set -euo pipefail

usage() {
  cat <<'TXT'
use: bash tests/device.sh [options]

  --out FOLDER       where device.json and the logs go (default: build/device)
  --sanitize         run every program under compute-sanitizer as well: memcheck, racecheck, initcheck, synccheck
  --tools A,B        those tools alone
  --filter REGEX     only programs whose name matches, such as '^append'
  --arch ARCH        what to compile for (default: the GPU of this machine, else sm_90a)
  --doctest FOLDER   where doctest/doctest.h is, if not on the compiler's path
  --jobs N           compile N at a time (default: all cores)
  --timeout S        seconds that one run of one program may take (default: 600)
  --build-only       compile, and run nothing
  --run-only         run what an earlier call compiled
  --help             this text

Exit code: 0 if everything was built, passed and was clean, 1 if not, 2 for a wrong option.
TXT
}

wrong_use() { printf 'device.sh: %s\n\n' "$*" >&2; usage >&2; exit 2; }

out=build/device tools='' filter='' arch='' doctest='' jobs=$(nproc) limit=600 run=yes build=yes
while [ $# -gt 0 ]; do
  case $1 in
    --out) [ -n "${2:-}" ] || wrong_use "--out wants a folder"; out=$2; shift ;;
    --sanitize) tools=memcheck,racecheck,initcheck,synccheck ;;
    --tools) [ -n "${2:-}" ] || wrong_use "--tools wants a list"; tools=$2; shift ;;
    --filter) [ -n "${2:-}" ] || wrong_use "--filter wants a regular expression"; filter=$2; shift ;;
    --arch) [ -n "${2:-}" ] || wrong_use "--arch wants one such as sm_90"; arch=$2; shift ;;
    --doctest) [ -n "${2:-}" ] || wrong_use "--doctest wants a folder"; doctest=$2; shift ;;
    --jobs) [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || wrong_use "--jobs wants a number"; jobs=$2; shift ;;
    --timeout) [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || wrong_use "--timeout wants a number"; limit=$2; shift ;;
    --build-only) run=no ;;
    --run-only) build=no ;;
    --help|-h) usage; exit 0 ;;
    *) wrong_use "there is no option '$1'" ;;
  esac
  shift
done

cd "$(dirname "${BASH_SOURCE[0]}")/.."
command -v nvcc >/dev/null 2>&1 || PATH=$PATH:/usr/local/cuda/bin
command -v nvcc >/dev/null 2>&1 || { echo "device.sh: there is no nvcc on PATH" >&2; exit 1; }
if [ -z "$arch" ]; then
  arch=sm_90a  # native would leave out what only 90a has
  case $(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1) in
    9.0|'') ;;
    *) arch=native ;;
  esac
fi
mkdir -p "$out"
out=$(cd "$out" && pwd)
logs=$out/logs
mkdir -p "$logs"
[ $build = no ] || rm -f "$logs"/*

# ---- Build: tests/device/*.cu, and the other .cu tests of the suite ------------------------------------------------

includes=(-Iinclude -Itests/support)
[ -z "$doctest" ] || includes+=("-I$doctest")
if ! echo '#include <doctest/doctest.h>' | c++ -x c++ -E "${includes[@]}" - >/dev/null 2>&1; then
  echo "device.sh: doctest/doctest.h is not to be found (Debian: doctest-dev); say where with --doctest" >&2
  exit 1
fi
programs=()
sources=()
for source in tests/device/*.cu tests/cache/*.cu; do
  name=$(basename "$source" .cu)
  if [ -n "$filter" ] && ! [[ $name =~ $filter ]]; then continue; fi
  programs+=("$name")
  sources+=("$source")
done
[ ${#programs[@]} -gt 0 ] || [[ two_libraries =~ $filter ]] || { echo "device.sh: no program matches '$filter'" >&2; exit 1; }

if [ $build = yes ]; then
  echo "== build ${#programs[@]} programs for $arch ($jobs at a time)"
  c++ -std=c++20 -O0 "${includes[@]}" -DKVC_TEST_SOURCE_DIR="\"$PWD/tests\"" -c tests/support/main.cpp -o "$out/main.o"
  compile() {
    local source=$1 name
    name=$(basename "$source" .cu)
    if nvcc -std=c++20 -O2 -arch="$arch" -lineinfo "${@:2}" "$source" "$out/main.o" -o "$out/$name" -lpthread \
        >"$logs/$name.build" 2>&1; then
      echo "built  $name"
    else
      rm -f "$out/$name"
      echo "FAILED $name (does not compile):"
      head -n 20 "$logs/$name.build"
    fi
  }
  export -f compile
  export arch out logs
  for source in "${sources[@]}"; do rm -f "$out/$(basename "$source" .cu)"; done
  # Racecheck follows barriers whose numbers it reads in the instructions.
  [[ $tools != *racecheck* ]] || includes+=(-DKVC_LITERAL_BARRIERS)
  [ ${#sources[@]} -eq 0 ] || printf '%s\0' "${sources[@]}" | xargs -0 -P "$jobs" -I{} bash -c 'compile "$@"' compile {} "${includes[@]}"

fi

# Two libraries in one process: for other GPUs, and of another version, whose inline namespace is another.
libraries=no
if [ -z "$filter" ] || [[ two_libraries =~ $filter ]]; then
  libraries=yes
fi
if [ $libraries = yes ] && [ $build = yes ]; then
  rm -rf "$out/other_version"
  cp -r include "$out/other_version"
  grep -rl v0_1 "$out/other_version" | xargs sed -i 's/v0_1/v99_9/g'
  {
    nvcc -std=c++20 -O2 -arch="$arch" -shared -Xcompiler=-fPIC -Iinclude tests/link/libraries/library.cu \
      -o "$out/library_one.so" &&
    nvcc -std=c++20 -O2 -arch=sm_80 -shared -Xcompiler=-fPIC "-I$out/other_version" tests/link/libraries/library.cu \
      -o "$out/library_two.so" &&
    c++ -std=c++20 -O1 -Iinclude tests/link/libraries/program.cpp -o "$out/libraries_program" -ldl -lpthread
  } >"$logs/two_libraries.build" 2>&1 && echo "built  two_libraries" || {
    rm -f "$out/libraries_program"
    head -n 20 "$logs/two_libraries.build"
  }
fi

# ---- Run -------------------------------------------------------------------------------------------------------------

failed=0
rows=()
now() { date +%s.%N; }
one_run() {  # one_run LOG COMMAND... ; sets answer, seconds
  local log=$1 begin
  shift
  begin=$(now)
  if timeout "$limit" "$@" >"$log" 2>&1; then answer=passed; else answer="failed ($?)"; fi
  seconds=$(awk -v a="$begin" -v b="$(now)" 'BEGIN { printf "%.1f", b - a }')
}
# The tools are slow and the device is not: all runs under them go side by side, the longest first. Programs read
# KVC_SANITIZED and leave out what is wrong on purpose.
sanitize() {
  local tool=$1 name=$2 begin answer=passed
  begin=$(date +%s.%N)
  KVC_SANITIZED=1 timeout "$limit" compute-sanitizer --tool "$tool" --error-exitcode 86 "$out/$name" >"$logs/$name.$tool" 2>&1 ||
    answer="failed ($?)"
  awk -v a="$begin" -v b="$(date +%s.%N)" -v r="$answer" 'BEGIN { printf "%.1f %s\n", b - a, r }' >"$logs/$name.$tool.result"
}
export -f sanitize
export limit out logs
if [ -n "$tools" ] && [ $run = yes ]; then
  echo "== ${tools} of ${#programs[@]} programs ($jobs at a time)"
  for tool in ${tools//,/ }; do
    for name in "${programs[@]}"; do
      [ ! -x "$out/$name" ] || echo "$([[ $tool$name =~ racecheckattend ]] && echo 0 || [[ $name =~ attend ]] && echo 1 || echo 2) $tool $name"
    done
  done | sort -s -k1,1 | cut -d' ' -f2- | xargs -P "$jobs" -L1 bash -c 'sanitize "$@"' sanitize
fi

for name in "${programs[@]}"; do
  if [ ! -x "$out/$name" ]; then
    failed=1
    rows+=("{\"test\": \"$name\", \"result\": \"not built\"}")
    continue
  fi
  [ $run = yes ] || continue
  one_run "$logs/$name.log" "$out/$name"
  [ "$answer" = passed ] || { failed=1; tail -n 40 "$logs/$name.log"; }
  assertions=$(sed -n 's/.*assertions: *\([0-9]*\) .*/\1/p' "$logs/$name.log" | tail -n 1)
  row="{\"test\": \"$name\", \"result\": \"$answer\", \"assertions\": ${assertions:-0}, \"seconds\": $seconds"
  echo "$answer $name ($seconds s, ${assertions:-0} assertions)"
  for tool in ${tools//,/ }; do
    read -r seconds answer <"$logs/$name.$tool.result"
    # No errors must have been counted, by a run that ended.
    found=$(sed -n 's/.*ERROR SUMMARY: *\([0-9]*\) error.*/\1/p; s/.*RACECHECK SUMMARY: *\([0-9]*\) hazard.*/\1/p' \
      "$logs/$name.$tool" | tail -n 1)
    if [ "$answer" = passed ] && [ "$found" = 0 ]; then answer=clean; else
      failed=1
      grep -m 20 '=========' "$logs/$name.$tool" || true
    fi
    row+=", \"$tool\": \"$answer\", \"${tool}_seconds\": $seconds"
    echo "  $tool: $answer ($seconds s)"
  done
  rows+=("$row}")
done

if [ $libraries = yes ] && [ ! -x "$out/libraries_program" ]; then
  failed=1
  rows+=("{\"test\": \"two_libraries\", \"result\": \"not built\"}")
elif [ $libraries = yes ] && [ $run = yes ]; then
  one_run "$logs/two_libraries.log" "$out/libraries_program" "$out/library_one.so" "$out/library_two.so"
  [ "$answer" = passed ] || { failed=1; cat "$logs/two_libraries.log"; }
  rows+=("{\"test\": \"two_libraries\", \"result\": \"$answer\", \"seconds\": $seconds}")
  echo "$answer two_libraries ($seconds s)"
fi

# ---- Summary ---------------------------------------------------------------------------------------------------------

commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
device=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1 || true)
driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1 || true)
{
  echo '{'
  echo "  \"device\": \"${device:-none}\", \"driver\": \"${driver:-none}\", \"date\": \"$(date -u +%F)\","
  echo "  \"commit\": \"$commit\", \"nvcc\": \"$(nvcc --version | sed -n 's/.*release \([0-9.]*\).*/\1/p')\"," \
    "\"arch\": \"$arch\","
  echo '  "tests": ['
  for i in "${!rows[@]}"; do
    comma=,
    [ "$i" -lt $((${#rows[@]} - 1)) ] || comma=
    echo "    ${rows[$i]}$comma"
  done
  echo '  ]'
  echo '}'
} >"$out/device.json"
echo "== $out/device.json"
[ $failed = 0 ]
