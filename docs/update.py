#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Regenerates in place what the documentation takes from code and programs.

  update.py [--build DIR] [FILE.md ...]     default: README.md, docs/*.md and docs/*/*.md
  update.py --check [--build DIR]           changes nothing; exit 1 if something is stale

A block starts with one of these comments and ends with '<!-- end -->':

  <!-- code: PATH [NAME] -->        the lines of a source between its two '// [NAME]' lines; without NAME all of it
  <!-- output: PROGRAM [ARGS] -->   what a program of the build prints, as text
  <!-- table: PROGRAM [ARGS] -->    what a program of the build prints, as Markdown
  <!-- report: FOLDER [PATTERN] --> the table of the newest FOLDER/PATTERN (default: report-*.json)
  <!-- siblings: FOLDER -->         the trained models of the newest FOLDER/report-*.json that has some
  <!-- trained: FOLDER SIZE MILLIONS WORD -->  means over seeds of the runs of that size and so many tokens in
                                  FOLDER/summary.json whose recipe has that word
  <!-- speed: FOLDER KIND [ID,...] --> what the newest FOLDER/cuda-*.json says of KIND (attend, append or pages): of all rows,
                                    or of those whose ids begin so
  <!-- host: FOLDER [ID,... [MACHINE]] -->  the same of the newest FOLDER/host-*.json, or of host-MACHINE*.json
  <!-- plot: FILE.svg FOLDER -->    a plot of the newest FOLDER/host-*.json, which is written to FILE
  <!-- compile: FOLDER -->          what the newest FOLDER/compile-*.json says of compiling, beside the budgets
  <!-- result: PATH -->             a committed output of a program that needs a GPU, as text
  <!-- quote: PATH -->              text that must stand in a file so; checked, not generated

