# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""An existing model into CLLA's form: a low-rank start from calibration, then healing by distillation.

    python convert.py tokens --model GGUF --data DIR --text jargon.txt --out TOKENS     the texts in the model's own tokens
    python convert.py heal --model GGUF --tokens TOKENS --out RUN.jsonl                 start, fit, distil; logs the curve
    python convert.py table [results/convert]                                           table and plot from the logs

DIR is what data.py made. Two texts judge: `held`, documents of the kind that healing reads but never saw, and `other`, a text
of another kind. Figures: loss in nats per token, KL from the teacher's distribution, share of tokens whose most likely
successor is the teacher's.

Healing has two stages. *Fit*: every layer's attention alone learns to return what the teacher's returns for the teacher's own
input, all layers side by side; nothing is passed on, so errors do not add up. *Distil*: the whole student learns the teacher's
distribution of the next token; all weights move, those that were copied ten times slower.

Beside it, as the yardstick at the same bytes, the teacher with exact rows of fewer tokens: the first four and as many of the
latest as the bytes pay for, once in 16 bit, and once as if 4-bit rows cost nothing.
"""

import argparse
import json
import lzma
import math
import os
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
import torch.utils.checkpoint

import data
import latent_form
import llama
import table
import train

SINKS = 4


# -------------------------------------------------------------------------------------------------------------- texts


def write_tokens(options):
    from tokenizers import Tokenizer
    os.makedirs(options.out, exist_ok=True)
    own, wanted = Tokenizer.from_file(os.path.join(options.data, "tokenizer.json")), llama.tokenizer(options.model)

    def save(name, texts):
        parts = []
        for start in range(0, len(texts), 64):
            parts += [np.array(one.ids + [0], dtype="<u2") for one in wanted.encode_batch(texts[start:start + 64])]
            print(f"{name}: {min(start + 64, len(texts))} of {len(texts)} documents", end="\r", flush=True)
        codes = np.concatenate(parts)
        with lzma.open(os.path.join(options.out, name + ".u16.xz"), "wb", preset=6) as out:
            out.write(codes.tobytes())
        print(f"{name}: {len(texts)} documents, {len(codes)} tokens")

    for split in ("held", "train"):
        codes = data.load(options.data, split)
        ends = np.flatnonzero(codes == data.END)
        documents = [part[:-1].tolist() for part in np.split(codes, ends[:-1] + 1)]
        save(split, own.decode_batch(documents, skip_special_tokens=False))
    with open(options.text, encoding="utf-8", errors="replace") as text:
        save("other", [text.read()])


def tokens_of(folder, name):
    with lzma.open(os.path.join(folder, name + ".u16.xz")) as packed:
        return torch.from_numpy(np.frombuffer(packed.read(), dtype="<u2").astype(np.int32))


def windows_of(text, count, length, skip=4000):
    """Evenly spread windows of length + 1 tokens."""
    room = len(text) - skip - length - 1
    starts = [skip + room * i // max(1, count - 1) for i in range(count)]
    return torch.stack([text[s:s + length + 1] for s in starts]).long()


# -------------------------------------------------------------------------------------------------------------- judge


def judge(model, teacher, windows, device, mask=None):
    """Means over all tokens of the windows: loss, KL from the teacher, agreement on the most likely token."""
    totals, count = torch.zeros(4, dtype=torch.float64), 0
    for window in windows:
        window = window.to(device)[None]
        with torch.no_grad(), torch.autocast(device, torch.bfloat16):
            wanted = teacher(window[:, :-1])[0].float().log_softmax(-1)
            got = model(window[:, :-1], mask)[0].float().log_softmax(-1)
        after = window[0, 1:, None]
        loss, own = -got.gather(1, after).mean(), -wanted.gather(1, after).mean()
        kl = (wanted.exp() * (wanted - got)).sum(-1).mean()
        same = (wanted.argmax(-1) == got.argmax(-1)).float().mean()
        totals += torch.stack((loss, own, kl, same)).double().cpu()
        count += 1
    loss, own, kl, same = (totals / count).tolist()
    return dict(loss=round(loss, 4), teacher=round(own, 4), kl=round(kl, 4), same=round(same, 4))


def window_mask(tokens, kept, device):
    """The first SINKS tokens and the latest kept - SINKS, one's own among them."""
    i = torch.arange(tokens, device=device)
    return (i[None] <= i[:, None]) & ((i[None] < SINKS) | (i[None] > i[:, None] - max(1, kept - SINKS)))


