# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""A grouped-query model in CLLA's form, with weights that start where calibration says: the student of convert.py.

A pair of layers stores one row per token, made by the leader of its normalised input h and the one before (s = [h_t, h_(t-1)]):

    c  = s W_c + b          the latent, without position               both in 4 bit,
    kr = rotate(s W_r)      a rotary key of few channels for all heads  one scale each

and each layer of the pair reads it, per head:

    score(t, j) = (qn_t . c_j W_uk + qr_t . kr_j) / sqrt(head dim),      out = softmax c W_uv W_o + b_o

The start, per pair, from the moments of s and of the teacher's keys and values of both layers, [n] = tokens:

1.  Keys and values of both layers are predicted from s by ridge regression: exact for the leader's, a guess for the follower's.
2.  A rotary pair of channels is a complex number that turns with its frequency. At one frequency the keys of all KV heads
    and both layers turn alike, so that their principal complex directions can be stored instead. Of all frequencies
    the directions are kept that carry most of what the rotation changes, weighted by the queries' second moments.
3.  What turns slowly is kept without position; what turns fast and was not chosen is dropped (`still`: how much of a frequency
    survives being read unturned at usual distances).
4.  The rest, centred and weighted by what queries and W_o make of it, is a reduced-rank regression from s: principal
    directions of the prediction. A random orthogonal basis spreads them evenly over the channels, as one scale wants it.

