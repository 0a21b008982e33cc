# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Trains one model and writes one log of JSON lines.

    python train.py --data DIR --out DIR --block clla-int4 --size small --rate 2e-3 --tokens 65e6 --seed 0

The run is a function of its options: batch i of seed s is the same rows for every block, so siblings see the same text in
the same order. A stopped run (also one stopped by SIGTERM or by --deadline) leaves a checkpoint beside its log and goes on
from there when the same command is given again. A run that diverges ends as such in its log; it is not hidden.
"""

import argparse
import dataclasses
import datetime
import functools
import hashlib
import json
import math
import os
import signal
import sys
import time

import torch

import data
import evaluate
from model import BLOCKS, SIZES, Config, Model, filled, parameters

BATCH_TOKENS = {"tiny": 512, "nano": 1024, "mini": 32768, "small": 32768, "medium": 65536, "large": 65536}


@dataclasses.dataclass
class Recipe:
    """How to train; all siblings share it but for `rate`."""
    tokens: float = 65e6
    rate: float = 2e-3
    seed: int = 0
    warm_up: float = 0.1  # share of the steps; then the rate falls linearly to zero
    weight_decay: float = 0.1
    clip: float = 1.0
    optimizer: str = "adamw"  # or muon: orthogonalised momentum for the matrices between embedding and logits
    exercises: float = 0.04  # share of rows with a span of random tokens that occurs twice: copying is learned earlier
    exercises_fall: float = 0.0  # how much of that share is gone by the end; it falls linearly
    numbers: bool = False  # half of those rows have notes with numbers instead, each of which comes again
    others_rate: float = 1.0  # of the rate, for what Muon leaves to AdamW: the embedding and the norms' weights
    writer_rate: float = 1.0  # of the rate, for the matrices that make what is stored
    fan_in_power: float = 0.0  # Muon's steps times (width / columns) to this power: 0.5 makes outputs move alike
    epochs: bool = False  # every row of the text once per epoch, in random order, instead of rows from random places
    grid_from: float = 0.0  # quantization is blended in between these shares of the steps
    grid_full: float = 0.0


def rate_at(step, steps, recipe):
    warm = max(1, round(recipe.warm_up * steps))
    return recipe.rate * min((step + 1) / warm, (steps - step) / max(1, steps - warm))


def strength_at(step, steps, recipe):
    share = step / steps
    if share >= recipe.grid_full:
        return 1.0
    return max(0.0, (share - recipe.grid_from) / (recipe.grid_full - recipe.grid_from))


@functools.lru_cache(maxsize=2)
def epoch_order(epoch, rows, context, seed):
    """Where the rows of an epoch start, in its order: side by side, from a random first place."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) ^ 0x5EED)
    first = torch.randint(0, context, (), generator=generator)
    return first + context * torch.randperm(rows, generator=generator)


