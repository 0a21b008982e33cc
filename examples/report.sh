#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# The cache report from a bare clone: installs what is missing, builds, fetches a model and a text, measures.
set -euo pipefail

usage() {
  cat <<'TXT'
use: bash examples/report.sh [options of kvc_report]

Reads real text with a real model through each of kvc's caches, and writes report.json and report.html.

  --model FILE        a Llama-architecture model in GGUF (default: SmolLM2-135M-Instruct, fetched)
  --text FILE         the text to read (default: the Jargon File, fetched)
  --skip-tokens N     tokens before the first window (default 4000)
  --window N          tokens of a window (default 2048)
  --windows N         how many windows (default 1)
  --caches a,b,c      which caches (--list shows them, and which are left out by default)
  --sample-text FILE  what calibrated caches are fitted to
  --siblings DIR      trained models that differ in their cache, shown first (default: those of examples/models)
  --no-siblings       leave them out
  --no-passkey        leave out the search for a number in 1,000 tokens
  --out DIR           where the report goes (default: build/report)
  --threads N         how many threads compute (default: one per CPU core)
  --list              the caches by name
  --help              this text

What is fetched goes to ${XDG_CACHE_HOME:-$HOME/.cache}/kvc.
Exit code: 0 if there is a report, 1 if not, 2 for a wrong option.
TXT
}

say() { printf '== %s\n' "$*" >&2; }
fail() {
  printf 'report.sh: %s\n' "$*" >&2
  exit 1
}

model='' text='' out='' list=no siblings=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/models passed=()
while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) usage; exit 0 ;;
    --list) list=yes; passed+=(--list) ;;
    --no-passkey) passed+=("$1") ;;
    --no-siblings) siblings='' ;;
    --model | --siblings | --text | --out | --skip-tokens | --window | --windows | --caches | --sample-text | --threads)
      if [ -z "${2:-}" ]; then
        printf 'report.sh: %s needs a value\n' "$1" >&2
        exit 2
      fi
      case $1 in
        --model) model=$(realpath -m -- "$2") ;;
        --siblings) siblings=$(realpath -m -- "$2") ;;
        --text) text=$(realpath -m -- "$2") ;;
        --out) out=$(realpath -m -- "$2") ;;
        --sample-text) passed+=("$1" "$(realpath -m -- "$2")") ;;
        *) passed+=("$1" "$2") ;;
      esac
      shift ;;
    *)
      printf "report.sh: there is no option '%s' (--help shows those there are)\n" "$1" >&2
      exit 2 ;;
  esac
  shift
done

cd "$(dirname "${BASH_SOURCE[0]}")/.."
build=build/report
out=${out:-$PWD/$build}

# ---- What is needed, and what of it is missing ------------------------------------------------------------------------

missing=()
need_command() { command -v "$1" >/dev/null 2>&1 || missing+=("$2"); }
need_header() { printf '#include <%s>\n' "$1" | "${CXX:-c++}" -x c++ "${@:3}" -E - >/dev/null 2>&1 || missing+=("$2"); }

if [ -n "${CXX:-}" ]; then
  command -v "${CXX%% *}" >/dev/null 2>&1 || fail "CXX is '$CXX', which is not to be found"
else
  need_command g++ g++
fi
need_command cmake cmake
need_command ninja ninja-build
need_header Eigen/Core libeigen3-dev -I/usr/include/eigen3 -I/usr/local/include/eigen3
need_header nlohmann/json.hpp nlohmann-json3-dev
if [ $list = no ] && [ -z "$model" ]; then
  need_command python3 python3
  python3 -m pip --version >/dev/null 2>&1 || missing+=(python3-pip)
fi

as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo)
# Package lists may be absent or old: they are fetched once.
update_lists() { [ -n "${updated:-}" ] || { "${as_root[@]}" apt-get update -qq >&2 && updated=yes; }; }

if [ ${#missing[@]} -gt 0 ]; then
  say "to be installed: ${missing[*]}"
  command -v apt-get >/dev/null 2>&1 ||
    fail "this system has no apt-get; install these by its own means and start again: ${missing[*]}"
  [ "$(id -u)" -eq 0 ] || command -v sudo >/dev/null 2>&1 ||
    fail "neither root nor sudo; ask somebody to run: apt-get install ${missing[*]}"
  { update_lists && "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2; } || fail "could not install: ${missing[*]}"
fi

# ---- How to build -------------------------------------------------------------------------------------------------------

cmake_version=$(cmake --version | sed -n '1s/[^0-9]*\([0-9.]*\).*/\1/p')
[ "$(printf '%s\n' 3.25 "$cmake_version" | sort -V | head -n 1)" = 3.25 ] ||
  fail "CMake $cmake_version is too old: 3.25 is needed (Debian 12, Ubuntu 24.04, or pip install cmake)"

jobs=$(nproc)
# A compiler takes up to about 1.5 GB here.
memory_kb=$(sed -n 's/^MemAvailable: *\([0-9]*\).*/\1/p' /proc/meminfo 2>/dev/null || true)
if [ -n "$memory_kb" ]; then
  fit=$((memory_kb / 1500000))
  [ "$fit" -ge 1 ] || fit=1
  [ "$jobs" -le "$fit" ] || jobs=$fit
fi

mkdir -p $build || fail "cannot make the directory '$build'"

# Caches are compiled for the head dimensions in $1 alone: those of all models take four times as long.
configure() {
  local generator=()
  [ -f $build/CMakeCache.txt ] || generator=(-G Ninja)
  cmake -S . -B $build "${generator[@]}" -DCMAKE_BUILD_TYPE=Release -DKVC_BUILD_TESTS=OFF -DKVC_BUILD_BENCH=OFF \
    -DKVC_ENABLE_CUDA=OFF -DKVC_ENGINE_HEAD_DIMS="$1" >$build/configure.log 2>&1 ||
    { cat $build/configure.log >&2; fail "cmake failed"; }
}
build() { cmake --build $build --parallel "$jobs" --target "$1" >&2 || fail "the build failed"; }
program=$build/examples/report/kvc_report

if [ $list = yes ]; then
  say "build ($build, $jobs at a time)"
  configure 64
  build kvc_report
  exec $program --list
fi

# ---- Fetch --------------------------------------------------------------------------------------------------------------

fetched=no
if [ -z "$model" ]; then
  say "model"
  model=$(bash examples/engine/fetch_model.sh) || fail "no model: pass one with --model FILE"
  fetched=yes
fi
if [ -z "$text" ]; then
  say "text"
  text=$(bash examples/engine/fetch_text.sh) || {
    say "once more, with fresh package lists"
    text=$( (update_lists || true) && bash examples/engine/fetch_text.sh)
  } || fail "no text: pass one with --text FILE"
fi

# ---- Build ------------------------------------------------------------------------------------------------------------

say "build ($build, $jobs at a time)"
head_dim=64  # of the model that is fetched
if [ $fetched = no ]; then
  configure 64
  build kvc_head_dim
  head_dim=$($build/examples/engine/kvc_head_dim "$model") || fail "'$model' is no model that the engine can read"
  case $head_dim in
    64 | 80 | 96 | 128 | 256) ;;
    *) fail "no cache is built for heads of $head_dim channels (64, 80, 96, 128, 256)" ;;
  esac
fi
configure "$head_dim"
build kvc_report

say "report"
[ -z "$siblings" ] || passed+=(--siblings "$siblings")
$program --model "$model" --text "$text" --out "$out" "${passed[@]}"
