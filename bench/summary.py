#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""One JSON file of what the benchmarks of a run wrote, one object per line each.

  summary.py --device NAME --commit ID --date DAY [--out FILE] [--hopper FILE] LINES.jsonl...

Rows: id, what, us, gb_per_s, share_of_read_ceiling, peer, peer_us, ratio, error; of several query rows tflop_per_s too.
A ratio over 1 says that ours is faster than the peer. Attention is compared with cuDNN over bf16 on the same query
rows, batch and length, where that was timed.

  summary.py --device NAME --commit ID --date DAY --into FILE [--hopper FILE] LINES.jsonl...

puts the rows of another run on such a device into a summary, each with its commit; peers stay those of the summary's run.

  summary.py --self-test
"""
import argparse
import json
import re
import sys

FIELDS = ["id", "what", "us", "gb_per_s", "share_of_read_ceiling", "peer", "peer_us", "ratio", "error"]


HOPPER = {  # rows of the table of kernels for Hopper, by what the benchmarks call them
    "clla-int4-h16-b128-l4096": "G0-h16", "clla-int4-h32-b128-l4096": "G0-h32", "clla-int4-h64-b128-l4096": "G4",
    "clla-int4-h128-b128-l4096": "G5", "clla-int4-h64-b32-l8192": "G6", "clla-int4-h16-b1-l65536": "G7",
    "clla-int4-h16-b1-l4096": "G7b", "append-clla-int4-8192": "G9-8192", "append-clla-int4-1024": "G9-1024",
    "clla-int4-key16-h16-b128-l4096": "G1-h16", "clla-int4-key16-h32-b128-l4096": "G1-h32",
    "clla-int4-key8-h16-b128-l4096": "G2-h16", "clla-int4-key8-h32-b128-l4096": "G2-h32",
    "gqa-int4-b16-l32768": "Q1-b16", "gqa-int4-b64-l32768": "Q1-b64", "gqa-int2-b16-l32768": "Q2-b16",
}


def shape_of(name):
    found = re.search(r"-((?:r\d+-|prompt-)?b\d+-l\d+)$", name)
    return found[1] if found else None


def summarize(lines):
    """Rows of the summary and the ceilings, from the objects of all files."""
    ceilings, peers, ours = {}, {}, []
    for line in lines:
        if line["id"] in ("read", "copy"):
            ceilings[line["id"] + "_gb_per_s"] = line["gb_per_s"]
        elif line["id"] == "matrix":
            ceilings["matrix_tflop_per_s"] = line["tflop_per_s"]
        elif line["id"].startswith("cudnn-"):
            peers[shape_of(line["id"])] = line
        else:
            ours.append(line)
    rows = []
    for line in ours:
        peer = peers.get(shape_of(line["id"]))
        # A latent is another model's row: attention over heads is no peer of it.
        if "peer" not in line and peer and not line["id"].startswith("clla-"):
            line = {**line, "peer": f"cuDNN bf16, PyTorch {peer['version']}", "peer_us": peer["us"],
                    "ratio": round(peer["us"] / line["us"], 3)}
        row = {field: line.get(field) for field in FIELDS}
        if "tflop_per_s" in line and (shape_of(line["id"]) or "b")[0] != "b":
            row["tflop_per_s"] = line["tflop_per_s"]
        rows.append(row)
    ceiling = ceilings.get("read_gb_per_s")
    for shape, peer in peers.items():
        rows.append({**dict.fromkeys(FIELDS), "id": peer["id"], "what": "cuDNN bf16 (peer)", "us": peer["us"],
                     "gb_per_s": peer["gb_per_s"],
                     "share_of_read_ceiling": round(peer["gb_per_s"] / ceiling, 4) if ceiling else None})
    return rows, ceilings


def put_into(summary, rows, commit):
    """The summary's rows, with those of another run in their places or, if they are new, at the end."""
    old = {row["id"]: row for row in summary["rows"]}
    peers = {shape_of(row["id"]): row for row in summary["rows"] if (row["peer"] or "").startswith("cuDNN")}
    for row in rows:
        known = old.get(row["id"]) or (None if row["id"].startswith("clla-") else peers.get(shape_of(row["id"])))
        if row["peer"] is None and known and known["peer_us"]:
            row = {**row, "peer": known["peer"], "peer_us": known["peer_us"], "ratio": round(known["peer_us"] / row["us"], 3)}
        old[row["id"]] = {**row, "commit": commit}
    return list(old.values())