# --------------------------------------------------------------------------------------------------------------- heal


def batch_at(step, text, rows, context, seed):
    """[rows, context + 1] tokens, every row of the text once per epoch."""
    starts = train.starts_at(step, len(text), rows, context, seed).to(text.device)
    return text[starts[:, None] + torch.arange(context + 1, device=text.device)].long()


def fit_loss(student, teacher, tokens):
    """Mean over layers of |student's attention - teacher's|^2 / |teacher's|^2, on the teacher's inputs."""
    seen = [None] * len(teacher.layers)
    hooks = [layer.attention.register_forward_hook(lambda m, args, out, l=l: seen.__setitem__(l, (args[0], out)))
             for l, layer in enumerate(teacher.layers)]
    with torch.no_grad():
        teacher.features(tokens)
    for hook in hooks:
        hook.remove()
    rows, total = [], 0.0
    for layer, (h, wanted) in zip(student.layers, seen):
        got, wanted = layer.attention(h, rows, None)[:, 1:].float(), wanted[:, 1:].float()
        total = total + (got - wanted).square().sum() / wanted.square().sum()
    return total / len(seen)


def distil_loss(student, teacher, tokens, rows_at_once=4, features_of=lambda model: model.features):
    """KL(teacher || student) per token. The logits of few windows at a time, made again for the gradient, or they would fill
    the memory."""
    with torch.no_grad():
        wanted = features_of(teacher)(tokens)
    got = features_of(student)(tokens)

    def part(wanted, got, wanted_words, got_words):
        target = F.linear(wanted, wanted_words.to(wanted.dtype)).float().log_softmax(-1)
        said = F.linear(got, got_words.to(got.dtype)).float().log_softmax(-1)
        return F.kl_div(said, target, reduction="sum", log_target=True)

    words = (teacher.embedding.weight.detach(), student.embedding.weight)
    total = sum(torch.utils.checkpoint.checkpoint(part, w, g, *words, use_reentrant=False)
                for w, g in zip(wanted.split(rows_at_once), got.split(rows_at_once)))
    return total / tokens.numel()


class Curve:
    """The log of a conversion: facts first, then points, written anew with each of them."""

    def __init__(self, options, student, teacher, judged):
        self.options, self.student, self.teacher, self.judged, self.began = options, student, teacher, judged, time.time()
        shape, row = teacher.shape, student.layers[0].attention.writer.row_bytes() / 2
        self.of_row, self.of_own = row, 2 * 2 * shape.kv_heads * shape.head_dim
        facts = {k: getattr(options, k) for k in ("latent", "rotary", "bits", "net", "context", "fit_tokens", "heal_tokens", "rate",
                                                  "fit_rate", "seed", "windows")}
        self.lines = [dict(event="start", model=os.path.basename(options.model), **facts, bytes_per_token_per_layer=row,
                           share_of_own=row / self.of_own, share_of_mha=row / (4 * shape.heads * shape.head_dim),
                           device=torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
                           date=time.strftime("%Y-%m-%d"))]
        print(f"{shape.layers} layers, {row:g} bytes per token and layer: {row / self.of_own:.2%} of the model's own 16-bit "
              f"cache, {self.lines[0]['share_of_mha']:.2%} of MHA's", flush=True)

    def point(self, stage, tokens, model=None, mask=None, **more):
        """`model`: another than the student."""
        self.student.eval()
        figures = {name: judge(model or self.student, self.teacher, windows, self.options.device, mask)
                   for name, windows in self.judged.items()}
        self.student.train()
        seconds = round(time.time() - self.began, 1)
        self.lines.append(dict(event="point", stage=stage, tokens=tokens, seconds=seconds, **more, **figures))
        self.write()
        print(f"[{seconds:5.0f} s] {stage} {tokens / 1e6:.2f} M tokens: " + ", ".join(
            f"{name} loss {f['loss']} (teacher {f['teacher']}) kl {f['kl']} same {f['same']}" for name, f in figures.items()),
            flush=True)

    def end(self, finished):
        self.lines.append(dict(event="end", finished=finished, seconds=round(time.time() - self.began, 1)))
        self.write()

    def write(self):
        path = self.options.out
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with open(path + ".part", "w") as out:
            out.writelines(json.dumps(line) + "\n" for line in self.lines)
        os.replace(path + ".part", path)