Programs run only with --build. Without it their blocks stay as they are, and so do those of CUDA programs (their names
begin with kvc_docs_cuda) in a build without CUDA.
"""
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import textwrap

from plot import ratios

ROOT = pathlib.Path(__file__).resolve().parent.parent
START = re.compile(r"^<!-- (code|output|table|report|siblings|trained|speed|host|plot|compile|result|quote): (.+?) -->$")
END = "<!-- end -->"


class Stale(Exception):
    """A block that cannot be generated, with the sentence that says why."""


def code(root, path, name=None):
    source = root / path
    if not source.is_file():
        raise Stale(f"there is no file {path}")
    lines = source.read_text(encoding="utf-8").split("\n")
    if name is None:
        chosen = [line for line in lines if "SPDX-License-Identifier" not in line]
    else:
        at = [i for i, line in enumerate(lines) if line.strip() == f"// [{name}]"]
        if len(at) != 2:
            raise Stale(f"{path} has {len(at)} lines '// [{name}]', not 2")
        chosen = lines[at[0] + 1 : at[1]]
    chosen = [line for line in chosen if not re.fullmatch(r"\s*// \[\w+\]", line)]
    return "```cpp\n" + textwrap.dedent("\n".join(chosen)).strip("\n") + "\n```"


def find_program(build, name):
    for folder, _, files in os.walk(build):
        if name in files and "CMakeFiles" not in folder:
            return pathlib.Path(folder) / name
    raise Stale(f"the build has no program {name}")


def is_left_out(build, name):
    return name.startswith("kvc_docs_cuda") and not any(name in files for _, _, files in os.walk(build))


def run(build, name, *arguments):
    done = subprocess.run([find_program(build, name), *arguments], stdout=subprocess.PIPE, text=True, timeout=300)
    if done.returncode != 0:
        raise Stale(f"{name} ended with exit code {done.returncode}")
    return done.stdout.strip("\n")


# ---- The cache report's table -------------------------------------------------------------------------------------

COLUMNS = [  # heading, field of a cache in report.json, format
    ("cache", "name", "`{}`"),
    ("bits per value", "bits_per_value", "{:.2f}"),
    ("bytes per token", "bytes_per_token", "{:,.0f}"),
    ("ratio", "ratio", "{:.2f}"),
    ("perplexity", "perplexity", "{:.3f}"),
    ("change", "perplexity_change", "{:+.1%}"),
    ("KL", "kl", "{:.5f}"),
    ("same top token", "top1", "{:.1%}"),
    ("passkeys", "passkey_found", "{}"),
]


def cell(pattern, value):
    if value is None:
        return "–"
    if isinstance(value, list):  # found or not, per depth
        return f"{sum(map(bool, value))} of {len(value)}"
    return pattern.format(value)


def table_of(columns, rows):
    """A line for each row, a dictionary, of those columns."""
    lines = ["| " + " | ".join(c[0] for c in columns) + " |", "|---|" + "---:|" * (len(columns) - 1)]
    return lines + ["| " + " | ".join(cell(c[2], row.get(c[1])) for c in columns) + " |" for row in rows]


def newest_report(root, folder, pattern, without=(), keep=lambda data: True):
    reports = []
    for path in (root / folder).glob(pattern):
        if any(part in path.name for part in without):
            continue
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if keep(data):
                reports.append((data.get("date", ""), path.name, data))
        except (ValueError, AttributeError) as e:
            raise Stale(f"{folder}/{path.name} is no report: {e}") from None
    return max(reports, key=lambda r: r[:2]) if reports else None


SIBLINGS = [  # heading, field of a sibling in report.json, format
    ("model", "name", "`{}`"),
    ("bytes per token and layer", "bytes_per_token_per_layer", "{:,.1f}"),
    ("of MHA", "share_of_mha", "{:.2%}"),
    ("loss, nats", "loss", "{:.4f}"),
    ("copied", "copied", "{:.0%}"),
    ("passkeys", "passkey_found", "{}"),
    ("attend, µs", "decode_attend_microseconds", "{:,.0f}"),
    ("step, µs", "step_microseconds", "{:,.0f}"),
]


def siblings(root, folder):
    found = newest_report(root, folder, "report-*.json", keep=lambda data: data.get("siblings"))
    if found is None:
        return "*No report with trained models is committed yet.*"
    date, name, data = found
    lines = table_of(SIBLINGS, data["siblings"])
    machine = data["machine"]
    lines += ["", f"{data['sibling_windows']} x {data['siblings'][0]['context']} tokens of {data['text']['name']}; {machine['cpu']}, "
              f"{machine['threads']} threads; {date[:10]} ([all figures]({folder}/{name})). What they write:", ""]
    lines += [f"* `{s['name']}`: *{data['sample_prompt']}* {' '.join(s['sample'].split())}" for s in data["siblings"]]
    return "\n".join(lines)


def trained(root, folder, size, millions, word=""):
    """Runs that differ in nothing but their seed, the lowest loss first; word: what their recipes say, `a+!b`: a and not b."""
    runs = json.loads((root / folder / "summary.json").read_text(encoding="utf-8"))
    groups = {}
    for run in runs:
        fits = all((w.lstrip("!") in run["recipe"]) != w.startswith("!") for w in word.split("+"))
        if run["finished"] and run["size"] == size and round(run["tokens"] / 1e6) == int(millions) and fits:
            groups.setdefault((run["variant"], run["idea"], run["learning_rate"], run["data"], run["recipe"]), []).append(run)
    lines = ["| cache | with | bytes per token and layer | of MHA | rate | seeds | loss, nats | deviation | copied | passkeys |",
             "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|"]
    for (variant, idea, rate, *_), some in sorted(groups.items(), key=lambda g: statistics.mean(r["loss"] for r in g[1])):
        losses = [r["loss"] for r in some]
        spread = f"{statistics.stdev(losses):.4f}" if len(losses) > 1 else "–"
        lines.append(f"| `{variant}` | {idea.replace('=True', '').replace('.0', '')} | {some[0]['bytes_per_token_per_layer']:g} "
                     f"| {some[0]['share_of_mha']:.3%} | {rate:g} | {len(some)} | {statistics.mean(losses):.4f} | {spread} "
                     f"| {statistics.mean(r['copy'] for r in some):.1%} | {statistics.mean(r['passkey'] for r in some):.1%} |")
    about = sorted({f"{r['device']}, {r['date']}" for some in groups.values() for r in some})
    return "\n".join([*lines, "", "; ".join(about) + f" ([all figures]({folder}/tables.md))."])


def report(root, folder, pattern="report-*.json"):
    found = newest_report(root, folder, pattern)
    if found is None:
        return "*No report is committed yet; the command above makes one.*"
    date, name, data = found
    columns = [c for c in COLUMNS if any(cache.get(c[1]) is not None for cache in data["caches"])]
    lines = table_of(columns, data["caches"])
    model, text, machine = (data.get(key, {}) for key in ("model", "text", "machine"))
    about = [model.get("name"), text.get("name"),
             f"{text['windows']} x {text['window']} tokens" if "window" in text else None,
             f"{machine['cpu']}, {machine['threads']} threads" if "cpu" in machine else None,
             f"{data['seconds'] / 60:.0f} minutes" if "seconds" in data else None, date[:10]]
    return "\n".join([*lines, "", "; ".join(a for a in about if a) + f" ([all figures]({folder}/{name}))."])


# ---- Speed on a GPU ------------------------------------------------------------------------------------------------

SPEED = [  # heading, field of a row, format
    ("what", "what", "{}"),
    ("µs", "us", "{:,.1f}"),
    ("GB/s", "gb_per_s", "{:,.0f}"),
    ("of reading", "share_of_read_ceiling", "{:.0%}"),
    ("peer, µs", "peer_us", "{:,.1f}"),
    ("ratio", "ratio", "{:.2f}"),
    ("TFLOP/s", "tflop_per_s", "{:,.0f}"),
    ("error", "error", "{:.1e}"),
]
KINDS = {"append": ("append-",), "pages": ("gather-", "copy-")}  # by the begin of an id; the rest is attention


def speed(root, folder, kind, prefixes=""):
    found = newest_report(root, folder, "cuda-*.json")
    if found is None:
        return "*No measurement is committed yet; `bash bench/cuda.sh` makes one.*"
    date, name, data = found
    others = tuple(p for begins in KINDS.values() for p in begins)
    rows = [r for r in data["rows"] if (r["id"].startswith(KINDS[kind]) if kind in KINDS else not r["id"].startswith(others))]
    if prefixes:
        rows = [r for r in rows if r["id"].startswith(tuple(prefixes.split(",")))]
    columns = [c for c in SPEED if any(r.get(c[1]) is not None for r in rows)]
    lines = ["| id | " + " | ".join(c[0] for c in columns) + " |", "|---|---|" + "---:|" * (len(columns) - 1)]
    for row in rows:
        lines.append(f"| `{row['id']}` | " + " | ".join(cell(c[2], row.get(c[1])) for c in columns) + " |")
    peers = sorted({r["peer"] for r in rows if r.get("peer")})
    about = [data["device"], f"reads {data['read_gb_per_s']:,.0f} GB/s" if data.get("read_gb_per_s") else None,
             "peer: " + " and ".join(peers) if peers else None, date[:10], f"commit {data['commit']}"]
    later = sorted({r["commit"] for r in rows if r.get("commit")})
    if later:  # rows of a second run
        few = [f"`{r['id']}`" for r in rows if r.get("commit")]
        share = "all rows" if len(few) == len(rows) else f"{len(few)} rows, from {few[0]} to {few[-1]},"
        about.append(f"{share} of another run, commit {', '.join(later)}")
    return "\n".join([*lines, "", "; ".join(a for a in about if a) + f" ([all figures]({folder}/{name}))."])


# ---- Speed on the host ---------------------------------------------------------------------------------------------

HOST = [  # heading, field of a row, format
    ("what", "what", "{}"),
    ("", "value", "{:,.4g}"),
    ("unit", "unit", "{}"),
    ("peer", "peer", "{}"),
    ("the peer's", "peer_value", "{:,.4g}"),
    ("ratio", "ratio", "{:.2f}"),
    ("target", "target", "{:g}"),
]


def newest_host(root, folder, machine=""):
    return newest_report(root, folder, f"host-{machine}*.json", ("host-peers-", ".benchmark."))


def host(root, folder, prefixes="", machine=""):
    found = newest_host(root, folder, machine)
    if found is None:
        return "*No measurement is committed yet; `bash bench/host.sh` makes one.*"
    date, name, data = found
    rows = [r for r in data["rows"] if not prefixes or r["id"].startswith(tuple(prefixes.split(",")))]
    columns = [c for c in HOST if any(r.get(c[1]) is not None for r in rows)]
    lines = ["| id | " + " | ".join(c[0] for c in columns) + " |"]
    lines.append("|---|" + "".join("---|" if c[2] == "{}" else "---:|" for c in columns))
    for row in rows:
        if row.get("other_run"):
            row = {**row, "peer": f"{row['peer']} *"}
        lines.append(f"| `{row['id']}` | " + " | ".join(cell(c[2], row.get(c[1])) for c in columns) + " |")
    about = [data["device"], date[:10], f"commit {data['commit']}"]
    if any(row.get("other_run") for row in rows):
        peers = data["peers"]
        about.append("* timed in another run, " + peers["date"][:10] + ", with " +
                     " and ".join(f"{key} {value}" for key, value in peers["versions"].items()))
    return "\n".join([*lines, "", "; ".join(about) + f" ([all figures]({folder}/{name}))."])


def plot(root, path, folder, page=None):
    """The link to a plot; the plot itself is written, or compared, by whoever asks for plots()."""
    if newest_host(root, folder) is None:
        return "*No measurement is committed yet.*"
    up = "" if page is None else os.path.relpath(root, page.parent)
    return f"![ratios to the peers]({os.path.normpath(os.path.join(up, path))})"


def plots(root, text):
    """Path and SVG text of the plots of a page."""
    for path, folder in re.findall(r"^<!-- plot: (\S+) (\S+) -->$", text, re.M):
        found = newest_host(root, folder)
        if found is not None:
            title = f"ratio to the peer, over 1 is better than it; {found[2]['device']}, {found[0][:10]}"
            yield root / path, ratios(found[2]["rows"], title)


def write_plots(root, text, check):
    """Sentences of those that were stale or are."""
    for path, fresh in plots(root, text):
        if not path.is_file() or path.read_text(encoding="utf-8") != fresh:
            yield f"stale: {path.relative_to(root)}"
            if not check:
                path.write_text(fresh, encoding="utf-8")


def compiling(root, folder):
    found = newest_report(root, folder, "compile-*.json")
    if found is None:
        return "*No measurement is committed yet; `python3 bench/compile.py` makes one.*"
    date, name, data = found
    units = {"seconds": (1, "{:.2f} s"), "object_bytes": (1e3, "{:,.0f} KB"), "memory_bytes": (1e6, "{:,.0f} MB")}
    lines = ["| what | processor time | object | memory | budget |", "|---|---:|---:|---:|---|"]
    for row in data["rows"]:
        cells = {key: text.format(row[key] / unit) for key, (unit, text) in units.items()}
        limits = [units[key][1].format(most / units[key][0]) + (", **exceeded**" if row[key] > most else "")
                  for key, most in row["budget"].items()]
        lines.append(f"| {row['what']} | {' | '.join(cells.values())} | {'; '.join(limits) or '–'} |")
    about = [data["device"], *data["compilers"], date[:10], f"commit {data['commit']}"]
    return "\n".join([*lines, "", "; ".join(about) + f" ([all figures]({folder}/{name}))."])


def result(root, path):
    if not (root / path).is_file():
        return "*Not run on a GPU yet.*"
    return "```text\n" + (root / path).read_text(encoding="utf-8").strip("\n") + "\n```"


# ---- Pages --------------------------------------------------------------------------------------------------------


def plain(text):
    """A text without indentation, comment signs and the seams of string literals, to be looked for in a source."""
    text = re.sub(r'"\s*\n\s*"', "", text)
    return re.sub(r"\s+", " ", re.sub(r"^\s*//+ ?", "", text, flags=re.M))


def check_quote(root, path, body):
    if not (root / path).is_file():
        raise Stale(f"there is no file {path}")
    source = plain((root / path).read_text(encoding="utf-8"))
    for line in body.split("\n"):
        if line.strip() and not line.startswith("```") and plain(line).strip() not in source:
            raise Stale(f"{path} does not say '{line.strip()}'")
    return body


def generate(root, build, kind, arguments, body, up="", page=None):
    """up: the way from the page's folder to the root."""
    words = arguments.split()
    if kind == "code":
        return code(root, words[0], words[1].strip("[]") if len(words) > 1 else None)
    if kind == "quote":
        return check_quote(root, words[0], body)
    tables = {"report": report, "siblings": siblings, "trained": trained, "speed": speed, "host": host, "compile": compiling}
    if kind in tables:
        table = tables[kind](root, *words)
        return table.replace("([all figures](", f"([all figures]({up}")
    if kind == "plot":
        return plot(root, *words, page)
    if kind == "result":
        return result(root, words[0])
    if build is None or is_left_out(build, words[0]):
        return body
    text = run(build, *words)
    return text if kind == "table" else f"```text\n{text}\n```"


