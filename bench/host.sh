#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
# Builds and runs the host's benchmarks, and writes bench/results/host-<machine>.json, its table and its plot.
set -euo pipefail

usage() {
  cat <<'TXT'
use: bash bench/host.sh [options]

  --out FILE        where the summary goes (default: bench/results/host-<machine>.json); Google Benchmark's own file
                    goes beside it, with the ending .benchmark.json
  --work FOLDER     where the build and what programs print go (default: build/bench-host)
  --model FILE      the engine's model (default: what examples/engine/fetch_model.sh fetched; none: without the engine)
  --filter REGEX    only the benchmarks that match, without the engine; the summary then goes to the work folder
  --repetitions N   of each benchmark, in random order over all (default: 20)
  --build-only      compile, and run nothing
  --run-only        run what an earlier call compiled
  --help            this text

kvc is compiled without flags for this CPU: it chooses its instructions at run time. Wants Google Benchmark; with Eigen
it times Eigen's products too. Peers stand in bench/results/host-peers-<machine>.json.
TXT
}

wrong_use() { printf 'host.sh: %s\n\n' "$*" >&2; usage >&2; exit 2; }

out='' work=build/bench-host filter='' repetitions=20 run=yes build=yes
model=$HOME/.cache/kvc/SmolLM2-135M-Instruct.Q4_1.gguf
while [ $# -gt 0 ]; do
  case $1 in
    --out) [ -n "${2:-}" ] || wrong_use "--out wants a file"; out=$2; shift ;;
    --work) [ -n "${2:-}" ] || wrong_use "--work wants a folder"; work=$2; shift ;;
    --model) [ -f "${2:-}" ] || wrong_use "--model wants a file"; model=$2; shift ;;
    --filter) [ -n "${2:-}" ] || wrong_use "--filter wants a text"; filter=$2; shift ;;
    --repetitions) [[ "${2:-}" =~ ^[1-9][0-9]*$ ]] || wrong_use "--repetitions wants a number"; repetitions=$2; shift ;;
    --build-only) run=no ;;
    --run-only) build=no ;;
    --help|-h) usage; exit 0 ;;
    *) wrong_use "there is no option '$1'" ;;
  esac
  shift
done

cd "$(dirname "${BASH_SOURCE[0]}")/.."
mkdir -p "$work"
if [ $build = yes ]; then
  echo "== build"
  cmake -S . -B "$work" -DCMAKE_BUILD_TYPE=Release -DKVC_ENABLE_CUDA=OFF -DKVC_BUILD_TESTS=OFF \
    -DKVC_BENCH_ALL=ON -DKVC_ENGINE_HEAD_DIMS=64 >"$work/configure.log" || { cat "$work/configure.log" >&2; exit 1; }
  cmake --build "$work" -j 2 --target kvc_bench_host
  if cmake --build "$work" --target help | grep kvc_bench_host_engine >/dev/null; then  # -q would break the pipe
    cmake --build "$work" -j 2 --target kvc_bench_host_engine
  fi
fi
[ $run = yes ] || exit 0

# A name such as 'AMD EPYC' is that of many generations: family and model tell them apart.
field() { sed -n "s/^$1[[:space:]]*: //p" /proc/cpuinfo 2>/dev/null | head -n 1; }
cpu=$(field 'model name') family=$(field 'cpu family') number=$(field model) cores=$(nproc)
device="${cpu:-$(uname -m)}${family:+, family $family, model $number}, $cores cores"
name=$(printf '%s' "${cpu:-$(uname -m)}${family:+-f${family}m$number}-$cores-cores" |
  tr '[:upper:] ' '[:lower:]-' | tr -cd 'a-z0-9-')

lines=$work/benchmark.json
filters=()
[ -z "$filter" ] || filters=(--benchmark_filter="$filter")
echo "== $device"
"$work/bench/kvc_bench_host" "${filters[@]}" --benchmark_out="$lines" --benchmark_out_format=json \
  --benchmark_repetitions="$repetitions" --benchmark_enable_random_interleaving=true --benchmark_min_time=0.05 \
  --benchmark_report_aggregates_only=true >"$work/benchmark.txt"
grep -E '_(median|min) ' "$work/benchmark.txt"
more=()
if [ -z "$filter" ] && [ -x "$work/bench/kvc_bench_host_engine" ] && [ -f "$model" ]; then
  echo "== engine"
  "$work/bench/kvc_bench_host_engine" "$model" --threads "$cores" | tee "$work/engine.jsonl"
  more+=(--engine "$work/engine.jsonl")
fi
peers=bench/results/host-peers-$name.json
[ ! -f "$peers" ] || more+=(--peers "$peers")

[ -n "$out" ] || { if [ -n "$filter" ]; then out=$work/summary.json; else out=bench/results/host-$name.json; fi; }
commit=$(git describe --always --dirty --exclude '*' 2>/dev/null || echo unknown)
python3 bench/host_summary.py --device "$device" --commit "$commit" --date "$(date -u +%F)" --benchmark "$lines" \
  "${more[@]}" --out "$out"
echo "== $out"
if [ "$out" = "bench/results/host-$name.json" ]; then
  # Without what Google Benchmark says of the machine's names.
  sed -e '/"host_name":/d' -e '/"executable":/d' "$lines" >"${out%.json}.benchmark.json"
  python3 docs/update.py docs/performance.md
fi
