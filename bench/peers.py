#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Decode attention of PyTorch's cuDNN backend (bf16), timed as bench/attend.cu times ours: one JSON object per line.

  python3 bench/peers.py [--out FILE]
"""
import argparse
import contextlib
import json

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

SHAPES = [  # id, batch, length, query heads, kv heads, head dim
    ("cudnn-bf16-b16-l32768", 16, 32768, 32, 8, 128),
    ("cudnn-bf16-b64-l8192", 64, 8192, 32, 8, 128),
    ("cudnn-bf16-b64-l32768", 64, 32768, 32, 8, 128),
]


def microseconds(batch, length, heads, kv_heads, dim):
    q = torch.randn(batch, heads, 1, dim, device="cuda", dtype=torch.bfloat16)
    # [batch][length][heads][dim] in memory, as engines hold it.
    k, v = (torch.randn(batch, length, kv_heads, dim, device="cuda", dtype=torch.bfloat16).transpose(1, 2)
            for _ in range(2))

    def call():
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)

    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        for _ in range(3):
            call()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(4):
                call()
    times = []
    for _ in range(17):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) * 1000 / 4)
    return sorted(times[2:])[7]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out")
    out = parser.parse_args().out
    with open(out, "w") if out else contextlib.nullcontext() as file:
        for name, batch, length, heads, kv_heads, dim in SHAPES:
            us = microseconds(batch, length, heads, kv_heads, dim)
            gb = batch * length * kv_heads * dim * 4 / us * 1e-3
            print(f"{name:34s} {us:9.1f} us  {gb:7.0f} GB/s  torch {torch.__version__}")
            if file:
                row = {"id": name, "us": round(us, 2), "gb_per_s": round(gb, 1), "version": torch.__version__}
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
