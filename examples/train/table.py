# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Every table and plot, and summary.json, from the logs: python table.py [results]. Nothing here is typed in by hand.

    summary.json   one object per run
    tables.md      every run; means and deviations over seeds, with the difference to mha
    rates.svg      held-out loss against learning rate
    curves.svg     training curves of the first seed at its best rate
    positions.svg  held-out loss by position in the window, as difference to mha
"""

import argparse
import json
import math
import os
import sys

IDEAS = ("heads", "head_dim", "latent", "rotary", "slots", "bits", "rotary_bits", "grid", "rotary_grid", "group", "range", "squash", "rotate",
         "stochastic", "reach", "shift", "look_back", "writer", "mix", "gate", "rotary_base", "query_gain", "rotary_gain", "token_table")
EXERCISES = 0.04  # the default share of copying exercises
COLOURS = ("#1b6ca8", "#c8553d", "#3a7d44", "#8f5db7", "#b8860b", "#4a4a4a", "#d16ba5", "#2aa198")


def read(path):
    with open(path) as lines:
        return [json.loads(line) for line in lines]


def plain_config(start):
    from model import SIZES, Config  # only to know which options differ from the block's defaults
    import dataclasses
    return dataclasses.asdict(Config(block=start["variant"], **SIZES[start["size"]]))


def runs(folder):
    found = []
    for base, _, names in sorted(os.walk(folder)):
        for name in sorted(names):
            if not name.endswith(".jsonl"):
                continue
            lines = read(os.path.join(base, name))
            start, end = lines[0], lines[-1]
            if "recipe" not in start:  # a conversion's log (convert.py)
                continue
            ended = end["event"] == "end"
            end = end if ended else {}  # a training loss is no held-out loss
            recipe, config, plain = start["recipe"], start["config"], plain_config(start)
            idea = {k: config[k] for k in IDEAS if k in config and config[k] != (config["bits"] if k == "rotary_bits" else plain[k])}
            idea |= {k: recipe[k] for k in ("grid_from", "grid_full", "fan_in_power", "after") if recipe.get(k)}
            idea |= {k: recipe[k] for k in ("others_rate", "writer_rate") if recipe.get(k, 1) != 1}
            seen = [line for line in lines if line["event"] == "train"]
            found.append(dict(
                name=name[:-len(".jsonl")], variant=start["variant"], size=start["size"], seed=recipe["seed"],
                idea=" ".join(f"{k}={v}" for k, v in idea.items()), parameters=start["parameters"],
                tokens=seen[-1]["tokens"] if seen else 0, tokens_wanted=start["steps"] * start["batch_tokens"],
                learning_rate=recipe["rate"], exercises=recipe.get("exercises", EXERCISES), bytes_per_token_per_layer=start["bytes_per_token_per_layer"],
                share_of_mha=start["share_of_mha"], loss=end.get("loss"), copy=end.get("copy"),
                passkey=end.get("passkey"), spikes=end.get("spikes"), seconds=end.get("seconds"),
                finished=ended and end["finished"], diverged=ended and end["diverged"],
                data=start["data"], recipe="".join(f", {words}" for words, used in (
                    ("every row once per epoch", recipe.get("epochs")), ("numbers", recipe.get("numbers")),
                    (f"exercises falling by {recipe.get('exercises_fall', 0):.0%}", recipe.get("exercises_fall")),
                    ("muon", recipe.get("optimizer") == "muon")) if used),
                device=start["device"], date=start["date"], by_position=end.get("by_position"), curve=[
                    (line["tokens"], line["loss"]) for line in seen]))
    return found


def mean(values):
    return sum(values) / len(values)


def deviation(values):
    """Of a sample; None for one value."""
    if len(values) < 2:
        return None
    return math.sqrt(sum((v - mean(values)) ** 2 for v in values) / (len(values) - 1))


def source(run):
    """What runs must share to be compared, beside size and tokens: the data, and how it was learned from."""
    return run["data"][:6] + run["recipe"]


def groups(all_runs):
    """Finished runs that differ in nothing but the seed."""
    found = {}
    for run in all_runs:
        if run["finished"]:
            key = (run["size"], run["tokens"], run["exercises"], source(run), run["variant"], run["idea"], run["learning_rate"])
            alike = found.setdefault(key, [])
            if any(run["seed"] == r["seed"] or run["bytes_per_token_per_layer"] != r["bytes_per_token_per_layer"] for r in alike):
                raise ValueError(f"{alike[0]['name']} and {run['name']} would count as seeds of one another")
            alike.append(run)
    return found


def best(all_runs):
    """(size, tokens, exercises, data, variant, idea) -> its runs at the rate whose seed 0 ended lowest; other seeds have no say."""
    chosen = {}
    for key, some in groups(all_runs).items():
        first, key = [r["loss"] for r in some if r["seed"] == 0], key[:-1]
        if first and (key not in chosen or first[0] < chosen[key][0]):
            chosen[key] = (first[0], some)
    return {key: some for key, (_, some) in chosen.items()}


def reference_of(mine):
    """The mha to be compared with, of {(variant, idea): runs}: of those with the most seeds, the one with the lowest loss."""
    every = [(-len(some), mean([r["loss"] for r in some]), key) for key, some in mine.items() if key[0] == "mha"]
    return mine[min(every)[2]] if every else None


def number(value, form):
    return "" if value is None else format(value, form)


def verdict(mine):
    """The goal, said of this section: clla-int4 within one seed deviation of the best mha, both settled."""
    def candidates(variant):
        return [(mean([r["loss"] for r in some]), deviation([r["loss"] for r in some]), idea, some)
                for (v, idea), some in mine.items()
                if v == variant and len(some) >= 3 and (variant == "mha" or some[0]["share_of_mha"] <= 0.0188)]
    small, full = candidates("clla-int4"), candidates("mha")
    if not small or not full:
        return ["No claim: three seeds of both siblings are not here.", ""]
    (loss, spread, idea, some), (base, base_spread, base_idea, _) = min(small), min(full)
    settled = max(spread, base_spread) <= 0.005
    reached = settled and loss - base <= max(spread, base_spread)
    return [f"clla-int4{' with ' + idea if idea else ''}, {len(some)} seeds, minus mha{' with ' + base_idea if base_idea else ''}: "
            f"{loss - base:+.4f} nats; seed deviations {spread:.4f} and {base_spread:.4f}. "
            + ("**Within seed noise.**" if reached else "**Not within seed noise.**" if settled else
               "**Not settled** (a deviation above 0.005), so no claim is made."), ""]


def tables(all_runs):
    out = ["# Trained caches", "", "Made by `python table.py` from the logs beside this file; loss in nats per token on "
           "held-out documents. A row compares only with rows of its own section, 'minus mha' with the mha that has most "
           "seeds there, and of those the best.", ""]
    chosen = best(all_runs)
    lowest = {}  # sections of the same size and tokens: the best first
    for key, some in chosen.items():
        lowest[key[:4]] = min(lowest.get(key[:4], math.inf), mean([r["loss"] for r in some]))
    for size, tokens, exercises, data in sorted({key[:4] for key in chosen}, key=lambda k: (-k[1], k[0], lowest[k])):
        mine = {key[4:]: some for key, some in chosen.items() if key[:4] == (size, tokens, exercises, data)}
        reference = reference_of(mine)
        out += [f"## {size}, {tokens / 1e6:.1f} M tokens, copying exercises in {100 * exercises:g} % of the rows, "
                f"data {data}; each at its best rate of those tried", "", *verdict(mine),
                "| cache | idea | parameters | bytes per token and layer | share of MHA | rate | seeds | loss | deviation |"
                " minus mha | same seeds | copy | passkey |", "|---|---|---|---|---|---|---|---|---|---|---|---|---|"]
        for (variant, idea), some in sorted(mine.items(), key=lambda kv: mean([r["loss"] for r in kv[1]])):
            losses = [r["loss"] for r in some]
            gap = paired = None
            if reference:
                gap = mean(losses) - mean([r["loss"] for r in reference])
                by_seed = {r["seed"]: r["loss"] for r in reference}
                pairs = [r["loss"] - by_seed[r["seed"]] for r in some if r["seed"] in by_seed]
                paired = mean(pairs) if pairs else None
            keys = [r["passkey"] for r in some if r["passkey"] is not None]
            out.append(f"| {variant} | {idea} | {some[0]['parameters'] / 1e6:.3f} M | {some[0]['bytes_per_token_per_layer']:.4g} "
                       f"| {100 * some[0]['share_of_mha']:.3f} % | {some[0]['learning_rate']:g} | {len(some)} | {mean(losses):.4f} "
                       f"| {number(deviation(losses), '.4f')} | {number(gap, '+.4f')} | {number(paired, '+.4f')} "
                       f"| {mean([r['copy'] for r in some]):.3f} | {number(mean(keys) if keys else None, '.3f')} |")
        out.append("")
    out += ["## Every run", "", "| size | cache | idea | exercises | tokens | rate | seed | loss | copy | passkey | spikes | seconds | "
            "end |", "|---|---|---|---|---|---|---|---|---|---|---|---|---|"]
    for r in sorted(all_runs, key=lambda r: (r["size"], r["variant"], r["idea"], -r["exercises"], r["tokens_wanted"], r["learning_rate"], r["seed"])):
        end = "finished" if r["finished"] else "diverged" if r["diverged"] else "stopped early"
        out.append(f"| {r['size']} | {r['variant']} | {r['idea']} | {100 * r['exercises']:g} % | {r['tokens'] / 1e6:.1f} M | {r['learning_rate']:g} | {r['seed']} "
                   f"| {number(r['loss'], '.4f')} | {number(r['copy'], '.3f')} | {number(r['passkey'], '.3f')} "
                   f"| {number(r['spikes'], 'd')} | {number(r['seconds'], '.0f')} | {end} |")
    devices = sorted({f"{r['device']}, {r['date']}" for r in all_runs})
    out += ["", "Run on " + "; ".join(devices) + ". Seconds are those of training alone, with several runs side by side.", ""]
    return "\n".join(out)


# --------------------------------------------------------------------------------------------------- plots, as plain SVG


def ticks(low, high, wanted=5):
    step = 10 ** math.floor(math.log10((high - low) / wanted))
    step *= min((1, 2, 5, 10), key=lambda m: abs((high - low) / (m * step) - wanted))
    first = math.ceil(low / step - 1e-9) * step
    return [first + i * step for i in range(int((high - first) / step + 1e-9) + 1)]


def plot(path, title, series, across, up, log_x=False, limit=None):
    """series: {name: [(x, y)]}"""
    series = {k: [(math.log10(x) if log_x else x, y) for x, y in v] for k, v in series.items() if v}
    if not series:
        return
    xs = [x for v in series.values() for x, _ in v]
    ys = [y for v in series.values() for _, y in v if limit is None or y <= limit]
    low_x, high_x, low_y, high_y = min(xs), max(xs), min(ys), max(ys)
    high_x, high_y = (high_x if high_x > low_x else low_x + 1), (high_y if high_y > low_y else low_y + 1)
    left, top, width, height = 70, 40, 560, 320
    place = lambda x, y: (left + (x - low_x) / (high_x - low_x) * width, top + (high_y - min(y, high_y)) / (high_y - low_y) * height)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 860 420" font-family="sans-serif" font-size="12">',
           '<rect width="860" height="420" fill="white"/>', f'<text x="{left}" y="22" font-size="15">{title}</text>']
    for y in ticks(low_y, high_y):
        py = place(low_x, y)[1]
        out.append(f'<path d="M{left} {py:.1f}H{left + width}" stroke="#ddd"/><text x="{left - 6}" y="{py + 4:.1f}" text-anchor="end">{y:.4g}</text>')
    marks = sorted(set(xs)) if log_x else ticks(low_x, high_x)
    for x in marks:
        px = place(x, low_y)[0]
        out.append(f'<text x="{px:.1f}" y="{top + height + 18}" text-anchor="middle">{(10 ** x if log_x else x):.3g}</text>')
    out.append(f'<text x="{left + width / 2}" y="{top + height + 38}" text-anchor="middle">{across}</text>')
    out.append(f'<text transform="translate(16 {top + height / 2}) rotate(-90)" text-anchor="middle">{up}</text>')
    for i, (name, points) in enumerate(series.items()):
        colour, dash = COLOURS[i % len(COLOURS)], "" if i < len(COLOURS) else ' stroke-dasharray="5 3"'
        line = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in points)
        out.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.8"{dash}/>')
        if len(points) < 8:
            out += ['<circle cx="{:.1f}" cy="{:.1f}" r="3" fill="{}"/>'.format(*place(x, y), colour) for x, y in points]
        out.append(f'<path d="M{left + width + 14} {top + 10 + 18 * i}h18" stroke="{colour}" stroke-width="2"{dash}/>'
                   f'<text x="{left + width + 38}" y="{top + 14 + 18 * i}">{name}</text>')
    out.append("</svg>")
    with open(path, "w") as file:
        file.write("\n".join(out) + "\n")


def label(variant, idea):
    return variant + (" +" if idea else "")


def settled_rates(runs_of_size):
    """{label: [(rate, loss of seed 0)]} of the section with the lowest loss among those where both siblings have three rates."""
    sections = {}
    for r in runs_of_size:
        if r["finished"] and r["seed"] == 0:
            section = sections.setdefault((r["tokens"], r["exercises"], source(r)), {})
            section.setdefault((r["variant"], r["idea"]), []).append((r["learning_rate"], r["loss"]))
    swept = [{key: sorted(points) for key, points in section.items() if len(points) >= 3} for section in sections.values()]
    swept = [some for some in swept if {"mha", "clla-int4"} <= {variant for variant, _ in some}]
    if not swept:
        return {}
    lowest = min(swept, key=lambda some: min(loss for points in some.values() for _, loss in points))
    return {label(variant, idea) + (" squash" if "squash" in idea else ""): points for (variant, idea), points in sorted(lowest.items())}


def plots(folder, all_runs):
    """Of the plain blocks; and of the settled recipe, by position."""
    for size in sorted({r["size"] for r in all_runs}):
        here = [r for r in all_runs if r["size"] == size and not r["idea"] and r["exercises"] == EXERCISES]
        chosen = {key[4]: some for key, some in best(here).items()}
        order = sorted(chosen)
        rates = {v: sorted((r["learning_rate"], r["loss"]) for r in here
                           if r["finished"] and r["variant"] == v and r["seed"] == 0) for v in order}
        lowest = min((y for v in rates.values() for _, y in v), default=0)
        plot(os.path.join(folder, f"rates-{size}.svg"), f"{size}: held-out loss by learning rate, seed 0",
             {k: v for k, v in rates.items() if len(v) > 1}, "learning rate", "nats per token", log_x=True, limit=lowest + 0.5)
        plot(os.path.join(folder, f"rates-{size}-settled.svg"), f"{size}: held-out loss by learning rate, seed 0, the settled recipe",
             settled_rates([r for r in all_runs if r["size"] == size]), "learning rate", "nats per token", log_x=True)
        seeded = {key: some for key, some in best([r for r in all_runs if r["size"] == size]).items()
                  if key[2] != EXERCISES and len(some) >= 2}
        longest = max((key[1:4] for key in seeded if key[4] == "mha"), default=None)  # the section that the goal is judged by
        every = {label(*key[4:]): some for key, some in seeded.items() if key[1:4] == longest}
        every |= {"mha": every.pop("mha +")} if "mha" not in every and "mha +" in every else {}
        for end, of in (("", chosen), ("-settled", every)):
            late = {v: [(t / 1e6, loss) for t, loss in some[0]["curve"][len(some[0]["curve"]) // 10:]]
                    for v, some in sorted(of.items())}
            plot(os.path.join(folder, f"curves-{size}{end}.svg"), f"{size}: training loss, seed 0", late,
                 "million tokens", "nats per token")
            if "mha" not in of:
                continue
            by = {v: [mean(column) for column in zip(*(r["by_position"] for r in some))] for v, some in of.items()}
            step = 1 / len(by["mha"])
            differences = {v: [((i + 0.5) * step, y - by["mha"][i]) for i, y in enumerate(by[v])] for v in sorted(of) if v != "mha"}
            plot(os.path.join(folder, f"positions-{size}{end}.svg"), f"{size}: held-out loss minus mha's, by position",
                 differences, "position in the window, as a share of it", "nats per token")


def write(folder):
    all_runs = runs(folder)
    with open(os.path.join(folder, "summary.json"), "w") as out:
        rows = [{k: v for k, v in r.items() if k not in ("curve", "by_position")} for r in all_runs]
        out.write("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    with open(os.path.join(folder, "tables.md"), "w") as out:
        out.write(tables(all_runs))
    plots(folder, all_runs)
    return all_runs


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "results"))
    folder = parser.parse_args().folder
    print(f"{len(write(folder))} runs -> {folder}/summary.json, tables.md and plots")
    return 0


if __name__ == "__main__":
    sys.exit(main())
