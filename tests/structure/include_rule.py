#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Checks who includes whom in include/kvc.

  include_rule.py ROOT          prints every violation as file:line: sentence; exit 1 if there is one
  include_rule.py --self-test   feeds it trees that break each rule once

    core <- {layers, heads, rotary, dims, quant, tokens} <- cache <- attention <- {host, cuda} <- methods

A folder includes itself and what stands left of it. Folders of one pair of braces never include each other. The
reference includes nothing of ours. Calibrate and testing are leaves: they include what they like, nobody includes them.
Headers beside the folders are umbrellas (kvc.hpp, cuda.cuh): nobody includes those, but other umbrellas and leaves.
version.hpp is for everybody.
"""
import pathlib
import re
import sys
import tempfile

LEVELS = [["core"], ["layers", "heads", "rotary", "dims", "quant", "tokens"], ["cache"], ["attention"],
          ["host", "cuda"], ["methods"]]
RANK = {folder: rank for rank, level in enumerate(LEVELS) for folder in level}
LEAVES = {"calibrate", "testing"}
FOLDERS = set(RANK) | LEAVES | {"reference"}
BANNED = {"iostream": "it costs every user's file a static initialiser and compile time",
          "ranges": "it costs compile time", "regex": "it costs compile time", "cub/cub.cuh": "it costs 17 s"}
SUFFIXES = {".hpp", ".cuh"}


def code_lines(text):
    """The text's lines with comments blanked, so that line numbers stay."""
    text = re.sub(r"/\*.*?\*/", lambda m: re.sub(r"[^\n]", " ", m[0]), text, flags=re.S)
    return [re.sub(r"//.*", "", line) for line in text.split("\n")]


def includes(path):
    for number, line in enumerate(code_lines(path.read_text(encoding="utf-8")), 1):
        if m := re.match(r"\s*#\s*include\s*([<\"])([^>\"]+)[>\"]", line):
            yield number, m[1], m[2]


def place_of(header, root):
    """The folder of a header below include/kvc; '' for version.hpp, 'umbrella' beside the folders."""
    parts = header.relative_to(root).parts
    if len(parts) > 1:
        return parts[0]
    if parts[0] == "version.hpp":
        return ""
    stem = header.stem
    return stem if stem in LEAVES | {"reference"} else "umbrella"


def refusal(source, target):
    """Why a header in folder `source` may not include one in folder `target`; None if it may."""
    if target == "" or source == target:
        return None
    if target in LEAVES:
        return f"{target} is a leaf: nobody includes it"
    if source == "reference":
        return "the reference includes nothing of ours"
    if source == "":
        return "version.hpp includes nothing"
    if source in LEAVES:
        return None
    if target == "reference":
        return "only tests and leaves include the reference: the library shares no code with it"
    if source == "umbrella":
        return None
    if target == "umbrella":
        return "the library does not include its own umbrellas"
    if source not in RANK or target not in RANK:
        return None  # an unknown folder has its own sentence
    if RANK[source] == RANK[target]:
        return f"{source} and {target} stand side by side: neither includes the other"
    if RANK[source] < RANK[target]:
        return f"{source} stands below {target}"
    return None


def violations(tree):
    """Yields (path, line, sentence) for the library below `tree`/include."""
    include = tree / "include"
    root = include / "kvc"
    headers = sorted(p for p in root.rglob("*") if p.is_file())
    edges = {}
    for header in headers:
        # host/simd/*.inl: kernels that are included once per instruction set, inside its namespace.
        is_kernel = header.suffix == ".inl" and header.parent == root / "host" / "simd"
        if header.suffix not in SUFFIXES and not is_kernel:
            yield header, 1, "headers end in .hpp (host, or host and device) or .cuh (CUDA)"
            continue
        source = place_of(header, root)
        if source not in FOLDERS | {"", "umbrella"}:
            yield header, 1, f"the folder {source} is not one of the library's"
        edges[header] = []
        for number, _, name in includes(header):
            local = (header.parent / name).resolve()
            ours = include / name if name.startswith("kvc/") else local if local.is_file() else None
            if name in BANNED:
                yield header, number, f"<{name}> is not included: {BANNED[name]}"
            if (name.startswith("Eigen/") or name.startswith("unsupported/Eigen/")) and source != "calibrate":
                yield header, number, "Eigen is included by calibrate alone"
            if ours is None:
                if source == "reference" and not re.fullmatch(r"[a-z_]+", name):
                    yield header, number, "the reference includes the standard library alone"
                continue
            if not ours.is_file():
                yield header, number, f"there is no header {name}"
                continue
            if not name.startswith("kvc/"):
                yield header, number, "headers of the library are included as <kvc/...>"
            ours = ours.resolve()
            edges[header].append((number, ours))
            target = place_of(ours, root.resolve())
            if why := refusal(source, target):
                yield header, number, f"{source or 'version.hpp'} includes {name}: {why}"
            if ours.suffix == ".cuh" and header.suffix == ".hpp":
                yield header, number, f"a .hpp includes the CUDA header {name}: host programs could not"
    yield from cycles({h.resolve(): e for h, e in edges.items()})


def cycles(edges):
    state = {}

    def visit(header, trail):
        state[header] = "open"
        for number, target in edges.get(header, []):
            if state.get(target) == "open":
                loop = trail[trail.index(target):] + [target]
                yield header, number, "headers include each other: " + " -> ".join(p.name for p in loop)
            elif target not in state:
                yield from visit(target, trail + [target])
        state[header] = "done"

    for header in edges:
        if header not in state:
            yield from visit(header, [header])