def learn(name, loss_of, groups, tokens, options, text, done_at):
    """`groups`: [(parameters, rate)]. `done_at(tokens)` is called after each step. Whether there was time for all tokens."""
    rows = options.batch_tokens // options.context
    steps = math.ceil(tokens / (rows * options.context))
    optimizer = torch.optim.AdamW([dict(params=list(p), lr=r, top=r) for p, r in groups], betas=(0.9, 0.95), weight_decay=0.0,
                                  fused=options.device == "cuda")
    since = time.time()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = train.rate_at(step, steps, train.Recipe(rate=group["top"]))
        with torch.autocast(options.device, torch.bfloat16):
            loss = loss_of(batch_at(step, text, rows, options.context, options.seed)[:, :-1])
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % max(1, steps // 50) == 0 or step + 1 == steps:
            print(f"{name} {step + 1}/{steps}  loss {loss.item():.4f}  {time.time() - since:.0f} s", flush=True)
        done_at((step + 1) * rows * options.context, step + 1 == steps)
        if time.time() > options.deadline and step + 1 < steps:
            print(f"{name}: out of time after {step + 1} of {steps} steps", flush=True)
            done_at((step + 1) * rows * options.context, True)
            return False
    return True


def each_doubling(first, act):
    """A `done_at` that acts at `first` tokens, at twice as many, and so on, and at the end."""
    due = [first]

    def done_at(tokens, is_last):
        if tokens >= due[0] or is_last:
            act(tokens)
        while tokens >= due[0]:
            due[0] *= 2
    return done_at


def start(student, teacher, text, options):
    moments = latent_form.Moments(teacher)
    for row in batch_at(0, text, options.calibration, options.context, options.seed + 1)[:, :-1]:
        moments.add(teacher, row[None])
    latent_form.start(student.to("cpu"), teacher.to("cpu"), moments.cpu())
    student.to(options.device), teacher.to(options.device)


def heal(options):
    torch.manual_seed(options.seed)
    torch.set_float32_matmul_precision("high")
    teacher = llama.read(options.model).to(options.device).eval().requires_grad_(False)
    student = latent_form.student_of(teacher, options.latent, options.rotary, options.bits, options.net).to(options.device)
    text = tokens_of(options.tokens, "train").to(options.device)
    judged = {name: windows_of(tokens_of(options.tokens, name), options.windows, options.context) for name in ("held", "other")}
    curve = Curve(options, student, teacher, judged)
    for stage, row in (("window, 16 bit", curve.of_own), ("window, as if in 4 bit", curve.of_own / 4)):
        kept = int(options.context * curve.of_row / row)
        curve.point(stage, 0, teacher, window_mask(options.context, kept, options.device), kept=kept)
    start(student, teacher, text, options)
    curve.point("start", 0)

    attention = [p for layer in student.layers for p in layer.attention.parameters()]
    finished, fitted = True, 0
    if options.fit_tokens:
        fitted = options.fit_tokens
        finished = learn("fit", lambda batch: fit_loss(student, teacher, batch), [(attention, options.fit_rate)], fitted, options,
                         text, each_doubling(math.inf, lambda tokens: curve.point("fit", tokens)))
    if options.heal_tokens and finished:
        compiled = {id(m): torch.compile(m.features) if options.compile else m.features for m in (teacher, student)}
        own = {id(p) for p in attention}
        groups = [(attention, options.rate), ([p for p in student.parameters() if id(p) not in own], options.rate / 10)]
        finished = learn("distil", lambda batch: distil_loss(student, teacher, batch, features_of=lambda m: compiled[id(m)]),
                         groups, options.heal_tokens, options, text,
                         each_doubling(1e6, lambda tokens: curve.point("distil", fitted + tokens)))
    curve.end(finished)
    if options.keep_weights:
        state = {k: v.to(torch.bfloat16) for k, v in student.state_dict().items()}
        torch.save(state, options.out.removesuffix(".jsonl") + ".weights")
    return 0


# -------------------------------------------------------------------------------------------------------------- table


def write_table(folder):
    """table.md and kl.svg from the logs in a folder."""
    logs = []
    for name in sorted(os.listdir(folder)):
        if name.endswith(".jsonl"):
            with open(os.path.join(folder, name)) as lines:
                logs.append((name[:-len(".jsonl")], [json.loads(line) for line in lines]))
    out = ["# An existing model into CLLA's form", "", "Made by `python convert.py table` from the logs beside this file. KL: nats "
           "per token from the teacher's distribution; same: share of tokens whose most likely successor is the teacher's. *held*: "
           "unseen documents of the kind that healing reads; *other*: another kind of text.", ""]
    series = {}
    for name, lines in logs:
        begin, points = lines[0], [line for line in lines if line["event"] == "point"]
        is_whole = any(line["event"] == "end" and line["finished"] for line in lines)
        out += [f"## {begin['model']}: latent {begin['latent']}, rotary {begin['rotary']}, {begin['bits']} bit", "",
                f"{begin['bytes_per_token_per_layer']:g} bytes per token and layer: {begin['share_of_own']:.2%} of the model's own "
                f"16-bit cache, {begin['share_of_mha']:.2%} of MHA's. {begin['device']}, {begin['date']}"
                f"{'' if is_whole else '; **ended early**'}. The teacher's own loss: held {points[0]['held']['teacher']}, other "
                f"{points[0]['other']['teacher']}.", "",
                "| stage | million tokens | held: loss | KL | same | other: loss | KL | same |",
                "|---|---:|---:|---:|---:|---:|---:|---:|"]
        for one in points:
            kept = f" ({one['kept']} of {begin['context']} tokens)" if "kept" in one else ""
            cells = [f"{one[text]['loss']} | {one[text]['kl']} | {one[text]['same']:.1%}" for text in ("held", "other")]
            out.append(f"| {one['stage']}{kept} | {one['tokens'] / 1e6:.2f} | {' | '.join(cells)} |")
        out.append("")
        title = name if len(logs) > 1 else "healed"
        for text in ("held", "other"):
            healed = [(one["tokens"] / 1e6, one[text]["kl"]) for one in points if one["tokens"]]
            if len(healed) > 1:
                series[f"{title}, {text}"] = healed
                for one in (one for one in points if "kept" in one):
                    series[f"{one['stage']}, {text}"] = [(x, one[text]["kl"]) for x in (healed[0][0], healed[-1][0])]
    with open(os.path.join(folder, "table.md"), "w") as file:
        file.write("\n".join(out))
    if series:
        table.plot(os.path.join(folder, "kl.svg"), "KL from the teacher, by healing", series, "million tokens of healing",
                   "nats per token", log_x=True)
    print(f"{len(logs)} logs -> {folder}/table.md" + (" and kl.svg" if series else ""))
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    does = parser.add_subparsers(dest="what", required=True)
    tokens = does.add_parser("tokens", help="the texts in the model's tokens")
    tokens.add_argument("--data", required=True)
    tokens.add_argument("--text", required=True, help="a text of another kind to judge by")
    healing = does.add_parser("heal", help="start, fit, distil")
    healing.add_argument("--tokens", required=True)
    for one in (tokens, healing):
        one.add_argument("--model", required=True, help="a GGUF file of the Llama architecture")
        one.add_argument("--out", required=True)
    healing.add_argument("--latent", type=int, default=144)
    healing.add_argument("--rotary", type=int, default=18)
    healing.add_argument("--bits", type=int, default=4)
    healing.add_argument("--net", type=int, default=128, help="hidden width of the writer's net; 0: none")
    healing.add_argument("--context", type=int, default=1024)
    healing.add_argument("--batch-tokens", type=int, default=16384)
    healing.add_argument("--calibration", type=int, default=64, help="windows that the start is made from")
    healing.add_argument("--fit-tokens", type=float, default=4e6)
    healing.add_argument("--heal-tokens", type=float, default=32e6)
    healing.add_argument("--fit-rate", type=float, default=1e-3)
    healing.add_argument("--rate", type=float, default=1e-3)
    healing.add_argument("--windows", type=int, default=24, help="to judge by, of each text")
    healing.add_argument("--seed", type=int, default=0)
    healing.add_argument("--deadline", type=float, default=math.inf, help="stop at this time (seconds since 1970)")
    healing.add_argument("--keep-weights", action="store_true")
    healing.add_argument("--no-compile", dest="compile", action="store_false")
    healing.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    tabled = does.add_parser("table", help="table.md and kl.svg from logs")
    tabled.add_argument("folder", nargs="?",
                        default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "results", "convert"))
    options = parser.parse_args()
    if options.what == "table":
        return write_table(options.folder)
    if options.what == "tokens":
        return write_tokens(options)
    return heal(options)


if __name__ == "__main__":
    sys.exit(main())
