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

SHAPES = [  # id, batch, length, query heads, kv heads, head dim, query rows: few see all, those of a prompt what came before
    ("cudnn-bf16-b16-l32768", 16, 32768, 32, 8, 128, 1),
    ("cudnn-bf16-b64-l8192", 64, 8192, 32, 8, 128, 1),
    ("cudnn-bf16-b64-l32768", 64, 32768, 32, 8, 128, 1),
    ("cudnn-bf16-r2-b64-l8192", 64, 8192, 32, 8, 128, 2),
    ("cudnn-bf16-r4-b64-l8192", 64, 8192, 32, 8, 128, 4),
    ("cudnn-bf16-r8-b64-l8192", 64, 8192, 32, 8, 128, 8),
    ("cudnn-bf16-prompt-b4-l2048", 4, 2048, 32, 8, 128, 2048),
]


def graph_microseconds(call, calls=4):
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            call()
    times = []
    for _ in range(17):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) * 1000 / calls)
    return sorted(times[2:])[7]


def matrix_peak(side=8192):
    """TFLOP/s of cuBLAS's bf16 product of two square matrices: what there is to be had."""
    a, b = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 / graph_microseconds(lambda: a @ b) * 1e-6


def microseconds(batch, length, heads, kv_heads, dim, rows):
    q = torch.randn(batch, heads, rows, dim, device="cuda", dtype=torch.bfloat16)
    # [batch][length][heads][dim] in memory, as engines hold it.
    k, v = (torch.randn(batch, length, kv_heads, dim, device="cuda", dtype=torch.bfloat16).transpose(1, 2)
            for _ in range(2))

    def call():
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True, is_causal=rows == length)

    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return graph_microseconds(call)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out")
    out = parser.parse_args().out
    with open(out, "w") if out else contextlib.nullcontext() as file:
        peak = matrix_peak()
        print(f"{'bf16 matrices':34s} {peak:9.1f} TFLOP/s")
        if file:
            file.write(json.dumps({"id": "matrix", "tflop_per_s": round(peak, 1)}) + "\n")
        for name, batch, length, heads, kv_heads, dim, rows in SHAPES:
            us = microseconds(batch, length, heads, kv_heads, dim, rows)
            gb = batch * length * kv_heads * dim * 4 / us * 1e-3
            print(f"{name:34s} {us:9.1f} us  {gb:7.0f} GB/s  torch {torch.__version__}")
            if file:
                row = {"id": name, "us": round(us, 2), "gb_per_s": round(gb, 1), "version": torch.__version__}
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
