#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""One JSON file of what the host's benchmarks measured, in the ids of its targets.

  host_summary.py --device NAME --commit ID --date DAY --benchmark FILE [--engine LINES] [--peers FILE] [--out FILE]

--benchmark is Google Benchmark's own file, with aggregates; --engine what kvc_bench_host_engine printed; --peers a
bench/results/host-peers-*.json. Values are medians, `best` is of the fastest repetition. A ratio over 1 says that ours
is better, a target is a ratio. Peers of another run are marked; the machine may have been in another mood, so that
there both values are those of the fastest repetition.

  host_summary.py --self-test
"""
import argparse
import json
import sys

FIELDS = ["id", "what", "value", "best", "unit", "peer", "peer_value", "ratio", "target", "other_run"]

# id, what, benchmark, counter, scale, unit, peer, the peer's benchmark, target. Values are counters per second; where a
# peer counts something else than the benchmark does, its rate becomes the benchmark's by the counter that both have.
M, G = 1e-6, 1e-9
DOTS = "integer dot products"
ROWS = [
    ("C1", "CLLA int4, 16 heads", "C1/int4", "tokens", M, "Mtoken/s", DOTS, "ceiling/integer-dot", 0.64),
    ("C1-fp32", "CLLA int4, 16 heads", "C1/int4", "tokens", M, "Mtoken/s", "fp32 cache", "C1/fp32", None),
    ("C1-bf16", "CLLA int4, 16 heads", "C1/int4", "tokens", M, "Mtoken/s", "bf16 cache", "C1/bf16", None),
    ("C1-vectors", "CLLA int4, 16 heads, without tiles (AVX-512 alone)", "C1/int4-vectors", "tokens", M, "Mtoken/s", DOTS,
     "ceiling/integer-dot", None),
    ("C1-tiles", "CLLA int4, 16 heads", "C1/int4", "tokens", M, "Mtoken/s", "integer dot products in tiles", "ceiling/tile-dot", None),
    ("C2", "CLLA int4, 128 heads", "C2/heads-128", "tokens", M, "Mtoken/s", DOTS, "ceiling/integer-dot", 0.64),
    ("C2-vectors", "CLLA int4, 128 heads, without tiles (AVX-512 alone)", "C2/heads-128-vectors", "tokens", M, "Mtoken/s",
     DOTS, "ceiling/integer-dot", None),
    ("C2-tiles", "CLLA int4, 128 heads", "C2/heads-128", "tokens", M, "Mtoken/s", "integer dot products in tiles",
     "ceiling/tile-dot", None),
    ("C2-read", "CLLA int4, 1 head", "C2/heads-1", "tokens", M, "Mtoken/s", "reading as much, in the cache",
     "ceiling/read-l3-1", 0.64),
    ("C2-read-long", "CLLA int4, 1 head, 262144 tokens", "C2/heads-1-long", "tokens", M, "Mtoken/s",
     "reading as much, in memory", "ceiling/read-dram-1", 0.64),
    ("C3", "GQA int4", "C3/int4", "tokens", M, "Mtoken/s", DOTS, "ceiling/integer-dot", None),
    ("C3-fp32", "GQA int4", "C3/int4", "tokens", M, "Mtoken/s", "fp32 cache", "C3/fp32", 2.5),
    ("C3-bf16", "GQA int4", "C3/int4", "tokens", M, "Mtoken/s", "bf16 cache", "C3/bf16", 1.5),
    ("C4", "GQA, keys 2 bit per channel, values 2 bit", "C4/channel2", "tokens", M, "Mtoken/s", "GQA int4", "C3/int4",
     1.0),
    ("C4-32", "GQA, keys 2 bit per channel, values 2 bit", "C4/channel2", "tokens", M, "Mtoken/s", "GQA int4, also in groups of 32",
     "C4/int4-32", None),
    ("C4-128", "GQA, the same, in groups of 128", "C4/channel2-128", "tokens", M, "Mtoken/s", "GQA int4", "C3/int4", None),
    ("C5-clla", "CLLA int4, 16 heads, 2 threads", "C5/clla-int4-2-threads", "tokens", M, "Mtoken/s", "1 thread", "C1/int4", 1.85),
    ("C5-gqa", "GQA int4, 2 threads", "C5/int4-2-threads", "tokens", M, "Mtoken/s", "1 thread", "C3/int4", 1.85),
    ("C5-ragged", "CLLA int4, 32,768 tokens and 31 times 256, 2 threads", "C5/clla-int4-long-and-short", "tokens", M,
     "Mtoken/s", "32 times 1,272", "C5/clla-int4-even", None),
    ("C6", "append GQA int4, 2048 rows", "C6/int4", "rows", M, "Mrow/s", "fp32 to bf16 copy", "C6/copy", 0.5),
    ("C6-rotated", "append GQA int4 rotated, 2048 rows", "C6/int4-rotated", "rows", M, "Mrow/s", "fp32 to bf16 copy",
     "C6/copy", 0.3),
    ("C6-bf16", "append GQA bf16, 2048 rows", "C6/bf16", "rows", M, "Mrow/s", "fp32 to bf16 copy", "C6/copy", None),
    ("C6-clla", "append CLLA int4, 2048 rows", "C6/clla-int4", "rows", M, "Mrow/s", "fp32 to bf16 copy", "C6/clla-copy",
     0.5),
    ("C7", "prompt of 2048 rows, GQA 9/3, d 64, int4", "C7/int4", "ops", G, "GFLOP/s", "Eigen's matrix products",
     "C7/eigen", 0.7),
    ("C7-fp32", "prompt of 2048 rows, GQA 9/3, d 64, int4", "C7/int4", "ops", G, "GFLOP/s", "fp32 cache", "C7/fp32", None),
    ("gather-fp32", "gather GQA int4, 2048 rows", "gather/int4", "rows", M, "Mrow/s", "fp32 cache", "gather/fp32", None),
    ("gather-bf16", "gather GQA int4, 2048 rows", "gather/int4", "rows", M, "Mrow/s", "bf16 cache", "gather/bf16", None),
]
CEILINGS = [
    ("read-l3-1", "reading 2.5 MB again and again, 1 thread", "bytes", "GB/s"),
    ("read-l3-2", "the same, 2 threads", "bytes", "GB/s"),
    ("read-dram-1", "reading 256 MB, 1 thread", "bytes", "GB/s"),
    ("read-dram-2", "the same, 2 threads", "bytes", "GB/s"),
    ("integer-dot", "8-bit integer dot products, registers only", "ops", "GOP/s"),
    ("integer-dot-2", "the same, 2 threads", "ops", "GOP/s"),
    ("tile-dot", "8-bit integer dot products in tiles (AMX), registers only", "ops", "GOP/s"),
    ("bf16-dot", "bf16 dot products, registers only", "ops", "GFLOP/s"),
    ("fp32-fma", "fp32 multiply-adds, registers only", "ops", "GFLOP/s"),
]
# Peers that were timed elsewhere: the id of their file, what of ours they are compared with, target by peer.
OTHERS = {
    "C1": ("C1", {}),
    "C2": ("C2", {}),
    "C3": ("C3", {"ggml q4_0": ("C3-ggml", 3.0)}),
    "C8-attention": ("C8-attention", {"llama.cpp q4_0": ("C8-attention", 2.0)}),
    "C8-step": ("C8-step", {"llama.cpp q4_0": ("C8-step", 1.0)}),
}
UNITS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}


def times(benchmark):
    """By name: seconds (median, min), and what one iteration does."""
    found = {}
    for line in benchmark["benchmarks"]:
        if line.get("aggregate_name") not in ("median", "min"):
            continue
        name = line["run_name"].removesuffix("/real_time")
        one = found.setdefault(name, {})
        one[line["aggregate_name"]] = line["real_time"] * UNITS[line["time_unit"]]
        if line["aggregate_name"] == "median":
            one |= {key: line[key] for key in ("tokens", "rows", "ops", "bytes") if key in line}
    return found


def row(**fields):
    for name in ("value", "best", "peer_value", "ratio"):
        if fields.get(name) is not None:
            fields[name] = float(f"{fields[name]:.4g}")
    return {name: fields.get(name) for name in FIELDS}


def summarize(benchmark, engine=(), peers=None):
    found, rows = times(benchmark), []
    for name, what, ours, counter, scale, unit, peer, theirs, target in ROWS:
        if ours not in found:
            continue
        a, b = found[ours], found.get(theirs)
        if b is None and name.endswith(("-fp32", "-bf16", "-tiles")):
            continue  # these are there for their peer
        value = a[counter] / a["median"] * scale
        ratio = None
        if b:
            shared = next(c for c in (counter, "ops", "bytes") if c in a and c in b)
            ratio = (a[shared] / a["median"]) / (b[shared] / b["median"])
        rows.append(row(id=name, what=what, value=value, best=a[counter] / a["min"] * scale, unit=unit,
                        peer=peer if b else None, peer_value=value / ratio if b else None, ratio=ratio, target=target))
    steps = {line["cache"]: line for line in engine}
    for name, field, what in (("C8-attention", "attend_ms", "attention of a token"), ("C8-step", "step_ms", "a token")):
        if "int4" not in steps:
            continue
        for twin in ("fp32", "bf16"):
            if twin in steps:
                rows.append(row(id=f"{name}-{twin}", what=f"engine, int4: {what}", value=steps["int4"][field],
                                best=steps["int4"]["least_" + field], unit="ms", peer=f"{twin} cache",
                                peer_value=steps[twin][field], ratio=steps[twin][field] / steps["int4"][field]))
        rows.append(row(id=name, what=f"engine, int4: {what}", value=steps["int4"][field],
                        best=steps["int4"]["least_" + field], unit="ms"))
    rows = with_peers(rows, peers or {"rows": []})
    for name, what, counter, unit in CEILINGS:
        one = found.get("ceiling/" + name)
        if one:
            rows.append(row(id="ceiling-" + name, what=what, value=one[counter] / one["median"] * G,
                            best=one[counter] / one["min"] * G, unit=unit))
    return rows


def with_peers(rows, peers):
    by_id = {r["id"]: r for r in rows}
    out = list(rows)
    for peer in peers["rows"]:
        ours, targets = OTHERS.get(peer["id"], (None, {}))
        if ours not in by_id:
            continue
        mine = by_id[ours]
        slug = "".join(c if c.isalnum() else "-" for c in peer["peer"]).strip("-")
        name, target = targets.get(peer["peer"], (f"{ours}-{slug}", None))
        ratio = peer["best"] / mine["best"] if mine["unit"] == "ms" else mine["best"] / peer["best"]
        fresh = row(**{**mine, "id": name, "value": mine["best"], "peer": peer["peer"], "peer_value": peer["best"],
                       "ratio": ratio, "target": target, "other_run": True})
        if name == ours:
            out[[r["id"] for r in out].index(name)] = fresh
        else:
            out.insert(max(i for i, r in enumerate(out) if (r["id"] + "-").startswith(ours + "-")) + 1, fresh)
    return out


def idle_share(rows):
    """What two threads reach of twice one thread's integer dot products: 1 where nothing else runs on two cores."""
    value = {r["id"]: r["value"] for r in rows}
    one, two = value.get("ceiling-integer-dot"), value.get("ceiling-integer-dot-2")
    return round(two / (2 * one), 3) if one and two else None


