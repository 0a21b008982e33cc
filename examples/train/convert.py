# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""An existing model into CLLA's form: a low-rank start from calibration, then healing by distillation.

    python convert.py tokens --model GGUF --data DIR --text jargon.txt --out TOKENS     the texts in the model's own tokens
    python convert.py heal --model GGUF --tokens TOKENS --out RUN.jsonl                 start, fit, distil; logs the curve
    python convert.py table [results/convert]                                           table and plot from the logs

DIR is what data.py made. Two texts judge: `held`, documents of the kind that healing reads but never saw, and `other`, a text
of another kind. Figures: loss in nats per token, KL from the teacher's distribution, share of tokens whose most likely successor is
the teacher's.

Healing has two stages. *Fit*: every layer's attention alone learns to return what the teacher's returns for the teacher's own
input, all layers side by side; nothing is passed on, so errors do not add up. *Distil*: the whole student learns the teacher's
distribution of the next token; all weights move, those that were copied ten times slower.

Beside it, as the yardstick at the same bytes, the teacher with exact rows of fewer tokens: the first four and as many of the latest
as the bytes pay for, once in 16 bit, and once as if 4-bit rows cost nothing.
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
        save(split, own.decode_batch([part[:-1].tolist() for part in np.split(codes, ends[:-1] + 1)], skip_special_tokens=False))
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
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    starts = torch.randint(0, len(text) - context - 1, (rows,), generator=generator).to(text.device)
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


def rate_at(step, steps, warm):
    return min((step + 1) / warm, (steps - step) / max(1, steps - warm))


