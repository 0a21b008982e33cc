#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Checks that the documentation says what the code says.

  check_docs.py ROOT [--build DIR]   prints every violation as file:line: sentence; exit 1 if there is one
  check_docs.py --self-test          feeds it pages that are wrong in one way each

Blocks must be as docs/update.py makes them (with --build, program outputs too), every C++ block must come from a file
that is compiled, relative links and their anchors must exist, and so must paths in `code spans`.
"""
import importlib.util
import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve()
spec = importlib.util.spec_from_file_location("update", HERE.parent.parent.parent / "docs" / "update.py")
update = importlib.util.module_from_spec(spec)
sys.dont_write_bytecode = True
sys.path.insert(0, str(HERE.parent.parent.parent / "docs"))  # what it imports lies beside it
spec.loader.exec_module(update)

# Where a path in a code span may start.
BASES = ["", "include", "include/kvc", "examples", "docs", "tests"]
SUFFIXES = "hpp|cpp|cu|cuh|py|sh|md|txt|cmake|json"


def pages(root):
    git = subprocess.run(["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.md"],
                         stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    names = git.stdout.decode().split("\0") if git.returncode == 0 else []
    found = {root / n for n in names if n} | set(update.pages(root))
    return sorted(p for p in found if p.is_file())


def without_code(text):
    """The page with fenced blocks emptied, so that line numbers stay."""
    return re.sub(r"^```.*?^```$", lambda m: re.sub(r"[^\n]", "", m[0]), text, flags=re.S | re.M)


def anchors(path):
    """The anchors that GitHub makes of a page's headings."""
    names = []
    for heading in re.findall(r"^#+ +(.+?)\s*$", without_code(path.read_text(encoding="utf-8")), re.M):
        heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        names.append(re.sub(r"[^\w\- ]", "", heading).replace(" ", "-"))
    return names


def unsourced_code(text):
    """C++ fences outside of code blocks and quotes."""
    inside = False
    for number, line in enumerate(text.split("\n"), 1):
        start = update.START.match(line)
        if start:
            inside = start[1] in ("code", "quote")
        elif line == update.END:
            inside = False
        elif re.match(r"\s*```(cpp|c\+\+|cuda|cc)\b", line) and not inside:
            yield number, "a C++ block without a source: put it between '<!-- code: PATH [NAME] -->' and '<!-- end -->'"


def dead_links(path, text):
    for number, line in enumerate(without_code(text).split("\n"), 1):
        for target in re.findall(r"\]\(([^()\s]+)\)", re.sub(r"`[^`]*`", "``", line)):
            if re.match(r"[a-z]+:", target):
                continue
            name, _, anchor = target.partition("#")
            file = path.parent / name if name else path
            if not file.exists():
                yield number, f"a dead link: {target}"
            elif anchor and file.suffix == ".md" and anchor not in anchors(file):
                yield number, f"a link to a heading that does not exist: {target}"


def dead_paths(root, path, text):
    for number, line in enumerate(without_code(text).split("\n"), 1):
        for span in re.findall(r"`([^`]+)`", line):
            if not re.fullmatch(rf"[\w.-]+(/[\w.-]+)+\.({SUFFIXES})", span) or re.match(r"build|out/", span):
                continue
            if not any((base / span).exists() for base in [path.parent, *(root / b for b in BASES)]):
                yield number, f"there is no {span}"


def violations(root, build=None):
    for path in pages(root):
        text = path.read_text(encoding="utf-8")
        found = list(update.render(root, build, text, path)[1])
        found += [(0, sentence) for sentence in update.write_plots(root, text, check=True)]
        found += dead_links(path, text)
        if path == root / "README.md" or root / "docs" in path.parents:
            found += unsourced_code(text)
            found += dead_paths(root, path, text)
        for number, sentence in sorted(found):
            yield f"{path.relative_to(root)}:{number}: {sentence}"