def starts_at(step, tokens, rows, context, seed):
    in_epoch = (tokens - 1) // context - 1  # whatever the first place is, so many rows fit
    places = range(step * rows, (step + 1) * rows)
    return torch.stack([epoch_order(i // in_epoch, in_epoch, context, seed)[i % in_epoch] for i in places])


def write_notes(row, digits, vocabulary, generator):
    """Four notes of three random tokens and a number, in any order in the front of the row, and in any order again behind: what
    finding a number by what stood before it takes, in any words. digits: codes of a space and of 0 to 9."""
    if len(row) < 8 * 16:
        raise ValueError(f"exercises with numbers want a context of 128 tokens, not {len(row) - 1}")
    cells = torch.randperm(len(row) // 16, generator=generator)[:8].sort().values * 16
    names = torch.randint(1, vocabulary, (4, 3), generator=generator)
    numbers = digits[1 + torch.randint(0, 10, (4, 5), generator=generator)]
    notes = torch.cat((names, digits[:1].expand(4, 1), numbers), 1).to(row.dtype)
    order = torch.cat((torch.arange(4), torch.randperm(4, generator=generator)))
    for cell, note in zip(cells.tolist(), order.tolist()):
        row[cell:cell + notes.shape[1]] = notes[note]


def exercises_at(step, steps, recipe):
    return recipe.exercises * (1 - recipe.exercises_fall * step / steps)


def batch_at(step, steps, text, rows, config, recipe, digits=None):
    """Rows of context + 1 tokens from random places, some with a copying exercise written over them."""
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    length = config.context + 1
    starts = torch.randint(0, len(text) - length, (rows,), generator=generator)
    if recipe.epochs:
        starts = starts_at(step, len(text), rows, config.context, recipe.seed)
    chance = torch.rand(rows, generator=generator).tolist()
    exercises = exercises_at(step, steps, recipe)
    written = torch.full((rows, length), -1, dtype=torch.int16)
    for row in range(rows):
        if recipe.numbers and chance[row] < exercises / 2:
            write_notes(written[row], digits, config.vocabulary, generator)
        elif chance[row] < exercises:
            n = int(torch.randint(8, length // 8 + 1 if length < 512 else 65, (), generator=generator))
            first = int(torch.randint(0, length - 2 * n, (), generator=generator))
            again = int(torch.randint(first + n, length - n + 1, (), generator=generator))
            span = torch.randint(1, config.vocabulary, (n,), generator=generator)
            written[row, first:first + n] = written[row, again:again + n] = span
    if text.is_cuda:  # pinned memory is copied while the host goes on
        starts, written = starts.pin_memory(), written.pin_memory()
    starts, written = (x.to(text.device, non_blocking=True) for x in (starts, written))
    read = text[starts[:, None] + torch.arange(length, device=text.device)]
    return torch.where(written < 0, read, written).long()


def run_name(size, config, recipe):
    """Short and unique: what differs from the block's defaults is spelled out."""
    plain = Config(block=config.block, **SIZES[size])
    extra = [f"{k}={v}" for k, v in dataclasses.asdict(config).items()
             if k != "feed_forward" and v != getattr(plain, k) and not (k == "rotary_bits" and v == config.bits)]
    changed = {f.name: getattr(recipe, f.name) for f in dataclasses.fields(recipe)
               if f.name not in ("tokens", "rate", "seed") and getattr(recipe, f.name) != f.default}
    extra += [k if v is True else f"{k}={v}" if isinstance(v, str) else f"{k}={v:g}" for k, v in changed.items()]
    words = [size, config.block, f"{recipe.tokens / 1e6:g}M", f"r{recipe.rate:g}", f"s{recipe.seed}", *extra]
    return "-".join(words).replace("True", "1")


def optimizers_of(model, recipe, device):
    if recipe.optimizer not in ("adamw", "muon"):
        raise ValueError(f"unknown optimizer {recipe.optimizer!r}: adamw or muon")
    if recipe.optimizer == "adamw" and recipe.others_rate != 1:
        raise ValueError("others_rate is for what Muon leaves to AdamW: with adamw there are no others")
    muon = recipe.optimizer == "muon"
    if not muon and recipe.fan_in_power:
        raise ValueError("fan_in_power is for Muon's steps")
    matrices = {}  # by their share of the rate
    for name, p in model.named_parameters():
        if p.dim() == 2 and name != "embedding.weight":
            share = recipe.writer_rate if {"down", "write", "key_value"} & set(name.split(".")) else 1.0
            share *= (model.config.width / p.shape[1]) ** recipe.fan_in_power
            matrices.setdefault(share, []).append(p)
    matrices = [dict(params=some, weight_decay=recipe.weight_decay, share=share) for share, some in matrices.items()]
    vectors = [p for p in model.parameters() if p.dim() != 2]
    groups = [dict(params=[model.embedding.weight], weight_decay=recipe.weight_decay, share=recipe.others_rate),
              dict(params=vectors, weight_decay=0.0, share=recipe.others_rate)] + ([] if muon else matrices)
    adamw = torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.95), eps=1e-8, fused=device == "cuda")
    # Muon's steps scaled to the size of AdamW's (Liu et al. 2025, "Muon is scalable for LLM training", equation 4).
    return [adamw] + ([torch.optim.Muon(matrices, lr=recipe.rate, adjust_lr_fn="match_rms_adamw")] if muon else [])


class Stop:
    """Set by SIGTERM, or when the deadline has passed: finish the step, save, leave."""

    def __init__(self, deadline):
        self.asked, self.deadline = False, deadline
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "asked", True))

    def __bool__(self):
        return self.asked or time.time() > self.deadline


def train(size, config, recipe, options):
    device = options.device
    if device == "cuda":
        torch.set_num_threads(1)  # small host work; with threads, runs side by side wait for one another (ten times slower)
    torch.manual_seed(recipe.seed)
    torch.set_float32_matmul_precision("high")
    config = filled(config)
    model = Model(config).to(device)
    name = run_name(size, config, recipe)
    log_path, checkpoint = (os.path.join(options.out, name + end) for end in (".jsonl", ".checkpoint"))
    os.makedirs(options.out, exist_ok=True)

    optimizers = optimizers_of(model, recipe, device)
    text = torch.from_numpy(data.load(options.data, "train")).to(device)
    digits = torch.tensor(data.digits(options.data)) if recipe.numbers else None
    batch_tokens = options.batch_tokens or BATCH_TOKENS[size]
    rows = batch_tokens // config.context
    steps = math.ceil(recipe.tokens / (rows * config.context))

    start, seconds, lines, spikes, average, window = 0, 0.0, [], 0, None, []
    if os.path.exists(checkpoint):
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved_state in zip(optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved_state)
        start, seconds, spikes, average, lines, window = (
            state[k] for k in ("step", "seconds", "spikes", "average", "lines", "window"))
    else:
        lines = [dict(event="start", size=size, variant=config.block, config=dataclasses.asdict(config),
                      recipe=dataclasses.asdict(recipe), parameters=parameters(config), steps=steps,
                      batch_tokens=rows * config.context, bytes_per_token_per_layer=config.bytes_per_token_per_layer(),
                      share_of_mha=config.share_of_mha(), torch=str(torch.__version__),
                      device=torch.cuda.get_device_name() if device == "cuda" else "cpu",
                      date=datetime.date.today().isoformat(), data=checksum(options.data))]

    def write_log():
        with open(log_path + ".part", "w") as out:
            out.writelines(json.dumps(line) + "\n" for line in lines)
        os.replace(log_path + ".part", log_path)

    def save(step):
        torch.save(dict(model=model.state_dict(), optimizers=[o.state_dict() for o in optimizers], step=step, seconds=seconds,
                        spikes=spikes, average=average, lines=lines, window=window), checkpoint + ".part")
        os.replace(checkpoint + ".part", checkpoint)

    loss_of = torch.compile(model.loss) if options.compile else model.loss
    stop = Stop(options.deadline)
    every = max(1, steps // 50)
    since = saved = time.time()
    for step in range(start, steps):
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = rate_at(step, steps, recipe) * group.get("share", 1.0)
        for quantizer in model.quantizers() if recipe.grid_full > 0 else ():
            quantizer.strength.fill_(strength_at(step, steps, recipe))
        batch = batch_at(step, steps, text, rows, config, recipe, digits)
        with torch.autocast(device, torch.bfloat16, enabled=options.bf16):
            loss = loss_of(batch)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        for optimizer in optimizers:
            optimizer.step()
        model.zero_grad(set_to_none=True)
        window.append(loss.detach())
        if (step + 1) % every == 0 or step + 1 == steps:
            losses = torch.stack(window).tolist()  # the only place where the host waits for the device
            now = time.time()
            seconds, since, window = seconds + now - since, now, []
            for value in losses:  # a spike: a step far above the running mean
                spikes += average is not None and value > average + 0.5
                average = value if average is None else 0.98 * average + 0.02 * value
            mean = sum(losses) / len(losses)
            lines.append(dict(event="train", step=step + 1, tokens=(step + 1) * rows * config.context,
                              loss=round(mean, 5), worst=round(max(losses), 4), norm=round(float(norm), 4),
                              seconds=round(seconds, 2)))
            if options.progress:
                print(f"{name}  {step + 1}/{steps}  loss {mean:.4f}  norm {float(norm):.2f}  {seconds:.0f} s", flush=True)
            if not math.isfinite(mean):
                lines.append(dict(event="end", finished=False, diverged=True, seconds=round(seconds, 2)))
                return write_log()
        if (stop or now_and_then(saved, options)) and step + 1 < steps:
            seconds += time.time() - since
            save(step + 1)
            write_log()
            saved = since = time.time()
            if stop:
                print(f"{name}  stopped at step {step + 1} of {steps}; the same command goes on from there", flush=True)
                return None

    for quantizer in model.quantizers():
        quantizer.strength.fill_(1.0)
    result = evaluate.everything(model, options.data, device, options.held_windows or None)
    tail = dict(event="end", finished=True, diverged=False, seconds=round(seconds, 2),
                tokens=steps * rows * config.context, spikes=int(spikes), **result)
    lines.append(tail)
    write_log()
    if options.keep_weights:
        torch.save({k: v.to(torch.bfloat16) for k, v in model.state_dict().items()},
                   os.path.join(options.out, name + ".weights"))
    if os.path.exists(checkpoint):
        os.remove(checkpoint)
    print(f"{name}  held-out loss {result['loss']:.4f}  copy {result['copy']}  passkey {result['passkey']}  "
          f"{config.bytes_per_token_per_layer():g} bytes  {seconds:.0f} s", flush=True)
    return tail


def checksum(folder):
    with open(os.path.join(folder, "data.json"), "rb") as facts:
        return hashlib.sha256(facts.read()).hexdigest()[:16]


def now_and_then(saved, options):
    return time.time() - saved > 60 * options.checkpoint_minutes


def add_fields(parser, kind):
    for field in dataclasses.fields(kind):
        if field.name == "block":
            parser.add_argument("--block", choices=BLOCKS, default="mha")
        elif field.type in (bool, "bool"):
            parser.add_argument("--" + field.name.replace("_", "-"), action="store_true", default=None)
        else:
            parser.add_argument("--" + field.name.replace("_", "-"), type=type(field.default), default=None)


def arguments(words=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="the folder that data.py made")
    parser.add_argument("--out", required=True, help="where logs and checkpoints go")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch-tokens", type=int, default=0)
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction,
                        help="products in bfloat16 (default: on a GPU; also worth it on a CPU with AMX)")
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--quiet", dest="progress", action="store_false")
    parser.add_argument("--keep-weights", action="store_true")
    parser.add_argument("--checkpoint-minutes", type=float, default=3)
    parser.add_argument("--held-windows", type=int, default=0, help="evaluate on so many windows only; 0: all")
    parser.add_argument("--deadline", type=float, default=math.inf, help="stop and save at this time (seconds since 1970)")
    add_fields(parser, Config)
    add_fields(parser, Recipe)
    options = parser.parse_args(words)
    options.bf16 = options.device == "cuda" if options.bf16 is None else options.bf16
    given = {k: v for k, v in vars(options).items() if v is not None}
    chosen = {f.name: given[f.name] for f in dataclasses.fields(Config) if f.name in given}
    config = Config(**(SIZES[options.size] | chosen))
    recipe = Recipe(**{f.name: given[f.name] for f in dataclasses.fields(Recipe) if f.name in given})
    return options, config, recipe


def main():
    options, config, recipe = arguments()
    return 0 if train(options.size, config, recipe, options) else 3  # 3: stopped or diverged, and the log says so


if __name__ == "__main__":
    sys.exit(main())