def learn(name, loss_of, groups, tokens, options, text, after, before_next):
    """`groups`: (parameters, rate). `after(done)` is called where `before_next` says that a point of the curve is due."""
    rows = options.batch_tokens // options.context
    steps = math.ceil(tokens / (rows * options.context))
    optimizer = torch.optim.AdamW([dict(params=list(p), lr=r, top=r) for p, r in groups], betas=(0.9, 0.95), weight_decay=0.0,
                                  fused=options.device == "cuda")
    since = time.time()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = group["top"] * rate_at(step, steps, max(1, min(100, steps // 10)))
        with torch.autocast(options.device, torch.bfloat16):
            loss = loss_of(batch_at(step, text, rows, options.context, options.seed)[:, :-1])
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % max(1, steps // 50) == 0 or step + 1 == steps:
            print(f"{name} {step + 1}/{steps}  loss {loss.item():.4f}  {time.time() - since:.0f} s", flush=True)
        if before_next((step + 1) * rows * options.context) or step + 1 == steps:
            after(name, (step + 1) * rows * options.context)
        if time.time() > options.deadline:
            print(f"{name}: out of time after {step + 1} of {steps} steps", flush=True)
            return (step + 1) * rows * options.context, False
    return steps * rows * options.context, True


def heal(options):
    torch.manual_seed(options.seed)
    torch.set_float32_matmul_precision("high")
    device, began = options.device, time.time()
    teacher = llama.read(options.model).to(device).eval().requires_grad_(False)
    shape = teacher.shape
    train = tokens_of(options.tokens, "train").to(device)
    judged = {name: windows_of(tokens_of(options.tokens, name), options.windows, options.context) for name in ("held", "other")}
    student = latent_form.student_of(teacher, options.latent, options.rotary, options.bits, options.net).to(device)
    writer = student.layers[0].attention.writer
    per_token_layer, whole = writer.row_bytes() / 2, 2 * 2 * shape.kv_heads * shape.head_dim
    print(f"{shape.layers} layers, {per_token_layer:g} bytes per token and layer: {100 * per_token_layer / whole:.2f} % of the model's own 16-bit "
          f"cache, {100 * per_token_layer / (4 * shape.heads * shape.head_dim):.2f} % of MHA's", flush=True)

    lines = [dict(event="start", model=os.path.basename(options.model), latent=options.latent, rotary=options.rotary, bits=options.bits,
                  net=options.net, context=options.context, bytes_per_token_per_layer=per_token_layer, share_of_own=per_token_layer / whole,
                  share_of_mha=per_token_layer / (4 * shape.heads * shape.head_dim), fit_tokens=options.fit_tokens,
                  tokens=options.heal_tokens, rate=options.rate, fit_rate=options.fit_rate, seed=options.seed, windows=options.windows,
                  device=torch.cuda.get_device_name() if device == "cuda" else "cpu", date=time.strftime("%Y-%m-%d"))]

    def write():
        os.makedirs(os.path.dirname(options.out) or ".", exist_ok=True)
        with open(options.out + ".part", "w") as out:
            out.writelines(json.dumps(line) + "\n" for line in lines)
        os.replace(options.out + ".part", options.out)

    def point(stage, tokens, model=None, mask=None, **more):
        student.eval()
        figures = {name: judge(model or student, teacher, windows, device, mask) for name, windows in judged.items()}
        student.train()
        lines.append(dict(event="point", stage=stage, tokens=tokens, seconds=round(time.time() - began, 1), **more, **figures))
        write()
        print(f"[{time.time() - began:5.0f} s] {stage} {tokens / 1e6:.2f} M tokens: " + ", ".join(
            f"{name} loss {f['loss']} (teacher {f['teacher']}) kl {f['kl']} same {f['same']}" for name, f in figures.items()), flush=True)

    for stage, row in (("window, 16 bit", whole), ("window, as if in 4 bit", whole / 4)):
        kept = int(options.context * per_token_layer / row)
        point(stage, 0, teacher, window_mask(options.context, kept, device), kept=kept)

    moments = latent_form.Moments(teacher)
    calibration = batch_at(0, train, options.calibration, options.context, options.seed + 1)[:, :-1]
    for row in calibration:
        moments.add(teacher, row[None])
    latent_form.start(student.to("cpu"), teacher.to("cpu"), moments.cpu())
    student.to(device), teacher.to(device)
    print(f"[{time.time() - began:5.0f} s] started from {moments.count} tokens", flush=True)
    point("start", 0)

    fitted = 0
    if options.fit_tokens:
        attention = [p for layer in student.layers for p in layer.attention.parameters()]
        fitted, _ = learn("fit", lambda b: fit_loss(student, teacher, b), [(attention, options.fit_rate)], options.fit_tokens, options, train,
                          lambda stage, done: point(stage, done), lambda done: False)
    finished = True
    if options.heal_tokens:
        due = iter(2.0**i * 1e6 for i in range(40))
        marks = [next(due)]

        def is_due(done):
            if done < marks[0]:
                return False
            while done >= marks[0]:
                marks[0] = next(due)
            return True

        compiled = {id(m): torch.compile(m.features) if options.compile else m.features for m in (teacher, student)}
        new = {id(p) for layer in student.layers for p in layer.attention.parameters()}
        groups = [([p for p in student.parameters() if id(p) in new], options.rate),
                  ([p for p in student.parameters() if id(p) not in new], options.rate / 10)]
        _, finished = learn("distil", lambda b: distil_loss(student, teacher, b, features_of=lambda m: compiled[id(m)]), groups, options.heal_tokens, options, train,
                            lambda stage, done: point(stage, fitted + done), is_due)
        if not finished:
            point("distil", fitted + options.heal_tokens)
    lines.append(dict(event="end", finished=finished, seconds=round(time.time() - began, 1)))
    write()
    if options.keep_weights:
        torch.save({k: v.to(torch.bfloat16) for k, v in student.state_dict().items()}, options.out.removesuffix(".jsonl") + ".weights")
    return 0


# -------------------------------------------------------------------------------------------------------------- table


def write_table(folder):
    """table.md and kl.svg from the logs in a folder."""
    logs = []
    for name in sorted(os.listdir(folder)):
        if name.endswith(".jsonl"):
            with open(os.path.join(folder, name)) as lines:
                logs.append((name[:-len(".jsonl")], [json.loads(line) for line in lines]))
    out = ["# An existing model into CLLA's form", "", "Made by `python convert.py table` from the logs beside this file. KL: nats per token "
           "from the teacher's distribution; same: share of tokens whose most likely successor is the teacher's. *held*: unseen "
           "documents of the kind that healing reads; *other*: another kind of text.", ""]
    series = {}
    for name, lines in logs:
        start, points = lines[0], [line for line in lines if line["event"] == "point"]
        end = next((line for line in lines if line["event"] == "end"), None)
        seen = points[0]
        out += [f"## {start['model']}: latent {start['latent']}, rotary {start['rotary']}, {start['bits']} bit", "",
                f"{start['bytes_per_token_per_layer']:g} bytes per token and layer: {100 * start['share_of_own']:.2f} % of the model's own "
                f"16-bit cache, {100 * start['share_of_mha']:.2f} % of MHA's. {start['device']}, {start['date']}"
                + ("" if end and end["finished"] else "; **ended early**") + f". The teacher's own loss: held {seen['held']['teacher']}, "
                f"other {seen['other']['teacher']}.", "",
                "| stage | million tokens | held: loss | KL | same | other: loss | KL | same |", "|---|---:|---:|---:|---:|---:|---:|---:|"]
        for one in points:
            held, other = one["held"], one["other"]
            kept = f" ({one['kept']} of {start['context']} tokens)" if "kept" in one else ""
            out.append(f"| {one['stage']}{kept} | {one['tokens'] / 1e6:.2f} | {held['loss']} | {held['kl']} | {100 * held['same']:.1f} % | "
                       f"{other['loss']} | {other['kl']} | {100 * other['same']:.1f} % |")
        out.append("")
        label = name if len(logs) > 1 else "healed"
        for text in ("held", "other"):
            healed = [(one["tokens"] / 1e6, one[text]["kl"]) for one in points if one["tokens"]]
            if len(healed) > 1:
                series[f"{label}, {text}"] = healed
                for one in points:
                    if "kept" in one:
                        series[f"{one['stage']}, {text}"] = [(x, one[text]["kl"]) for x in (healed[0][0], healed[-1][0])]
    with open(os.path.join(folder, "table.md"), "w") as file:
        file.write("\n".join(out))
    if series:
        table.plot(os.path.join(folder, "kl.svg"), "KL from the teacher, by healing", series, "million tokens of healing", "nats per token",
                   log_x=True)
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
    tabled.add_argument("folder", nargs="?", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "results", "convert"))
    options = parser.parse_args()
    if options.what == "table":
        return write_table(options.folder)
    if options.what == "tokens":
        return write_tokens(options)
    return heal(options)


if __name__ == "__main__":
    sys.exit(main())
