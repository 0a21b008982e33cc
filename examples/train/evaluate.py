# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What a trained model is judged by, on documents that it never saw.

    loss          nats per token over whole windows of held-out text
    by_position   the same in 16 stretches of the window: a cache that forgets shows it late in the window
    copy          a span of 32 random tokens early in the window occurs again at its end: the share of its last 24 tokens
                  that the model predicts. Averages of the loss hide recall failures; this does not.
    copy_by_depth the same by where the span first stood
    passkey       "The pass key is 48213." somewhere in held-out text; share of prompts whose five digits all come back

Probes are teacher-forced: all digits right is what greedy decoding would have to do as well.
"""

import os

import torch
import torch.nn.functional as F

import data

STRETCHES = 16
DEPTHS = (0.02, 0.25, 0.5, 0.75, 0.9)
ROWS_PER_DEPTH = 40


def logits_of(model, tokens, device):
    with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        return model(tokens)


def held_out_loss(model, text, device, rows=32, limit=None):
    """Windows that follow one another without overlap, every position counted alike."""
    context = model.config.context
    windows = (len(text) - 1) // context
    windows = min(windows, limit or windows)
    total, count = torch.zeros(context, dtype=torch.float64, device=device), 0
    for start in range(0, windows, rows):
        part = range(start, min(windows, start + rows))
        batch = torch.stack([text[i * context:i * context + context + 1] for i in part]).to(device).long()
        logits = logits_of(model, batch[:, :-1], device).float()
        losses = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="none")
        total += losses.view(len(part), context).double().sum(0)
        count += len(part)
    mean = total / count
    return mean.mean().item(), [round(x, 5) for x in mean.view(STRETCHES, -1).mean(1).tolist()]


def copying(model, text, device):
    context = model.config.context
    span = min(32, context // 4)
    generator = torch.Generator().manual_seed(1)
    shares = []
    for depth in DEPTHS:
        starts = torch.randint(0, len(text) - context - 1, (ROWS_PER_DEPTH,), generator=generator)
        batch = text[starts[:, None] + torch.arange(context)].long()
        spans = torch.randint(1, model.config.vocabulary, (ROWS_PER_DEPTH, span), generator=generator)
        first = min(int(depth * context), context - 2 * span)
        batch[:, first:first + span] = spans
        batch[:, context - span:] = spans
        batch = batch.to(device)
        guess = logits_of(model, batch, device)[:, -span - 1:-1].argmax(-1)
        cue = span // 4
        shares.append((guess[:, cue:] == batch[:, -span + cue:]).float().mean().item())
    return sum(shares) / len(shares), [round(s, 4) for s in shares]


def passkeys(model, text, folder, device):
    """None where the tokenizer is not at hand (the tests)."""
    path = os.path.join(folder, "tokenizer.json")
    if not os.path.exists(path):
        return None, None
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(path)
    context, generator = model.config.context, torch.Generator().manual_seed(2)
    codes = lambda words: torch.tensor(tokenizer.encode(words).ids)
    shares = []
    for depth in DEPTHS:
        prompts = []
        for _ in range(ROWS_PER_DEPTH):
            key = "".join(str(int(torch.randint(0, 10, (), generator=generator))) for _ in range(5))
            note = codes(f"\n\nThe pass key is {key}. Remember it: {key} is the pass key.\n\n")
            question = codes(f"\n\nWhat is the pass key? The pass key is {key}")
            fill = context - len(note) - len(question)
            start = int(torch.randint(0, len(text) - fill, (), generator=generator))
            before = int(depth * fill)
            filler = text[start:start + fill].long()
            prompts.append(torch.cat((filler[:before], note, filler[before:], question)))
        batch = torch.stack(prompts).to(device)
        guess = logits_of(model, batch, device)[:, -6:-1].argmax(-1)
        shares.append((guess == batch[:, -5:]).all(1).float().mean().item())
    return sum(shares) / len(shares), [round(s, 4) for s in shares]


def everything(model, folder, device, windows=None):
    model.eval()
    text = torch.from_numpy(data.load(folder, "held"))
    loss, by_position = held_out_loss(model, text, device, limit=windows)
    copy, copy_by_depth = copying(model, text, device)
    passkey, passkey_by_depth = passkeys(model, text, folder, device)
    model.train()
    return dict(loss=round(loss, 5), by_position=by_position, copy=round(copy, 4), copy_by_depth=copy_by_depth,
                passkey=None if passkey is None else round(passkey, 4), passkey_by_depth=passkey_by_depth)