def check(tree):
    found = sorted(set(violations(tree)), key=str)
    for path, line, sentence in found:
        print(f"{path.resolve().relative_to(tree.resolve())}:{line}: {sentence}")
    return found


# Each tree breaks one rule: (files, part of the sentence that must be printed, and where).
BASE = {"core/a.hpp": "", "heads/a.hpp": "#include <kvc/core/a.hpp>", "quant/a.hpp": "", "cache/a.hpp": "",
        "attention/a.hpp": "", "host/a.hpp": "", "cuda/a.cuh": "", "methods/a.hpp": "", "reference/a.hpp": "",
        "calibrate/a.hpp": "#include <kvc/methods/a.hpp>\n#include <Eigen/Dense>", "version.hpp": "",
        "testing/a.hpp": "#include <kvc/reference/a.hpp>\n#include <kvc/kvc.hpp>",
        "kvc.hpp": "#include <kvc/methods/a.hpp>"}
BAD = [
    ({"core/a.hpp": "\n#include <kvc/quant/a.hpp>"}, "core/a.hpp:2: core includes kvc/quant/a.hpp: core stands below"),
    ({"quant/a.hpp": '#include "kvc/cache/a.hpp"'}, "quant stands below cache"),
    ({"cache/a.hpp": "#include <kvc/attention/a.hpp>"}, "cache stands below attention"),
    ({"attention/a.hpp": "  #  include <kvc/host/a.hpp>"}, "attention stands below host"),
    ({"host/a.hpp": "#include <kvc/methods/a.hpp>"}, "host stands below methods"),
    ({"quant/a.hpp": "#include <kvc/heads/a.hpp>"}, "quant and heads stand side by side"),
    ({"cuda/a.cuh": "#include <kvc/host/a.hpp>"}, "cuda and host stand side by side"),
    ({"host/a.hpp": "#include <kvc/cuda/a.cuh>"}, "a .hpp includes the CUDA header"),
    ({"reference/a.hpp": "#include <kvc/core/a.hpp>"}, "the reference includes nothing of ours"),
    ({"reference/a.hpp": "#include <Eigen/Core>"}, "the reference includes the standard library alone"),
    ({"cache/a.hpp": "#include <kvc/reference/a.hpp>"}, "shares no code with it"),
    ({"methods/a.hpp": "#include <kvc/calibrate/a.hpp>"}, "calibrate is a leaf"),
    ({"cuda/a.cuh": "#include <kvc/calibrate/a.hpp>"}, "calibrate is a leaf"),
    ({"kvc.hpp": "#include <kvc/testing/a.hpp>"}, "testing is a leaf"),
    ({"testing/a.hpp": "#include <kvc/calibrate/a.hpp>"}, "calibrate is a leaf"),
    ({"core/a.hpp": "#include <Eigen/Dense>"}, "Eigen is included by calibrate alone"),
    ({"core/a.hpp": "#include <iostream>"}, "<iostream> is not included"),
    ({"testing/a.hpp": "#include <ranges>"}, "<ranges> is not included"),
    ({"calibrate/a.hpp": "#include <regex>"}, "<regex> is not included"),
    ({"cuda/a.cuh": "#include <cub/cub.cuh>"}, "<cub/cub.cuh> is not included"),
    ({"host/a.hpp": "#include <kvc/kvc.hpp>"}, "does not include its own umbrellas"),
    ({"version.hpp": "#include <kvc/core/a.hpp>"}, "version.hpp includes nothing"),
    ({"core/a.hpp": "#include <kvc/core/lost.hpp>"}, "there is no header kvc/core/lost.hpp"),
    ({"core/b.hpp": '#include "a.hpp"'}, "are included as <kvc/...>"),
    ({"core/a.hpp": "#include <kvc/core/b.hpp>", "core/b.hpp": "#include <kvc/core/a.hpp>"}, "include each other"),
    ({"utils/a.hpp": ""}, "the folder utils is not one of the library's"),
    ({"core/a.h": ""}, "headers end in .hpp"),
    ({"core/a.inl": ""}, "headers end in .hpp"),
]
GOOD = [{}, {"core/a.hpp": "// #include <iostream>\n/*\n#include <kvc/cache/a.hpp>\n*/"},
        {"cuda/a.cuh": "#include <kvc/attention/a.hpp>\n#include <kvc/quant/a.hpp>\n#include <kvc/version.hpp>"}]


def self_test():
    wrong = 0
    for files, sentence in [*BAD, *[(g, None) for g in GOOD]]:
        with tempfile.TemporaryDirectory() as folder:
            tree = pathlib.Path(folder)
            for name, text in {**BASE, **files}.items():
                path = tree / "include" / "kvc" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            found = [f"{p.resolve().relative_to(tree.resolve())}:{n}: {s}" for p, n, s in violations(tree)]
        good = not found if sentence is None else any(sentence in line for line in found)
        wrong += not good
        print(f"{'ok ' if good else 'BAD'} {files}: {found}")
    print(f"{len(BAD)} bad and {len(GOOD)} good trees, {wrong} judged wrongly")
    return 1 if wrong else 0


def main(arguments):
    if arguments == ["--self-test"]:
        return self_test()
    if len(arguments) != 1 or not (pathlib.Path(arguments[0]) / "include" / "kvc").is_dir():
        print(__doc__)
        return 2
    found = check(pathlib.Path(arguments[0]))
    print(f"{len(found)} violations of the include rule")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
