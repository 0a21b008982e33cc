#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What it costs to compile the library's parts, against their budgets.

  compile.py [--cxx g++] [--nvcc nvcc] [--runs N] [--only TEXT] [--out FILE]    exit 1 where a budget is exceeded
  compile.py --check [...]                                                      only that the sources compile
  compile.py --self-test                                                        that it can: a budget of nothing

A row is one small source. Seconds are of processor time, all processes of the compiler together (which run one after
the other), so that other work on the machine counts little: the median of the runs. Memory is that of the greatest
process. Without nvcc its rows are left out, and the output says so.
"""
import argparse
import datetime
import json
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
HOST, CUDA = ["-std=c++20", "-O2"], ["-std=c++20", "-O3", "-arch=sm_90"]

CORE = "".join(f'#include "kvc/core/{path.name}"\n' for path in sorted((ROOT / "include/kvc/core").iterdir()))
COMPOSITION = """
using model = kvc::shape<1, 32, 8, 128>;
using spec = kvc::compose<model, kvc::quant::integer<4, 128>>;
"""
PARAMETERS = "const kvc::cache_view<spec>& view, const kvc::step_view& step, "


def attend(space, type_name, before, last):
    """A function that calls attend. before, last: the parameters that the host's and CUDA's have of their own."""
    names = [p.split()[-1].strip("&") for p in (before, last)]
    return (f"{COMPOSITION}kvc::status run({PARAMETERS}{before}, kvc::rows_view<const {type_name}> q, "
            f"kvc::rows_view<float> out, const kvc::attend_params& params, void* workspace, kvc::int64 bytes, "
            f"{last}) {{\n"
            f"  return kvc::{space}::attend<spec, {type_name}>(view, step, {names[0]}, "
            f"{'0, ' if space == 'cuda' else ''}q, out, nullptr, params, workspace, bytes, {names[1]});\n}}\n")


APPEND = (f"{COMPOSITION}kvc::status run({PARAMETERS}kvc::rows_view<const float> k, kvc::rows_view<const float> v) {{\n"
          "  return kvc::host::append<spec, float>(view, step, 0, k, v);\n}\n")

HOST_ATTEND = '#include "kvc/kvc.hpp"\n' + attend("host", "float", "int layer", "kvc::slice part")
HOST_APPEND = '#include "kvc/kvc.hpp"\n' + APPEND
SEPARATE = "#define KVC_SEPARATE_KERNELS\n"  # the kernels are compiled in another source, which is host-kernels

# One of the two decode kernels of attend, which differ in how many queries share a row, without the merge.
KERNEL = (f"{COMPOSITION}kvc::status run({PARAMETERS}const kvc::cuda::step_bounds& bounds, "
          "const kvc::cuda::detail::attend_plan& plan, "
          "kvc::rows_view<const kvc::bf16> q, const kvc::attend_params& params, "
          "const kvc::cuda::detail::attend_results& results, cudaStream_t stream) {\n"
          "  namespace detail = kvc::cuda::detail;\n"
          "  return detail::launch_attend<spec, kvc::bf16, detail::attend_shape<spec>::few>(view, step, bounds, plan, "
          "0, q, params, results, stream);\n}\n")

# id, what, compiler, source, budgets: seconds, bytes of the object, bytes of the compiler's memory
MB = 1_000_000
ROWS = [
    ("core", "every header of kvc/core", "cxx", CORE, {"seconds": 0.2}),
    ("umbrella-host", "kvc/kvc.hpp", "cxx", '#include "kvc/kvc.hpp"\n', {}),
    ("host-attend", "kvc/kvc.hpp and attend of one composition", "cxx", HOST_ATTEND, {}),
    ("host-append", "kvc/kvc.hpp and append of one composition", "cxx", HOST_APPEND, {}),
    ("host-attend-separate", "the same attend, with kvc::kernels", "cxx", SEPARATE + HOST_ATTEND, {}),
    ("host-append-separate", "the same append, with kvc::kernels", "cxx", SEPARATE + HOST_APPEND, {}),
    ("host-kernels", "kvc::kernels: the host's kernels in all instruction sets", "cxx",
     SEPARATE + '#include "kvc/host/simd/dispatch.hpp"\n#include "kvc/host/simd/kernels.inl"\n', {}),
    ("host-cache", "kvc/kvc.hpp and the owning cache of one composition", "cxx",
     '#include "kvc/kvc.hpp"\n' + COMPOSITION + "template class kvc::host::cache<spec>;\n", {}),
    ("empty-cuda", "an empty .cu", "nvcc", "", {}),
    ("umbrella-cuda", "kvc/cuda.cuh in a .cu", "nvcc", '#include "kvc/cuda.cuh"\n', {"seconds": 2.0}),
    ("cuda-kernel", "kvc/cuda/attend.cuh and one decode kernel", "nvcc",
     '#include "kvc/cache/compose.hpp"\n#include "kvc/cuda/attend.cuh"\n' + KERNEL,
     {"seconds": 5.0, "object_bytes": 250_000, "memory_bytes": 600 * MB}),
    ("cuda-attend", "kvc/cuda/attend.cuh and attend of one composition: two decode kernels and a merge", "nvcc",
     '#include "kvc/cache/compose.hpp"\n#include "kvc/cuda/attend.cuh"\n' +
     attend("cuda", "kvc::bf16", "const kvc::cuda::step_bounds& bounds", "cudaStream_t stream"), {}),
]


class Failed(Exception):
    """A source that does not compile."""


def compile_once(command, source, folder):
    """Seconds of processor time, greatest memory of a process, bytes of the object."""
    out = folder / "object.o"
    log = open(folder / "log", "w+", encoding="utf-8")
    child = subprocess.Popen([*command, "-I", str(ROOT / "include"), "-c", str(source), "-o", str(out)],
                             stdout=log, stderr=subprocess.STDOUT)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        log.seek(0)
        raise Failed(log.read()[-4000:])  # errors come after the warnings
    return used.ru_utime + used.ru_stime, used.ru_maxrss * 1024, out.stat().st_size


def measure(compiler, flags, suffix, text, runs):
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        source = folder / ("source" + suffix)
        source.write_text(text)
        all_runs = [compile_once([compiler, *flags], source, folder) for _ in range(runs)]
    seconds, memory, size = zip(*all_runs)
    return {"seconds": round(statistics.median(seconds), 3), "least_seconds": round(min(seconds), 3),
            "object_bytes": max(size), "memory_bytes": max(memory)}


def exceeded(row):
    return [name for name, most in row["budget"].items() if row[name] > most]


def rows_of(table, compilers, runs, only="", optimise=True):
    rows = []
    for name, what, kind, text, budget in table:
        if only not in name or compilers[kind] is None:
            continue
        flags, suffix = (HOST, ".cpp") if kind == "cxx" else (CUDA, ".cu")
        if not optimise:
            flags = [*flags, "-O0"]
        row = {"id": name, "what": what, **measure(compilers[kind], flags, suffix, text, runs), "budget": budget}
        over = exceeded(row)
        print(f"{name:20} {row['seconds']:7.2f} s {row['object_bytes'] / 1e3:8.0f} KB object "
              f"{row['memory_bytes'] / 1e6:6.0f} MB memory" + "".join(f"  over budget: {n} {budget[n]}" for n in over),
              flush=True)
        rows.append(row)
    return rows


def self_test(compiler):
    compilers = {"cxx": compiler, "nvcc": None}
    source = "int f() { return 1; }\n"
    table = [("free", "", "cxx", source, {"seconds": 1e9, "object_bytes": 1e9, "memory_bytes": 1e15}),
             ("dear", "", "cxx", source, {"seconds": 0, "object_bytes": 0, "memory_bytes": 0}),
             ("other", "", "nvcc", "", {"seconds": 0})]
    found = [exceeded(row) for row in rows_of(table, compilers, 1)]
    try:
        rows_of([("broken", "", "cxx", "int f() { return }\n", {})], compilers, 1)
        refused = False
    except Failed as e:
        refused = "error" in str(e)
    good = found == [[], ["seconds", "object_bytes", "memory_bytes"]] and refused
    print("ok" if good else f"BAD: {found}, {refused}")
    return 0 if good else 1


def machine():
    """The processor's name and a name for files."""
    fields = {}
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    except OSError:
        pass
    cpu, cores = fields.get("model name", platform.machine()), len(os.sched_getaffinity(0))
    kind = f" f{fields['cpu family']}m{fields['model']}" if "cpu family" in fields else ""
    slug = "".join(c for c in f"{cpu}{kind} {cores} cores".lower().replace(" ", "-") if c.isalnum() or c == "-")
    return f"{cpu}, {cores} cores", slug


