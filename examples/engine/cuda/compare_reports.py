#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Whether two reports of the same model, text and windows agree: the host's and a GPU's.

  compare_reports.py HOST.json DEVICE.json
  compare_reports.py --self-test

Bytes are equal. Perplexity and KL differ by what arithmetic in another order does: the host takes packed codes in 8
bits and all else in fp32; on a GPU the products of attention are bf16 with fp32 sums, which moves the output of a cache
of 16 bits or less by about as much as its last stored bit. Where that flips a code, the runs go on with other
roundings: two draws of the cache's own noise. A KL of k from the fp32 cache is a variance of about 2 k in a token's
log-probability, so that the logarithms of two perplexities over n tokens differ by sqrt(4 k / n); three times that is
allowed. The share of tokens whose first choice is the fp32 cache's may differ by 0.01: coarse caches can miss that by
the draw alone. Exit 0: they agree, 1: they do not, 2: wrong use.
"""
import copy
import json
import math
import sys

# Of the perplexity, relative, beside its noise; of the KL, relative and in nats: bf16 alone is a KL of about 4e-5.
PERPLEXITY, KL_RELATIVE, KL_NATS, TOP1 = 2e-3, 0.1, 2e-4, 0.01


def differences(host, device):
    for key in ("model", "text", "calibration"):
        if host[key] != device[key]:
            yield f"'{key}' differs: these reports are not of the same work"
    tokens = host["text"]["windows"] * (host["text"]["window"] - 1)
    theirs = {cache["name"]: cache for cache in device["caches"]}
    ours = [cache for cache in host["caches"] if cache["name"] != "exact"]  # that one is on the host alone
    if [cache["name"] for cache in ours] != list(theirs):
        yield "the caches are not the same"
        return
    for a in ours:
        b = theirs[a["name"]]

        def sentence(key):
            return f"{a['name']}: {key} is {a[key]} on the host and {b[key]} on the device"

        for key in ("page_bytes", "tail_bytes"):
            if a[key] != b[key]:
                yield sentence(key)
        noise = 3 * math.sqrt(4 * max(a["kl"], 0) / tokens)
        if abs(math.log(b["perplexity"] / a["perplexity"])) > PERPLEXITY + noise:
            yield sentence("perplexity")
        if abs(a["kl"] - b["kl"]) > KL_NATS + KL_RELATIVE * abs(a["kl"]):
            yield sentence("kl")
        if abs(a["top1"] - b["top1"]) > TOP1:
            yield sentence("top1")
        if a.get("passkey_found") != b.get("passkey_found"):
            yield f"{a['name']}: passkeys {a.get('passkey_found')} on the host and {b.get('passkey_found')} on the device"


def table(host, device):
    theirs = {cache["name"]: cache for cache in device["caches"]}
    print(f"{'cache':22} {'perplexity':>11} {'device':>11} {'KL':>9} {'device':>9} {'top-1':>7} {'device':>7}"
          f" {'us/token':>9} {'device':>9}")
    for a in host["caches"]:
        if a["name"] not in theirs:
            continue
        b = theirs[a["name"]]
        print(f"{a['name']:22} {a['perplexity']:11.4f} {b['perplexity']:11.4f} {a['kl']:9.5f} {b['kl']:9.5f}"
              f" {a['top1']:7.4f} {b['top1']:7.4f} {a['speed']['decode_attend_microseconds']:9.1f}"
              f" {b['speed']['decode_attend_microseconds']:9.1f}")


def self_test():
    cache = {"name": "int4", "page_bytes": 10, "tail_bytes": 0, "perplexity": 10.0, "kl": 0.01, "top1": 0.9,
             "passkey_found": [True]}
    report = {"model": {}, "text": {"window": 2048, "windows": 1}, "calibration": None, "caches": [cache]}
    wrong = list(differences(report, copy.deepcopy(report)))
    for key, value in {"page_bytes": 11, "tail_bytes": 1, "perplexity": 10.3, "kl": 0.012, "top1": 0.88,
                       "passkey_found": [False], "name": "int8"}.items():
        other = copy.deepcopy(report)
        other["caches"][0][key] = value
        if not list(differences(report, other)):
            wrong.append(f"a change of {key} was not noticed")
    print("\n".join(wrong) or "ok")
    return 1 if wrong else 0


def main(arguments):
    if arguments == ["--self-test"]:
        return self_test()
    if len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    host, device = (json.load(open(path, encoding="utf-8")) for path in arguments)
    table(host, device)
    found = list(differences(host, device))
    print("\n".join(["", *found, f"{len(found)} differences"]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
