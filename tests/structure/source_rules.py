#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Checks every text file of the repository against the rules that need no compiler.

  source_rules.py RULE ROOT     RULE: spdx, length, marks, paths, pragma_once, format
  source_rules.py --self-test   feeds each rule a file that breaks it
  source_rules.py --list

Prints every violation as file:line: sentence; exit 0: none, 1: some, 77: the rule cannot be checked here.
"""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

SPDX = "SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception"
HEADERS = {".hpp", ".cuh", ".h", ".inl"}
CODE = HEADERS | {".cpp", ".cu"}
SCRIPTS = {".py", ".sh", ".cmake"}
LONGEST_HEADER = 450
CLANG_FORMAT = "14"  # other versions format a few lines differently
CANNOT = 77


def files_of(tree):
    """What git tracks or would track; without git, everything outside build folders."""
    git = subprocess.run(["git", "-C", str(tree), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                         stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) if shutil.which("git") else None
    if git and git.returncode == 0:
        paths = [tree / name for name in git.stdout.decode().split("\0") if name]
    else:
        paths = [p for p in tree.rglob("*") if not re.match(r"(build|out|\.git|\.cache)", p.relative_to(tree).parts[0])]
    return sorted(p for p in paths if p.is_file() and not p.is_symlink())


def text_of(path):
    data = path.read_bytes()
    return None if b"\0" in data[:4096] else data.decode("utf-8", errors="replace")


def is_source(path, text):
    return path.suffix in CODE | SCRIPTS or path.name == "CMakeLists.txt" or text.startswith("#!")


def spdx(path, text, _):
    if is_source(path, text) and not any(SPDX in line for line in text.split("\n")[:3]):
        yield 1, f"the first lines lack '{SPDX}'"


def length(path, text, tree):
    lines = text.count("\n")
    if path.suffix in HEADERS and path.is_relative_to(tree / "include") and lines > LONGEST_HEADER:
        yield lines, f"a header of {lines} lines; {LONGEST_HEADER} is the limit"


def marks(path, text, _):
    pattern = r"\b(TO" r"DO|FIX" r"ME|X" r"XX|HA" r"CK)\b"
    if is_source(path, text) or path.suffix == ".md":
        for number, line in enumerate(text.split("\n"), 1):
            if m := re.search(pattern, line):
                yield number, f"a mark of unfinished work: {m[0]}"


def paths(path, text, _):
    # Nothing depends on where one machine keeps its files.
    pattern = r"(?<![\w.\-}*)])/(wo" r"rk|ro" r"ot|ho" r"me)/"
    for number, line in enumerate(text.split("\n"), 1):
        if m := re.search(pattern, line):
            yield number, f"a path of one machine: {m[0]}"


def pragma_once(path, text, _):
    if path.suffix in HEADERS - {".inl"} and not re.search(r"^#pragma once$", text, re.M):
        yield 1, "a header without '#pragma once'"


RULES = {rule.__name__: rule for rule in (spdx, length, marks, paths, pragma_once)}


def violations(rule, tree):
    for path in files_of(tree):
        text = text_of(path)
        if text is not None:
            for number, sentence in RULES[rule](path, text, tree):
                yield f"{path.relative_to(tree)}:{number}: {sentence}"


def clang_format():
    """The program of the right version, and why there is none."""
    seen = []
    for name in (f"clang-format-{CLANG_FORMAT}", "clang-format"):
        if program := shutil.which(name):
            version = subprocess.run([program, "--version"], stdout=subprocess.PIPE, text=True).stdout
            if re.search(rf"version {CLANG_FORMAT}\.", version):
                return program, ""
            seen.append(version.strip())
    return None, f"clang-format {CLANG_FORMAT} is not installed" + (f" (found: {'; '.join(seen)})" if seen else "")


def format_violations(program, tree):
    # The texts are compared, because version 14 with --dry-run objects to the end of 'namespace a::inline b' as it is.
    for path in files_of(tree):
        if path.suffix not in CODE:
            continue
        run = subprocess.run([program, "--style=file", str(path)], cwd=tree, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT)
        name, before, after = path.relative_to(tree), path.read_bytes().split(b"\n"), run.stdout.split(b"\n")
        if run.returncode != 0:
            yield f"{name}:1: clang-format failed: {run.stdout.decode(errors='replace')}"
        elif before != after:
            line = next((i for i, (a, b) in enumerate(zip(before, after)) if a != b), min(len(before), len(after)))
            wanted = after[line].decode(errors="replace") if line < len(after) else "nothing"
            yield f"{name}:{line + 1}: clang-format would write: {wanted}"


def check_format(tree):
    program, why = clang_format()
    if program:
        return report(format_violations(program, tree))
    if os.environ.get("CI"):
        print(f"FAILED: {why}, and this is CI")
        return 1
    print(f"SKIPPED: {why}")
    return CANNOT


def report(found):
    found = list(found)
    print("\n".join(found[:200]))
    print(f"{len(found)} violations")
    return 1 if found else 0


def self_test():
    licence = f"// {SPDX}\n"
    good = licence + "#pragma once\n"
    bad = {"spdx": ("include/kvc/a.hpp", "#pragma once\n"), "length": ("include/kvc/a.cuh", good + "\n" * 449),
           "marks": ("src/a.cpp", licence + "int a;  // TO" "DO: more\n"),
           "paths": ("docs/a.md", "see /ro" "ot/data and https://example.org/work/data\n"),
           "pragma_once": ("tests/a.hpp", licence), "format": ("src/a.cu", licence + "int  a ;\n")}
    also = {"spdx": ("run", "#!/bin/sh\n"), "paths": ("a.cmake", '"/wo' 'rk/a"\n')}
    wrong = 0
    for rule, (name, text) in [*bad.items(), *also.items()]:
        with tempfile.TemporaryDirectory() as folder:
            tree = pathlib.Path(folder).resolve()
            for file, content in {"include/kvc/good.hpp": good, "docs/good.md": "/usr/include and ../work/a\n",
                                  ".clang-format": "BasedOnStyle: Google\n", name: text}.items():
                (tree / file).parent.mkdir(parents=True, exist_ok=True)
                (tree / file).write_text(content)
            if rule == "format":
                program, why = clang_format()
                if not program:
                    print(f"skip format: {why}")
                    continue
                found = list(format_violations(program, tree))
            else:
                found = list(violations(rule, tree))
        as_expected = bool(found) and all(line.startswith(name + ":") for line in found)
        wrong += not as_expected
        print(f"{'ok ' if as_expected else 'BAD'} {rule}: {found}")
    print(f"{wrong} rules judged wrongly")
    return 1 if wrong else 0


def main(arguments):
    if arguments == ["--self-test"]:
        return self_test()
    if arguments == ["--list"]:
        print("\n".join([*RULES, "format"]))
        return 0
    if len(arguments) != 2 or arguments[0] not in [*RULES, "format"]:
        print(__doc__)
        return 2
    tree = pathlib.Path(arguments[1]).resolve()
    return check_format(tree) if arguments[0] == "format" else report(violations(arguments[0], tree))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
