# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Runs plans: several small models side by side on one device, each in a process of its own.

    python sweep.py --data DIR --out results/h100 --workers 4 --minutes 9 rates-small seeds-small leads

Runs whose log is complete are skipped; when the minutes are over, whatever still runs saves a checkpoint and stops, and
the same command goes on from there. While one run compiles, the others use the device.
"""

import argparse
import json
import os
import subprocess
import sys
import tarfile
import time

import train
from plans import PLANS

HERE = os.path.dirname(os.path.abspath(__file__))


def words_of(spec):
    words = []
    for key, value in spec.items():
        flag = "--" + key.replace("_", "-")
        words += [flag] if value is True else [flag, str(value)]
    return words


def identity(spec):
    """(name of the log, size, config, recipe) as train.py will have them."""
    _, config, recipe = train.arguments(["--data", "-", "--out", "-", *words_of(spec)])
    return train.run_name(spec.get("size", "small"), train.filled(config), recipe)


def last_line(path):
    if not os.path.exists(path):
        return None
    with open(path) as lines:
        end = json.loads(lines.readlines()[-1])
    return end if end.get("event") == "end" else None


def best_rate(spec, plan, out):
    """None while a run that it depends on has not ended."""
    block = spec.get("like", spec["block"])
    base = [s for s in plan if s.get("rate") != "best" and s["block"] == block and s["size"] == spec["size"]
            and s["tokens"] == spec["tokens"] and s.get("seed", 0) == 0 and set(s) <= {"block", "size", "tokens", "rate", "seed"}]
    ends = [(last_line(os.path.join(out, identity(s) + ".jsonl")), s["rate"]) for s in base]
    if not ends or any(end is None for end, _ in ends):
        return None
    finished = [(end["loss"], rate) for end, rate in ends if end["finished"]]
    return min(finished)[1] if finished else None


def resolved(spec, plan, out):
    spec = dict(spec)
    if spec.get("rate") == "best":
        spec["rate"] = best_rate(spec, plan, out)
        if spec["rate"] is None:
            return None
    spec.pop("like", None)
    return spec


def archive_logs(out, archive):
    with tarfile.open(archive + ".part", "w:gz") as packed:
        for name in sorted(os.listdir(out)):
            if name.endswith(".jsonl"):
                packed.add(os.path.join(out, name), name)
    os.replace(archive + ".part", archive)


def run(plan, data, out, workers=4, minutes=9.0, extra=(), archive=None):
    """`archive`: a .tgz of all logs, rewritten whenever a run has ended, for machines that may go away at any time."""
    os.makedirs(out, exist_ok=True)
    started = time.time()
    deadline = started + 60 * minutes
    waiting, running, ended = list(plan), [], 0
    while waiting or running:
        for process, name, since in list(running):
            if process.poll() is not None:
                running.remove((process, name, since))
                ended += 1
                end = last_line(os.path.join(out, name + ".jsonl"))
                says = "stopped" if end is None else "DIVERGED" if end["diverged"] else f"loss {end['loss']:.4f} " \
                    f"copy {end['copy']} passkey {end['passkey']} spikes {end['spikes']} {end['seconds']:.0f} s"
                print(f"[{time.time() - started:5.0f} s] {name}: {says} ({time.time() - since:.0f} s in all"
                      f"{'' if process.returncode in (0, 3) else f', exit {process.returncode}'}); {len(waiting)} wait", flush=True)
                if archive:
                    archive_logs(out, archive)
                if process.returncode not in (0, 3):
                    with open(os.path.join(out, name + ".err")) as lines:
                        print("".join(lines.readlines()[-6:]), flush=True)
        started_one = False
        for spec in list(waiting):
            if len(running) >= workers or time.time() > deadline - 20:
                break
            ready = resolved(spec, plan, out)
            if ready is None:
                continue
            waiting.remove(spec)
            name = identity(ready)
            if last_line(os.path.join(out, name + ".jsonl")) or any(n == name for _, n, _ in running):
                continue
            command = [sys.executable, os.path.join(HERE, "train.py"), "--data", data, "--out", out,
                       "--deadline", str(deadline), *extra, *words_of(ready)]
            with open(os.path.join(out, name + ".err"), "w") as errors:
                running.append((subprocess.Popen(command, stdout=errors, stderr=errors), name, time.time()))
            started_one = True
        if not running and not started_one:
            break
        time.sleep(0.2)
    print(f"[{time.time() - started:5.0f} s] {ended} runs ended, {len(waiting)} not started", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("plans", nargs="+", choices=PLANS)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--archive", help="a .tgz of the logs, rewritten whenever a run ends")
    parser.add_argument("--list", action="store_true")
    options, extra = parser.parse_known_args()
    plan = [spec for name in options.plans for spec in PLANS[name]]
    if options.list:
        for spec in plan:
            print(" ".join(f"{k}={v}" for k, v in spec.items()))
        return 0
    run(plan, options.data, options.out, options.workers, options.minutes, extra, options.archive)
    return 0


if __name__ == "__main__":
    sys.exit(main())