def same(a, b):
    """Equal, but for the digits of very small numbers, which depend on the compiler's flags."""
    loose = re.compile(r"\b\d+(\.\d+)?e[-+]\d+\b")
    return loose.sub("#", a) == loose.sub("#", b)


def render(root, build, text, page=None):
    """The page with all blocks as they should be, and [(line, sentence)] of what was stale or is wrong."""
    lines, found = text.split("\n"), []
    up = "" if page is None else "../" * (len(page.relative_to(root).parts) - 1)
    out, i = [], 0
    while i < len(lines):
        out.append(lines[i])
        start = START.match(lines[i])
        i += 1
        if not start:
            continue
        first = i
        while i < len(lines) and lines[i] != END and not START.match(lines[i]):
            i += 1
        if i == len(lines) or lines[i] != END:
            found.append((first, f"the block has no '{END}'"))
            out += lines[first:i]
            continue
        body = "\n".join(lines[first:i])
        try:
            fresh = generate(root, build, *start.groups(), body, up, page)
            if not same(fresh, body):
                found.append((first, f"stale: {start[1]} {start[2]}"))
                body = fresh
        except Stale as e:
            found.append((first, str(e)))
        out += body.split("\n") if body else []
    return "\n".join(out), found


def pages(root):
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def main(arguments):
    check = "--check" in arguments
    rest = [a for a in arguments if a != "--check"]
    build = None
    if "--build" in rest:
        at = rest.index("--build")
        if at + 1 == len(rest) or not pathlib.Path(rest[at + 1]).is_dir():
            print("update.py: --build wants the folder of a build", file=sys.stderr)
            return 2
        build = pathlib.Path(rest[at + 1]).resolve()
        del rest[at : at + 2]
    if any(a.startswith("-") for a in rest):
        print(__doc__)
        return 0 if rest == ["--help"] else 2
    count = 0
    for page in [pathlib.Path(a).resolve() for a in rest] or pages(ROOT):
        text = page.read_text(encoding="utf-8")
        fresh, found = render(ROOT, build, text, page)
        found += [(0, sentence) for sentence in write_plots(ROOT, fresh, check)]
        for line, sentence in found:
            print(f"{page.relative_to(ROOT)}:{line}: {sentence}")
        count += len([f for f in found if check or not f[1].startswith("stale: ")])
        if not check and fresh != text:
            page.write_text(fresh, encoding="utf-8")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