def self_test():
    lines = [{"id": "read", "gb_per_s": 3000.0}, {"id": "matrix", "tflop_per_s": 700.0},
             {"id": "int4-r2-b2-l8", "what": "d", "us": 2.0, "tflop_per_s": 5.0},
             {"id": "cudnn-bf16-r2-b2-l8", "us": 5.0, "gb_per_s": 1500.0, "version": "1"},
             {"id": "int4-b2-l8", "what": "a", "us": 2.0, "gb_per_s": 1.0, "share_of_read_ceiling": 0.5, "error": 1e-3},
             {"id": "clla-b2-l8", "what": "b", "us": 2.0, "gb_per_s": 1.0, "share_of_read_ceiling": 0.5},
             {"id": "append-x-64", "what": "c", "us": 4.0, "peer": "copy", "peer_us": 2.0, "ratio": 0.5},
             {"id": "cudnn-bf16-b2-l8", "us": 3.0, "gb_per_s": 1500.0, "version": "1"}]
    rows, ceilings = summarize(lines)
    by_id = {row["id"]: row for row in rows}
    good = (ceilings == {"read_gb_per_s": 3000.0, "matrix_tflop_per_s": 700.0} and len(rows) == 6
            and all(list(row)[:len(FIELDS)] == FIELDS for row in rows)
            and by_id["int4-r2-b2-l8"]["ratio"] == 2.5 and by_id["int4-r2-b2-l8"]["tflop_per_s"] == 5.0
            and "tflop_per_s" not in by_id["int4-b2-l8"]
            and by_id["int4-b2-l8"]["ratio"] == 1.5 and by_id["int4-b2-l8"]["peer_us"] == 3.0
            and by_id["clla-b2-l8"]["ratio"] is None and by_id["append-x-64"]["ratio"] == 0.5
            and by_id["cudnn-bf16-b2-l8"]["share_of_read_ceiling"] == 0.5)
    faster = [{**dict.fromkeys(FIELDS), "id": "int4-b2-l8", "us": 1.0}, {**dict.fromkeys(FIELDS), "id": "new-b2-l8", "us": 3.0},
              {**dict.fromkeys(FIELDS), "id": "clla-b2-l8", "us": 1.0}]
    merged = {row["id"]: row for row in put_into({"rows": rows}, faster, "abc")}
    good &= (len(merged) == 7 and merged["int4-b2-l8"]["ratio"] == 3.0 and merged["int4-b2-l8"]["commit"] == "abc"
             and merged["new-b2-l8"]["ratio"] == 1.0 and merged["clla-b2-l8"]["ratio"] is None
             and "commit" not in merged["append-x-64"])
    print("ok" if good else f"BAD: {rows}")
    return 0 if good else 1


def main(arguments):
    if arguments == ["--self-test"]:
        return self_test()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("--device", "--commit", "--date"):
        parser.add_argument(name, required=True)
    parser.add_argument("--out")
    parser.add_argument("--into", help="an earlier summary that takes these rows")
    parser.add_argument("--hopper", help="the rows of HOPPER, by their names there")
    parser.add_argument("files", nargs="+")
    options = parser.parse_args(arguments)
    lines = []
    for name in options.files:
        with open(name, encoding="utf-8") as file:
            lines += [json.loads(line) for line in file if line.strip()]
    rows, ceilings = summarize(lines)
    if not rows:
        print("summary.py: no measurement in these files", file=sys.stderr)
        return 1
    head = {"device": options.device, "date": options.date, "commit": options.commit, **ceilings}
    if options.into:
        with open(options.into, encoding="utf-8") as file:
            summary = json.load(file)
        if summary["device"] != options.device:
            print(f"summary.py: {options.into} is of {summary['device']}", file=sys.stderr)
            return 1
        head = {key: value for key, value in summary.items() if key != "rows"}
        rows = put_into(summary, rows, options.commit)

    def write(name, rows):
        text = "{\n" + "".join(f' "{key}": {json.dumps(value)},\n' for key, value in head.items())
        text += ' "rows": [\n' + ",\n".join("  " + json.dumps(row) for row in rows) + "\n ]\n}\n"
        if name:
            with open(name, "w", encoding="utf-8") as file:
                file.write(text)
        else:
            print(text, end="")

    write(options.out or options.into, rows)
    if options.hopper:
        by_id = {row["id"]: row for row in rows}
        write(options.hopper, [{**by_id[name], "id": hopper} for name, hopper in HOPPER.items() if name in by_id])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
