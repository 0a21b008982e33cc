#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Checks one case that must not compile, by its sentence, with its corrected twin as the control.

  check.py CASE -- COMPILER FLAG...       exit 0: the case behaves; 1: it does not, with the reason as last line
  check.py --self-test DIR -- COMPILER FLAG...

The flags must make the compiler check one file and leave no output behind. The self-test runs this program on the
cases of DIR, each of which must be found out for the reason in its line '// verdict: REASON'.
"""
import os
import pathlib
import re
import subprocess
import sys

FIRST_LINES = 12


def directive(lines, name):
    return [m[1].strip() for line in lines if (m := re.match(rf"// {name}: (.*)", line))]


def compiles(command, case, defines=()):
    run = subprocess.run([*command, *defines, str(case)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                         stdin=subprocess.DEVNULL, text=True, errors="replace", timeout=500,
                         env={**os.environ, "LC_ALL": "C"})
    crashed = run.returncode < 0 or "internal compiler error" in run.stdout or "internal error" in run.stdout
    return run.returncode == 0, crashed, run.stdout


def verdict(case, command):
    lines = case.read_text(encoding="utf-8").splitlines()
    sentences = directive(lines[:FIRST_LINES], "expect")
    if not sentences:
        return "no sentence is expected", f"the first {FIRST_LINES} lines have no '// expect: REGEX'"
    if any(not s.isascii() or "`" in s for s in sentences):
        return "the sentence is not plain", "sentences are ASCII with single quotes: nvcc prints others as '?'"
    if not any(re.match(r"#\s*if.*\bKVC_SHOULD_FAIL\b", line) for line in lines):
        return "no control", "the case has no '#ifdef KVC_SHOULD_FAIL'"

    # nvcc checks the control in its device pass alone, a third of its work: the C++ compiler takes the control too, and
    # whatever else is wrong with the host pass comes before the sentence.
    control = ["-ptx" if flag == "-c" else flag for flag in command]
    good, crashed, output = compiles(control, case)
    if not good:
        return "the control does not compile", output
    good, crashed, output = compiles(command, case, ["-DKVC_SHOULD_FAIL"])
    if good:
        return "the case compiles", output
    if crashed:
        return "the compiler crashed", output
    # Only the error lines count: compilers also echo the source, where the sentence stands in any case.
    errors = [line for line in output.splitlines() if re.search(r"\berror\b", line)]
    for sentence in sentences:
        if not any(re.search(sentence, line) for line in errors):
            return "the sentence is missing", f"expected: {sentence}\nprinted:\n{output}"
    if not any(re.search(sentence, errors[0]) for sentence in sentences):
        return "the sentence is not first", f"before it came: {errors[0]}"
    return "ok", "\n".join(errors)


def self_test(folder, command):
    cases = sorted(folder.glob("*.cpp"))
    wrong = 0 if cases else 1
    for case in cases:
        expected = directive(case.read_text(encoding="utf-8").splitlines()[:FIRST_LINES], "verdict")[0]
        run = subprocess.run([sys.executable, __file__, str(case), "--", *command], stdout=subprocess.PIPE, text=True)
        last = (run.stdout.splitlines() or [""])[-1]
        found = run.returncode == 1 and last == f"{case.name}: {expected}"
        wrong += not found
        print(f"{'found out' if found else 'NOT FOUND OUT'}: {case.name}: {expected} (exit {run.returncode}: {last})")
    print(f"{len(cases)} cases, {wrong} not found out")
    return 1 if wrong else 0


def main(arguments):
    if "--" not in arguments or arguments.index("--") == len(arguments) - 1:
        print(__doc__)
        return 2
    split = arguments.index("--")
    mine, command = arguments[:split], arguments[split + 1:]
    if len(mine) == 2 and mine[0] == "--self-test":
        return self_test(pathlib.Path(mine[1]), command)
    if len(mine) != 1:
        print(__doc__)
        return 2
    case = pathlib.Path(mine[0])
    result, reason = verdict(case, command)
    print(reason)
    print(f"{case.name}: {result}")
    return 0 if result == "ok" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