A constant taken off keys changes no softmax; off values, it comes back as b_o = mean W_o. Both cost no stored bytes.
"""

import math

import torch
from torch import nn

from llama import Llama
from model import FeedForward, before, causal_attention, rotate
from quantize import Grid, Quantizer

USUAL_DISTANCE = 128  # tokens: what turns little over so many needs no rotation


class Writer(nn.Module):
    """What the leader of a pair stores: [batch, tokens, width] -> (latent, rotary key), as they come back from the cache."""

    def __init__(self, width, latent, rotary, bits, net):
        super().__init__()
        self.latent, self.rotary = latent, rotary
        self.down = nn.Linear(2 * width, latent + rotary)
        self.net = FeedForward(2 * width, net, latent + rotary) if net else None
        self.grids = (Grid(bits, "midrise", 0), Grid(bits, "midrise", 0))
        self.latent_grid, self.rotary_grid = Quantizer(latent, self.grids[0]), Quantizer(rotary, self.grids[1])
        self.register_buffer("frequency", torch.zeros(rotary // 2))

    def angles(self, tokens):
        turn = torch.arange(tokens, device=self.frequency.device)[:, None] * self.frequency
        return turn.cos(), turn.sin()

    def forward(self, h):
        s = torch.cat((h, before(h)), -1)
        row = self.down(s)
        if self.net is not None:
            row = row + self.net(s)
        c, kr = row.split((self.latent, self.rotary), -1)
        kr = rotate(kr.unsqueeze(2), self.angles(h.shape[1])).squeeze(2)
        return self.latent_grid(c), self.rotary_grid(kr)

    def row_bytes(self):
        return self.grids[0].bytes(self.latent) + self.grids[1].bytes(self.rotary)


class Reader(nn.Module):
    def __init__(self, shape, latent, rotary, writer=None):
        super().__init__()
        self.shape, self.rotary = shape, rotary
        n = shape.heads * shape.head_dim
        self.writer = writer
        self.query = nn.Linear(shape.width, shape.heads * (shape.head_dim + rotary), bias=False)
        self.up_key, self.up_value = nn.Linear(latent, n, bias=False), nn.Linear(latent, n, bias=False)
        self.out = nn.Linear(n, shape.width)

    def forward(self, h, rows, angles, mask=None):
        if self.writer is not None:
            rows.append((*self.writer(h), self.writer.angles(h.shape[1])))
        c, kr, turn = rows[-1]
        heads = lambda x: x.unflatten(-1, (self.shape.heads, -1))
        qn, qr = heads(self.query(h)).split((self.shape.head_dim, self.rotary), -1)
        k, v = heads(self.up_key(c)), heads(self.up_value(c))
        k = torch.cat((k, kr.unsqueeze(2).expand(-1, -1, self.shape.heads, -1).to(k.dtype)), -1)
        q = torch.cat((qn, rotate(qr, turn)), -1)
        return self.out(causal_attention(q, k, v, self.shape.head_dim**-0.5).flatten(-2))


def student_of(teacher, latent, rotary, bits=4, net=128):
    """The teacher with attention of that form, everything else copied; `start` gives it its weights."""
    shape = teacher.shape
    if shape.layers % 2:
        raise ValueError(f"{shape.layers} layers do not make pairs")
    attentions = [Reader(shape, latent, rotary, None if l % 2 else Writer(shape.width, latent, rotary, bits, net))
                  for l in range(shape.layers)]
    student = Llama(shape, attentions)
    kept = {k: v for k, v in teacher.state_dict().items() if ".attention." not in k}
    missing, extra = student.load_state_dict(kept, strict=False)
    assert not extra and all(".attention." in name for name in missing)
    return student


# ---------------------------------------------------------------------------------------------------------- moments


class Moments:
    """Sums over calibration tokens, per pair of layers, but for the first of a window, an outlier that all attend to."""

    def __init__(self, teacher):
        shape = self.shape = teacher.shape
        pairs, keys = shape.layers // 2, shape.kv_heads * shape.head_dim
        zeros = lambda *size: torch.zeros(*size, dtype=torch.float64, device=teacher.embedding.weight.device)
        self.count = 0
        self.s, self.ss = zeros(pairs, 2 * shape.width), zeros(pairs, 2 * shape.width, 2 * shape.width)
        self.y, self.sy = zeros(pairs, 4 * keys), zeros(pairs, 2 * shape.width, 4 * keys)  # y: k, v of leader, k, v of follower
        self.qq = zeros(shape.layers, keys)  # squares of queries, summed over the heads that share a KV head

    def add(self, teacher, tokens):
        inputs = {}
        hooks = [layer.attention.register_forward_pre_hook(lambda m, args, l=l: inputs.__setitem__(l, args[0]))
                 for l, layer in enumerate(teacher.layers)]
        with torch.no_grad():
            teacher.features(tokens)
            for hook in hooks:
                hook.remove()
            of = lambda x: x[:, 1:].flatten(0, 1).flatten(1).double()
            for pair in range(self.shape.layers // 2):
                s = of(torch.cat((inputs[2 * pair], before(inputs[2 * pair])), -1))
                y = []
                for l in (2 * pair, 2 * pair + 1):
                    q, k, v = teacher.layers[l].attention.heads(inputs[l])
                    y += [of(k), of(v)]
                    groups = q[:, 1:].float().square().flatten(0, 1).unflatten(1, (self.shape.kv_heads, -1))
                    self.qq[l] += groups.sum(2).flatten(1).double().sum(0)
                y = torch.cat(y, -1)
                self.s[pair] += s.sum(0)
                self.y[pair] += y.sum(0)
                self.ss[pair] += s.T @ s
                self.sy[pair] += s.T @ y
            self.count += s.shape[0]


    def cpu(self):
        for name in ("s", "ss", "y", "sy", "qq"):
            setattr(self, name, getattr(self, name).cpu())
        return self


# ------------------------------------------------------------------------------------------------------------ start


def principal_turns(cov, weight, frequency, keep):
    """cov: [6 turning keys x frequencies, 2] as real [m, f, 2] moments of the predicted keys. -> [(frequency index, direction)]

    cov is the real covariance [m f 2, m f 2] of m keys with f complex channels each; directions are complex [m] in the space
    weighted by sqrt(weight [m, f])."""
    m, f = weight.shape
    cov = cov.reshape(m, f, 2, m, f, 2)
    found = []
    for i in range(f):
        block = cov[:, i, :, :, i, :]  # [m, 2, m, 2]
        hermitian = torch.complex(block[:, 0, :, 0] + block[:, 1, :, 1], block[:, 1, :, 0] - block[:, 0, :, 1])
        root = weight[:, i].sqrt()
        values, vectors = torch.linalg.eigh(hermitian * (root[:, None] * root))
        turned = 1 - still(frequency[i])
        found += [(values[j].item() * turned, i, vectors[:, j]) for j in range(m)]
    found.sort(key=lambda one: -one[0])
    return [(i, u) for _, i, u in found[:keep]]


def still(frequency):
    return math.exp(-float(frequency * USUAL_DISTANCE) ** 2 / 2)


def times(rows, factor):
    """Rows [2, ...] of a matrix that makes a complex number, made to make `factor` times that number."""
    a, b = factor.real, factor.imag
    return torch.stack((a * rows[0] - b * rows[1], b * rows[0] + a * rows[1]))


def start_pair(student, teacher, moments, pair, ridge=1e-4):
    shape, keys = teacher.shape, teacher.shape.kv_heads * teacher.shape.head_dim
    layers = (2 * pair, 2 * pair + 1)
    writer = student.layers[layers[0]].attention.writer
    n, f = moments.count, shape.head_dim // 2
    frequency = shape.rotary_base ** (-torch.arange(f).double() / f)
    mean_s, mean_y = moments.s[pair] / n, moments.y[pair] / n
    ss = moments.ss[pair] / n
    sy = moments.sy[pair] / n
    ridged = ss + ridge * ss.diagonal().mean() * torch.eye(len(ss), dtype=ss.dtype)
    turning = torch.cat((torch.arange(keys), 2 * keys + torch.arange(keys)))  # the keys among y

    # 1, 2: the rotary key, from uncentred moments, as a constant turns too
    predict = torch.linalg.solve(ridged, sy[:, turning])  # [2 width, 2 keys]
    q2 = torch.stack([moments.qq[l].view(shape.kv_heads, f, 2).sum(-1) / n for l in layers]).flatten(0, 1)  # [2 KV heads, f]
    turns = principal_turns(predict.T @ ss @ predict, q2, frequency, writer.rotary // 2)
    made = predict.T.reshape(2 * shape.kv_heads, f, 2, -1)  # rows that make a key's complex channel of s
    group = shape.heads // shape.kv_heads
    rotary_rows, taken = [], torch.zeros(len(turning), len(turning), dtype=torch.float64).view(-1, f, 2, len(turning))
    query_rows = [[], []]
    identity = torch.eye(len(turning), dtype=torch.float64).view(-1, f, 2, len(turning))
    for i, u in turns:
        root = q2[:, i].sqrt()
        rotary_rows.append(sum(times(made[k, i], u[k].conj() * root[k]) for k in range(len(u))))
        gathered = sum(times(identity[k, i], u[k].conj() * root[k]) for k in range(len(u)))
        for k in range(len(u)):
            taken[k, i] += times(gathered, u[k] / root[k])
        for side, l in enumerate(layers):
            q = teacher.layers[l].attention.query.weight.double().view(shape.heads, f, 2, -1)
            query_rows[side].append(torch.stack([
                times(q[h, i], u[side * shape.kv_heads + h // group].conj() / root[side * shape.kv_heads + h // group])
                for h in range(shape.heads)]))  # [heads, 2, width]

    # 3, 4: the latent, from centred moments
    centred = ss - torch.outer(mean_s, mean_s)
    cross = sy - torch.outer(mean_s, mean_y)
    cross[:, turning] -= cross[:, turning] @ taken.reshape(len(turning), -1).T  # what the rotary key does carry
    ridged = centred + ridge * centred.diagonal().mean() * torch.eye(len(ss), dtype=ss.dtype)
    predict = torch.linalg.solve(ridged, cross)  # [2 width, 4 keys]
    unturned = torch.tensor([still(w) for w in frequency], dtype=torch.float64).repeat_interleave(2).repeat(shape.kv_heads)
    weight = []
    for l in layers:
        out = teacher.layers[l].attention.out.weight.double().view(-1, shape.heads, shape.head_dim)
        value = out.square().sum(0).view(shape.kv_heads, group, -1).sum(1).flatten()
        key = moments.qq[l] / n * unturned.square() / shape.head_dim
        weight += [key, value]
    predicted = (predict * (centred @ predict)).sum(0)
    for l in range(4):  # keys and values of each layer count alike
        part = slice(l * keys, (l + 1) * keys)
        weight[l] = (weight[l] / (weight[l] * predicted[part]).sum().clamp(min=1e-12)).clamp(min=1e-12)
    root = torch.cat(weight).sqrt()
    weighted = predict * root
    _, vectors = torch.linalg.eigh(weighted.T @ centred @ weighted)
    vectors = vectors[:, -writer.latent:]  # [4 keys, latent]
    generator = torch.Generator().manual_seed(20)
    even, _ = torch.linalg.qr(torch.randn(writer.latent, writer.latent, generator=generator, dtype=torch.float64))
    down = weighted @ vectors @ even  # [2 width, latent]
    size = (down * (centred @ down)).sum(0).mean().sqrt()
    down, up = down / size, (even.T @ vectors.T / root * size)  # up: [latent, 4 keys]

    with torch.no_grad():
        rotary_rows = torch.stack(rotary_rows).flatten(0, 1)  # [rotary, 2 width]
        writer.down.weight.copy_(torch.cat((down.T, rotary_rows)))
        writer.down.bias.copy_(torch.cat((-mean_s @ down, torch.zeros(writer.rotary, dtype=torch.float64))))
        writer.frequency.copy_(frequency[[i for i, _ in turns]])
        if writer.net is not None:
            nn.init.normal_(writer.net.up.weight, std=0.5 * writer.net.up.in_features**-0.5)
            nn.init.zeros_(writer.net.out.weight)
        for side, l in enumerate(layers):
            old, new = teacher.layers[l].attention, student.layers[l].attention
            by_head = lambda x: x.unflatten(0, (shape.kv_heads, 1, -1)).expand(-1, group, -1, -1).flatten(0, 2)
            key = up[:, 2 * side * keys:(2 * side + 1) * keys] * unturned
            value = up[:, (2 * side + 1) * keys:(2 * side + 2) * keys]
            new.up_key.weight.copy_(by_head(key.T))
            new.up_value.weight.copy_(by_head(value.T))
            turned = torch.stack(query_rows[side], 1).flatten(1, 2)  # [heads, rotary, width]
            plain = old.query.weight.view(shape.heads, shape.head_dim, -1)
            new.query.weight.copy_(torch.cat((plain, turned.to(plain.dtype)), 1).flatten(0, 1))
            new.out.weight.copy_(old.out.weight)
            mean_value = by_head(mean_y[(2 * side + 1) * keys:(2 * side + 2) * keys, None])[:, 0]
            new.out.bias.copy_(old.out.weight.double() @ mean_value)


def start(student, teacher, moments, say=print):
    for pair in range(teacher.shape.layers // 2):
        start_pair(student, teacher, moments, pair)
        say(f"started layers {2 * pair} and {2 * pair + 1}", end="\r")
    say("")
