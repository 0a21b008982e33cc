#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
# Builds and runs the GPU's benchmarks with nvcc and nothing else, and writes bench/results/cuda-<device>.json.
set -euo pipefail

usage() {
  cat <<'TXT'
use: bash bench/cuda.sh [options]

  --out FILE      where the summary goes (default: bench/results/cuda-<device>.json)
  --work FOLDER   where programs and their lines go (default: build/bench)
  --arch ARCH     what to compile for (default: the GPU of this machine)
  --filter TEXT   only what has TEXT in its id; the summary then goes to the work folder
  --few           compile few compositions of each program
  --build-only    compile, and run nothing
  --run-only      run what an earlier call compiled
  --help          this text

PyTorch's cuDNN attention is timed in the same run where python3 has PyTorch.
TXT
}

wrong_use() { printf 'cuda.sh: %s\n\n' "$*" >&2; usage >&2; exit 2; }

out='' work=build/bench arch='' filter='' few=() run=yes build=yes
while [ $# -gt 0 ]; do
  case $1 in
    --out) [ -n "${2:-}" ] || wrong_use "--out wants a file"; out=$2; shift ;;
    --work) [ -n "${2:-}" ] || wrong_use "--work wants a folder"; work=$2; shift ;;
    --arch) [ -n "${2:-}" ] || wrong_use "--arch wants one such as sm_90"; arch=$2; shift ;;
    --filter) [ -n "${2:-}" ] || wrong_use "--filter wants a text"; filter=$2; shift ;;
    --few) few=(-DKVC_BENCH_FEW) ;;
    --build-only) run=no ;;
    --run-only) build=no ;;
    --help|-h) usage; exit 0 ;;
    *) wrong_use "there is no option '$1'" ;;
  esac
  shift
done

cd "$(dirname "${BASH_SOURCE[0]}")/.."
command -v nvcc >/dev/null 2>&1 || PATH=$PATH:/usr/local/cuda/bin
command -v nvcc >/dev/null 2>&1 || { echo "cuda.sh: there is no nvcc on PATH" >&2; exit 1; }
if [ -z "$arch" ]; then
  arch=native  # which would leave out what only 90a has
  [ "$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1)" != 9.0 ] || arch=sm_90a
fi
mkdir -p "$work"
rm -f "$work"/*.jsonl

if [ $build = yes ]; then
  echo "== build for $arch"
  built=()
  for program in attend append pages; do
    nvcc -std=c++20 -O3 -arch="$arch" -Iinclude "${few[@]}" bench/$program.cu -o "$work/$program" &
    built+=($!)
  done
  for job in "${built[@]}"; do wait "$job"; done
fi
[ $run = yes ] || exit 0

device=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1)
filters=()
[ -z "$filter" ] || filters=(--filter "$filter")
lines=()
for program in attend append pages; do
  echo "== $program"
  "$work/$program" "${filters[@]}" --out "$work/$program.jsonl"
  lines+=("$work/$program.jsonl")
done
if python3 -c 'import torch' >/dev/null 2>&1; then
  echo "== peers"
  python3 bench/peers.py --out "$work/peers.jsonl"
  lines+=("$work/peers.jsonl")
else
  echo "== no PyTorch: the summary has no peer for attention"
fi

name=$(printf '%s' "$device" | sed 's/^NVIDIA //' | tr '[:upper:] ' '[:lower:]-' | tr -cd 'a-z0-9-')
[ -n "$out" ] || { if [ -n "$filter" ]; then out=$work/summary.json; else out=bench/results/cuda-$name.json; fi; }
commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
hopper=()
case $name in
  h100*|h200*|gh200*) [ -n "$filter" ] || hopper=(--hopper "$(dirname "$out")/hopper-$name.json") ;;
esac
python3 bench/summary.py --device "$device" --commit "$commit" --date "$(date -u +%F)" --out "$out" "${hopper[@]}" \
  "${lines[@]}"
echo "== $out ${hopper[*]:1}"