def self_test():
    def line(name, us, least, **counters):
        common = {"run_name": name + "/real_time", "time_unit": "us"}
        return [{**common, **counters, "aggregate_name": "median", "real_time": us},
                {**common, "aggregate_name": "min", "real_time": least},
                {**common, "aggregate_name": "mean", "real_time": 1e9}]
    benchmark = {"benchmarks": [
        *line("C1/int4", 1000, 500, tokens=8000, ops=16e6, bytes=1e6), *line("C1/fp32", 3000, 3000, tokens=8000, ops=1),
        *line("C6/int4", 10, 10, rows=100), *line("C6/copy", 4, 4, rows=100), *line("C4/channel2", 5, 5, tokens=10),
        *line("ceiling/integer-dot", 100, 50, ops=3.2e6), *line("ceiling/integer-dot-2", 125, 50, ops=6.4e6)]}
    engine = [{"cache": "int4", "attend_ms": 2.0, "least_attend_ms": 1.0, "step_ms": 4.0, "least_step_ms": 3.0},
              {"cache": "fp32", "attend_ms": 6.0, "least_attend_ms": 6.0, "step_ms": 8.0, "least_step_ms": 8.0}]
    peers = {"rows": [{"id": "C1", "peer": "x q4", "best": 4.0}, {"id": "C9", "peer": "nobody", "best": 1.0},
                      {"id": "C8-attention", "peer": "llama.cpp q4_0", "best": 2.5}]}
    rows = summarize(benchmark, engine, peers)
    by_id = {r["id"]: r for r in rows}
    good = (
        [r["id"] for r in rows] == ["C1", "C1-fp32", "C1-x-q4", "C4", "C4-32", "C6", "C8-attention-fp32",
                                    "C8-attention", "C8-step-fp32", "C8-step", "ceiling-integer-dot", "ceiling-integer-dot-2"]
        and all(list(r) == FIELDS for r in rows)
        and by_id["C1"]["value"] == 8 and by_id["C1"]["best"] == 16 and by_id["C1"]["ratio"] == 0.5
        and by_id["C1"]["peer_value"] == 16 and by_id["C1-fp32"]["ratio"] == 3 and not by_id["C1"]["other_run"]
        and by_id["C1-x-q4"]["ratio"] == 4 and by_id["C1-x-q4"]["other_run"]
        and by_id["C4"]["peer"] is None and by_id["C4"]["ratio"] is None
        and by_id["C6"]["ratio"] == 0.4 and by_id["C6"]["peer_value"] == 25
        and by_id["C8-attention"]["ratio"] == 2.5 and by_id["C8-attention"]["target"] == 2
        and by_id["C8-attention-fp32"]["ratio"] == 3 and by_id["C8-step"]["peer"] is None
        and by_id["ceiling-integer-dot"]["value"] == 32 and by_id["ceiling-integer-dot"]["best"] == 64
        and idle_share(rows) == 0.8 and idle_share(rows[:3]) is None)
    print("ok" if good else f"BAD: {json.dumps(rows, indent=1)}")
    return 0 if good else 1


