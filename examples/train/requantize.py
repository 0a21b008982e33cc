# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Quantizing after training: a finished run's weights, judged with other bits than they were trained with.

    python requantize.py RUN.jsonl --data DIR --out FOLDER --bits 8 4 3 2 4/16 16/4

N/M: N bits for the latent, M for the rotary key.

RUN.weights must lie beside the log (train.py --keep-weights). For each number of bits a log is written as of a run that took
no step: `python table.py` shows it with `bits=N after=True`.
"""

import argparse
import dataclasses
import json
import os
import sys
import time

import torch

import evaluate
from model import Config, Model


def judged(start, state, bits, rotary_bits, data, device, windows):
    """The log of the model of these weights with rows of so many bits."""
    config = Config(**start["config"] | dict(bits=bits, rotary_bits=rotary_bits))
    model = Model(config).to(device)
    model.load_state_dict({k: v.float() for k, v in state.items()})
    began = time.time()
    result = evaluate.everything(model, data, device, windows)
    head = start | dict(config=dataclasses.asdict(config), recipe=start["recipe"] | {"after": True},
                        bytes_per_token_per_layer=config.bytes_per_token_per_layer(), share_of_mha=config.share_of_mha(),
                        judged_on="cuda" if device == "cuda" else "cpu")
    seen = dict(event="train", step=start["steps"], tokens=start["steps"] * start["batch_tokens"], loss=result["loss"])
    end = dict(event="end", finished=True, diverged=False, seconds=round(time.time() - began, 2), tokens=seen["tokens"],
               spikes=0, **result)
    return [head, seen, end]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("log")
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--bits", nargs="+", default=("8", "4", "3", "2"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--held-windows", type=int, default=0, help="evaluate on so many windows only; 0: all")
    options = parser.parse_args()
    with open(options.log) as lines:
        start = json.loads(lines.readline())
    state = torch.load(options.log[:-len(".jsonl")] + ".weights", map_location="cpu", weights_only=True)
    os.makedirs(options.out, exist_ok=True)
    name = os.path.basename(options.log)[:-len(".jsonl")]
    for word in options.bits:
        bits, _, rotary_bits = word.partition("/")
        lines = judged(start, state, int(bits), int(rotary_bits or bits), options.data, options.device, options.held_windows or None)
        with open(os.path.join(options.out, f"{name}-after-b{word.replace('/', '-')}.jsonl"), "w") as out:
            out.writelines(json.dumps(line) + "\n" for line in lines)
        print(f"{name} in {word} bits: loss {lines[-1]['loss']:.4f}, copy {lines[-1]['copy']}, "
              f"{lines[0]['bytes_per_token_per_layer']:g} bytes", flush=True)


if __name__ == "__main__":
    sys.exit(main())
