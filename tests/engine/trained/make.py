#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Makes the files beside it: small models with random weights, as examples/train/export.py writes them, and the logits that
PyTorch computes from those very files, in double precision, from keys and values expanded for every head.

    python make.py                    needs torch, tokenizers and safetensors

A 4-bit code is a step: where a value lies so close to the edge of one that the last bits of a product decide, no two
programs need agree. So seeds are tried until every stored row keeps its codes and scales when its values are moved by
4e-6 of themselves, some thirty times fp32's own rounding error.

The shipped models of examples/models cannot be drawn anew: for them, windows of a text are tried.

`expected.safetensors` holds, per model, the last logits (NAME.logits) and, in its metadata, the text and its tokens (of the
shipped: NAME.tokens), and how far PyTorch's own fp32 is from them (NAME.fp32_error).
"""

import json
import os
import sys

import torch

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..", "..", "..")
sys.path.insert(0, os.path.join(ROOT, "examples", "train"))

import data
import export
from model import Config, Model, filled
from quantize import bf16_nearest, encode

TOKENS, KEPT, VOCABULARY = 64, 24, 384
TEXT = ("The key/value cache of 2048 tokens: one latent row instead of all heads' keys and values, shared by 2 layers. "
        "Größe, 値, naïve café - and a tab\there.\n\nA new paragraph, with numbers like 1.88 % and code_like::names<int>(). "
        "Whatever a token has seen of the others went through these rows; nothing else is kept.")
SHAPE = dict(width=32, layers=4, heads=2, head_dim=64, vocabulary=VOCABULARY, context=128, feed_forward=48)
LATENT = dict(latent=128, rotary=16, rotary_base=500.0)
MODELS = {
    "mha": dict(block="mha", **SHAPE),
    "mha-shift": dict(block="mha", shift=True, look_back=2, gate=True, rotary_base=500.0, **SHAPE),
    "clla": dict(block="clla", **SHAPE, **LATENT),
    "clla-int4": dict(block="clla-int4", look_back=1, writer=16, gate=True, **SHAPE, **LATENT),
    "clla-key8": dict(block="clla-int4", look_back=1, **SHAPE, **LATENT | dict(rotary=8, rotary_bits=8)),
}


SHIPPED, SHIPPED_KEPT = ("small-mha", "small-clla-int4"), 4


def tokenizer():
    texts = [TEXT]
    with open(os.path.join(ROOT, "LICENSE"), encoding="utf-8") as file:
        texts.append(file.read())
    return data.train_tokenizer(texts, VOCABULARY)


def scattered(config, seed):
    """Norm weights that are all one, and matrices that start small, would hide what they do."""
    torch.manual_seed(seed)
    model = Model(filled(config))
    for p in model.parameters():
        p.data += (0.3 if p.dim() == 1 else 0.5 * p.shape[-1] ** -0.5) * torch.randn_like(p)
    return model


def keeps_its_codes(x, grid, margin=4e-6):
    x = x.float()
    moved = [encode(bf16_nearest(x * (1 + e)), grid) for e in (-margin, 0.0, margin)]
    return all(torch.equal(a, b) for other in moved[1:] for a, b in zip(moved[0][:2], other[:2]))


def stable(model, tokens):
    """Whether no stored row of this text is near the edge of a code."""
    verdicts = []
    hooks = [q.register_forward_pre_hook(lambda q, inputs: verdicts.append(keeps_its_codes(inputs[0], q.grid)))
             for q in model.quantizers() if q.grid.bits < 16]
    model(tokens)
    for hook in hooks:
        hook.remove()
    return all(verdicts)


def main():
    from safetensors.torch import save_file
    from tokenizers import Tokenizer
    words = tokenizer()
    ids = words.encode(TEXT).ids
    assert len(ids) >= TOKENS and words.decode(ids) == TEXT
    tokens = torch.tensor(ids[:TOKENS])[None]
    expected, facts = {}, {"text": TEXT, "tokens": json.dumps(ids)}
    for name, fields in MODELS.items():
        path = os.path.join(HERE, name + ".safetensors")
        for seed in range(1000):
            export.write(path, filled(Config(**fields)), scattered(Config(**fields), seed).state_dict(), words.to_str(),
                         {"variant": fields["block"], "seed": seed}, 8)
            with torch.no_grad():
                model = export.read(path)[0]
                single = model(tokens)
                double = model.double()
                if not stable(double, tokens):
                    continue
                exact = double(tokens)
            break
        else:
            sys.exit(f"{name}: no seed keeps its codes")
        expected[name + ".logits"] = exact[0, -KEPT:].float().contiguous()
        facts[name + ".fp32_error"] = repr((single - exact).abs().max().item())
        print(f"{name}: seed {seed}, logits within {exact.abs().max():.2f}, fp32 {facts[name + '.fp32_error']} from double, "
              f"{os.path.getsize(path) / 1e3:.0f} kB")
    for name in SHIPPED:
        model, _, tokenizer_text = export.read(os.path.join(ROOT, "examples", "models", name + ".safetensors"))
        with open(os.path.join(ROOT, "LICENSE"), encoding="utf-8") as file:
            ids = Tokenizer.from_str(tokenizer_text).encode(file.read()).ids
        for first in range(0, len(ids) - TOKENS, TOKENS):
            tokens = torch.tensor(ids[first:first + TOKENS])[None]
            with torch.no_grad():
                single, double = model.float()(tokens), model.double()
                if stable(double, tokens):
                    break
        else:
            sys.exit(f"{name}: no window keeps its codes")
        with torch.no_grad():
            exact = double(tokens)
        expected[name + ".logits"] = exact[0, -SHIPPED_KEPT:].float().contiguous()
        facts[name + ".tokens"] = json.dumps(tokens[0].tolist())
        facts[name + ".fp32_error"] = repr((single - exact).abs().max().item())
        print(f"{name}: tokens {first} to {first + TOKENS}, logits within {exact.abs().max():.2f}, fp32 "
              f"{facts[name + '.fp32_error']} from double")
    save_file(expected, os.path.join(HERE, "expected.safetensors"), metadata=facts)


if __name__ == "__main__":
    main()