def main(arguments):
    if arguments == ["--self-test"]:
        return self_test()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("--device", "--commit", "--date", "--benchmark"):
        parser.add_argument(name, required=True)
    for name in ("--engine", "--peers", "--out"):
        parser.add_argument(name)
    options = parser.parse_args(arguments)

    def read(name):
        with open(name, encoding="utf-8") as file:
            return file.read()
    engine = [json.loads(line) for line in read(options.engine).splitlines()] if options.engine else []
    peers = json.loads(read(options.peers)) if options.peers else None
    rows = summarize(json.loads(read(options.benchmark)), engine, peers)
    if not rows:
        print("host_summary.py: no measurement in these files", file=sys.stderr)
        return 1
    idle = idle_share(rows)
    if idle is not None and idle < 0.9:
        print(f"host_summary.py: two threads reach {idle:.0%} of twice one thread: something else ran on this machine, "
              "and what has two threads suffered", file=sys.stderr)
    head = {"device": options.device, "date": options.date, "commit": options.commit, "idle": idle,
            "peers": {key: peers.get(key) for key in ("date", "versions", "how")} if peers else None}
    text = "{\n" + "".join(f' "{key}": {json.dumps(value)},\n' for key, value in head.items())
    text += ' "rows": [\n' + ",\n".join("  " + json.dumps(r) for r in rows) + "\n ]\n}\n"
    if options.out:
        with open(options.out, "w", encoding="utf-8") as file:
            file.write(text)
    else:
        print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