# Each page is wrong in one way: (text, part of the sentence that must be printed; None for a good page).
SOURCE = "// SPDX-License-Identifier: x\nint main() {\n  // [a]\n  f(1);\n  // [a]\n}\n"
PROGRAM = '#!/bin/sh\nprintf "it is $1, error 3e-07\\n"\n'
PAGES = [
    ("<!-- code: s.cpp [a] -->\n```cpp\nf(1);\n```\n<!-- end -->\n", None),
    ("<!-- code: s.cpp [a] -->\n```cpp\nf(2);\n```\n<!-- end -->\n", "stale: code s.cpp [a]"),
    ("<!-- code: s.cpp [b] -->\n```cpp\nf(1);\n```\n<!-- end -->\n", "has 0 lines '// [b]'"),
    ("<!-- code: lost.cpp -->\n```cpp\nf(1);\n```\n<!-- end -->\n", "there is no file lost.cpp"),
    ("<!-- code: s.cpp [a] -->\n```cpp\nf(1);\n```\n", "the block has no"),
    ("```cpp\nf(1);\n```\n", "a C++ block without a source"),
    ("<!-- output: program 1 -->\n```text\nit is 1, error 2e-07\n```\n<!-- end -->\n", None),
    ("<!-- output: program 1 -->\n```text\nit is 2, error 3e-07\n```\n<!-- end -->\n", "stale: output program 1"),
    ("<!-- output: lost -->\n```text\n```\n<!-- end -->\n", "the build has no program lost"),
    ("<!-- table: program 1 -->\nit is 1, error 3e-07\n<!-- end -->\n", None),
    ("<!-- table: program 1 -->\n<!-- end -->\n", "stale: table program 1"),
    ("<!-- report: results -->\n<!-- end -->\n", "stale: report results"),
    ("<!-- speed: results attend a -->\n<!-- end -->\n", "stale: speed results attend a"),
    ("<!-- compile: results -->\n<!-- end -->\n", "stale: compile results"),
    ("<!-- host: results b -->\n<!-- end -->\n", "stale: host results b"),
    ("<!-- plot: s.svg results -->\n![ratios to the peers](s.svg)\n<!-- end -->\n", None),
    ("<!-- plot: t.svg results -->\n![ratios to the peers](t.svg)\n<!-- end -->\n", "stale: t.svg"),
    ("<!-- result: lost.txt -->\n*Not run on a GPU yet.*\n<!-- end -->\n", None),
    ("<!-- result: s.cpp -->\n<!-- end -->\n", "stale: result s.cpp"),
    ("<!-- quote: s.cpp -->\n```text\nint main() {\n```\n<!-- end -->\n", None),
    ("<!-- quote: s.cpp -->\n```text\nint end() {\n```\n<!-- end -->\n", "s.cpp does not say 'int end() {'"),
    ("[here](s.cpp) [there](#a-title)\n# A title\n`s.cpp`", None),
    ("[here](t.cpp)", "a dead link: t.cpp"),
    ("[here](README.md#b)\n# A title\n", "a heading that does not exist: README.md#b"),
    ("`x/s.cpp`", "there is no x/s.cpp"),
    ("```text\n[here](t.cpp)\n```\n", None),
]


def self_test():
    wrong = 0
    for text, sentence in PAGES:
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            (root / "docs").mkdir()
            (root / "results").mkdir()
            (root / "results" / "report-old.json").write_text('{"date": "1", "caches": [{"name": "a", "kl": 2}]}')
            (root / "results" / "report-new.json").write_text('{"date": "2", "caches": [{"name": "b", "kl": 1}]}')
            (root / "results" / "cuda-x.json").write_text(
                '{"device": "x", "date": "1", "commit": "c", "rows": [{"id": "append-a", "what": "", "us": 1},'
                ' {"id": "a1", "what": "one", "us": 2}, {"id": "b1", "what": "two", "us": 3}]}')
            (root / "results" / "host-x.json").write_text(
                '{"device": "x", "date": "1", "commit": "c", "peers": {"date": "2", "versions": {"p": "3"}}, "rows": ['
                '{"id": "a", "what": "", "value": 1}, {"id": "b", "what": "two", "value": 2, "unit": "m", "peer": "p",'
                ' "peer_value": 4, "ratio": 0.5, "target": 2, "other_run": true}]}')
            (root / "results" / "compile-x.json").write_text(
                '{"device": "x", "date": "1", "commit": "c", "compilers": ["g"], "rows": [{"what": "w", "seconds": 2.5,'
                ' "object_bytes": 9000, "memory_bytes": 3e6, "budget": {"seconds": 2, "object_bytes": 9000}}]}')
            (root / "results" / "host-peers-x.json").write_text('{"date": "3", "rows": []}')
            (root / "s.svg").write_text(dict(update.plots(root, "<!-- plot: s.svg results -->"))[root / "s.svg"])
            (root / "t.svg").write_text("another plot")
            (root / "s.cpp").write_text(SOURCE)
            (root / "program").write_text(PROGRAM)
            (root / "program").chmod(0o755)
            (root / "README.md").write_text(text)
            found = list(violations(root, root))
            fresh, _ = update.render(root, root, text)
        good = not found if sentence is None else len(found) == 1 and sentence in found[0]
        if sentence and sentence.startswith("stale: report"):
            good = good and "| `b` | 1.00000 |" in fresh and "`a`" not in fresh
        if sentence and sentence.startswith("stale: speed"):
            good = good and "| `a1` | one | 2.0 |" in fresh and "append" not in fresh and "b1" not in fresh
        if sentence and sentence.startswith("stale: compile"):
            good = good and "| w | 2.50 s | 9 KB | 3 MB | 2.00 s, **exceeded**; 9 KB |" in fresh
        if sentence and sentence.startswith("stale: host"):
            good = good and "| `b` | two | 2 | m | p * | 4 | 0.50 | 2 |" in fresh and "`a`" not in fresh
        wrong += not good
        print(f"{'ok ' if good else 'BAD'} {text!r}: {found}")
    print(f"{len(PAGES)} pages, {wrong} judged wrongly")
    return 1 if wrong else 0


def main(arguments):
    if arguments == ["--self-test"]:
        return self_test()
    if len(arguments) not in (1, 3) or (len(arguments) == 3 and arguments[1] != "--build"):
        print(__doc__)
        return 2
    root = pathlib.Path(arguments[0]).resolve()
    build = pathlib.Path(arguments[2]).resolve() if len(arguments) == 3 else None
    found = list(violations(root, build))
    print("\n".join([*found, f"{len(found)} violations"]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