def version_of(compiler):
    lines = subprocess.run([compiler, "--version"], stdout=subprocess.PIPE, text=True).stdout.splitlines()
    return next((line for line in lines if "release" in line), lines[0])


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cxx", default="g++")
    parser.add_argument("--nvcc", default="nvcc")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", default="")
    parser.add_argument("--out")
    parser.add_argument("--check", action="store_true", help="once, without optimisation: exit 1 where one fails")
    parser.add_argument("--self-test", action="store_true")
    options = parser.parse_args(arguments)
    if options.self_test:
        return self_test(options.cxx)
    compilers = {"cxx": options.cxx,
                 "nvcc": shutil.which(options.nvcc) or shutil.which(options.nvcc, path="/usr/local/cuda/bin")}
    if compilers["nvcc"] is None:
        print("there is no nvcc: its rows are left out")
    try:
        rows = rows_of(ROWS, compilers, 1 if options.check else options.runs, options.only, not options.check)
    except Failed as e:
        print(e, file=sys.stderr)
        return 1
    if not rows:
        print(f"compile.py: there is no '{options.only}'", file=sys.stderr)
        return 2
    if options.check:
        return 0
    device, slug = machine()
    git = subprocess.run(["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude", "*"], text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    head = {"device": device, "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
            "commit": git.stdout.strip() or "unknown",
            "compilers": [version_of(c) for c in compilers.values() if c is not None], "runs": options.runs}
    out = options.out or (None if options.only else ROOT / "bench" / "results" / f"compile-{slug}.json")
    if out:
        text = "{\n" + "".join(f' "{key}": {json.dumps(value)},\n' for key, value in head.items())
        text += ' "rows": [\n' + ",\n".join("  " + json.dumps(row) for row in rows) + "\n ]\n}\n"
        pathlib.Path(out).write_text(text, encoding="utf-8")
        print(f"== {out}")
    return 1 if any(exceeded(row) for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
