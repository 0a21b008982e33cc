# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""A finished run as one safetensors file that the engine loads: weights, configuration and tokenizer.

    python export.py RUN.jsonl --data DIR --out MODEL.safetensors [--bits 8]

RUN.weights must lie beside the log (train.py --keep-weights). Tensors keep the names that they have in model.py. Matrices
are stored in 8 bit by default, one fp32 scale for each output (`NAME.scale`); vectors in fp32; --bits 16 keeps bfloat16.
The file's metadata are three JSON texts: `config` (the fields of model.Config), `run` (where the model comes from and what
the log says of it) and `tokenizer` (the `tokenizers` library's own format).

Afterwards the file is read back and judged on held-out text again: what is lost is printed and kept in `run`.
"""

import argparse
import dataclasses
import json
import os
import sys

import torch

import data
import evaluate
from model import Config, Model


def packed(matrix):
    """[outputs][inputs] -> codes int8, scales fp32 [outputs]: x ~ code * scale, the largest of a row becomes 127."""
    scale = matrix.float().abs().amax(1) / 127
    divisor = torch.where(scale > 0, scale, torch.ones_like(scale))
    return torch.round(matrix.float() / divisor[:, None]).clamp(-127, 127).to(torch.int8), scale


def tensors_of(state, bits):
    out = {}
    for name, value in state.items():
        if value.dim() != 2:
            out[name] = value.float().contiguous()
        elif bits == 16:
            out[name] = value.to(torch.bfloat16).contiguous()
        else:
            out[name], out[name + ".scale"] = packed(value)
    return out


def state_of(tensors):
    """What a reader of the file computes with, in fp32."""
    out = {}
    for name, value in tensors.items():
        if name + ".scale" in tensors:
            out[name] = value.float() * tensors[name + ".scale"][:, None]
        elif not name.endswith(".scale"):
            out[name] = value.float()
    return out


def write(path, config, state, tokenizer, run, bits):
    from safetensors.torch import save_file
    if config.range == "edge":  # what is stored is the same: only training differs
        config = dataclasses.replace(config, range="amax")
    texts = dict(config=json.dumps(dataclasses.asdict(config)), run=json.dumps(run), tokenizer=tokenizer)
    save_file(tensors_of(state, bits), path, metadata=texts)


def read(path):
    """(model in fp32, run, tokenizer text) of a file that write() made."""
    from safetensors import safe_open
    with safe_open(path, "pt") as file:
        texts = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    model = Model(Config(**json.loads(texts["config"])))
    model.load_state_dict(state_of(tensors))
    return model.eval(), json.loads(texts["run"]), texts["tokenizer"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("log", help="RUN.jsonl of a finished run, RUN.weights beside it")
    parser.add_argument("--data", required=True, help="the folder that data.py made")
    parser.add_argument("--out", required=True)
    parser.add_argument("--bits", type=int, choices=(8, 16), default=8)
    parser.add_argument("--held-windows", type=int, default=0, help="judge by so many windows only; 0: all")
    options = parser.parse_args()

    with open(options.log) as lines:
        lines = [json.loads(line) for line in lines]
    start, end = lines[0], lines[-1]
    if not end.get("finished"):
        parser.error(f"{options.log} is the log of a run that did not finish")
    config = Config(**start["config"])
    state = torch.load(options.log[:-len(".jsonl")] + ".weights", map_location="cpu", weights_only=True)
    with open(os.path.join(options.data, "tokenizer.json")) as file:
        tokenizer = file.read()

    run = {k: start[k] for k in ("size", "variant", "parameters", "data", "device", "date", "recipe")}
    run |= {k: end[k] for k in ("loss", "copy", "passkey", "tokens")} | {"weight_bits": options.bits}
    write(options.out, config, state, tokenizer, run, options.bits)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, _, _ = read(options.out)
    judged = evaluate.everything(model.to(device), options.data, device, options.held_windows or None)
    run |= {"exported_loss": judged["loss"], "exported_copy": judged["copy"], "exported_passkey": judged["passkey"]}
    write(options.out, config, state, tokenizer, run, options.bits)
    print(f"{options.out}: {os.path.getsize(options.out) / 1e6:.2f} MB, {config.bytes_per_token_per_layer():g} bytes of cache per "
          f"token and layer; held-out loss {run['loss']:.4f} in training, {judged['loss']:.4f} from the file, "
          f"copy {judged['copy']}, passkey {judged['passkey']}")


if __name__ == "__main__":
    sys.exit(main())
