# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""A decoder-only language model whose attention block, and with it its cache, is chosen by one word.

    block       stored per token                                       read by
    mha         a key and a value for every head                       the layer itself
    gqa         ... for every fourth head                              the layer itself
    mqa         ... one key and one value                              the layer itself
    cla         as mha                                                 a pair of layers
    mla         one latent [N/4] and one rotary key [N/32]             the layer itself
    clla        as mla                                                 a pair of layers
    clla-int4   as clla, in 4 bit, trained in                          a pair of layers

N is heads x head dim. Everything else is the same in all of them: RMS norms, rotary positions, a SwiGLU feed-forward net
whose width takes up the difference in attention weights, so that all siblings have the same number of parameters.

The block's equations (row vectors; h is the normalised layer input; the first layer of a pair, its *leader*, writes):

    c  = RMSNorm(h W_down)              the latent          stored
    kr = rotate(RMSNorm(h W_rotary))    the rotary key      stored, one for all heads
    q  = RMSNorm(h W_q) = [qn | qr]     per head, qr rotated
    score(t, j) = (qn_t . c_j W_uk + qr_t . kr_j) / sqrt(d_n + d_r)          j <= t
    out = concat over heads of softmax(score) (c W_uv), times W_o

A follower has W_q, W_uk, W_uv and W_o of its own and reads the leader's c and kr.
"""

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import nn

from quantize import Grid, Quantizer

BLOCKS = ("mha", "gqa", "mqa", "cla", "mla", "clla", "clla-int4")
SIZES = {
    "tiny": dict(width=32, layers=4, heads=4, head_dim=16, context=64, vocabulary=256),  # for the tests
    "nano": dict(width=128, layers=4, heads=4, head_dim=32, context=256),  # a first curve on a CPU
    "mini": dict(width=128, layers=4, heads=8, head_dim=64),
    "small": dict(width=256, layers=4, heads=8, head_dim=64),
    "medium": dict(width=512, layers=6, heads=8, head_dim=64),
    "large": dict(width=768, layers=8, heads=12, head_dim=64),
}


@dataclasses.dataclass
class Config:
    block: str = "mha"
    width: int = 256
    layers: int = 4
    heads: int = 8
    head_dim: int = 64
    vocabulary: int = 4096
    context: int = 1024
    feed_forward: int = 0  # 0: whatever makes the parameters those of the mha sibling, which has three times the width
    # ---- the latent blocks; 0 and "" stand for the paper's proportions
    latent: int = 0  # N / 4
    rotary: int = 0  # latent / 8
    slots: str = ""  # which slot each layer reads, one digit each, "001122" for pairs; the first reader writes
    bits: int = 0  # 4 for clla-int4, else 16
    rotary_bits: int = 0  # as bits
    grid: str = "midrise"  # of the latent
    rotary_grid: str = "midrise"
    group: int = 0  # values that share a scale; 0: all of the latent
    range: str = "amax"  # amax | edge | clip | rms: what the latent's scale is made from, and who learns of it
    squash: bool = False  # the latent goes through a tanh, which makes its values nearly uniform, as a grid likes them
    rotate: bool = False  # a fixed Hadamard rotation before the grid
    stochastic: bool = False  # rounding at random while the grid is being warmed in
    # ---- ideas that cost no stored bytes, off by default
    reach: int = 1  # a layer reads its own slot and reach - 1 slots written before it
    shift: bool = False  # what is stored may mix in the token before, channel by channel (all blocks)
    look_back: int = 0  # what is stored is made from this token and so many before it (all blocks)
    writer: int = 0  # hidden width of a SwiGLU net beside the projection that makes what is stored (all blocks)
    mix: bool = False  # what is read by queries, gates and the feed-forward net may mix in the token before (all blocks)
    gate: bool = False  # every head's output is weighted by a sigmoid of the layer's input (all blocks)
    rotary_base: float = 10000.0
    query_gain: float = 1.0  # where the query norm's weights start; in latent blocks those for the latent part
    rotary_gain: float = 1.0  # where the query norm's weights for the rotary part start (latent blocks)
    token_table: bool = False  # adds a vector that depends on the token id alone (mha: to the values)

    def __post_init__(self):
        if self.block not in BLOCKS:
            raise ValueError(f"unknown block {self.block!r}: one of {', '.join(BLOCKS)}")
        n = self.heads * self.head_dim
        self.latent = self.latent or n // 4
        self.rotary = self.rotary or n // 32
        pairs = self.block in ("cla", "clla", "clla-int4")
        self.slots = self.slots or "".join(str(l // 2 if pairs else l) for l in range(self.layers))
        self.bits = self.bits or (4 if self.block == "clla-int4" else 16)
        self.rotary_bits = self.rotary_bits or self.bits
        seen = -1
        for slot in map(int, self.slots):  # a slot is written by its first reader, in order
            if slot > seen + 1:
                raise ValueError(f"slots {self.slots!r} skip slot {seen + 1}")
            seen = max(seen, slot)
        if len(self.slots) != self.layers:
            raise ValueError(f"slots {self.slots!r} name {len(self.slots)} layers of {self.layers}")

    @property
    def is_latent(self):
        return self.block in ("mla", "clla", "clla-int4")

    @property
    def kv_heads(self):
        return {"gqa": max(1, self.heads // 4), "mqa": 1}.get(self.block, self.heads)

    def grids(self):
        return (Grid(self.bits, self.grid, self.group), Grid(self.rotary_bits, self.rotary_grid, 0))

    def row_bytes(self):
        """Bytes of one token in one slot, scales and offsets included."""
        if not self.is_latent:
            return 2 * 2 * self.kv_heads * self.head_dim
        latent, rotary = self.grids()
        return latent.bytes(self.latent) + rotary.bytes(self.rotary)

    def bytes_per_token_per_layer(self):
        """A token table needs the token's id at attend, two bytes for all layers together: counted."""
        total = self.row_bytes() * (max(map(int, self.slots)) + 1) + (2 if self.token_table else 0)
        return total / self.layers

    def share_of_mha(self):
        return self.bytes_per_token_per_layer() / (4 * self.heads * self.head_dim)


# ------------------------------------------------------------------------------------------------------- small parts


class RMSNorm(nn.Module):
    def __init__(self, width, epsilon=1e-6):
        super().__init__()
        self.weight, self.epsilon = nn.Parameter(torch.ones(width)), epsilon

    def forward(self, x):
        y = x.float()
        return (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.epsilon) * self.weight).to(x.dtype)


def rotary_angles(width, context, base):
    frequency = base ** (-torch.arange(0, width, 2).double() / width)
    angle = torch.arange(context).double()[:, None] * frequency
    return angle.cos().float(), angle.sin().float()


def rotate(x, angles):
    """x: [batch, tokens, heads, width]; neighbouring channels are a pair."""
    cos, sin = (a[: x.shape[1], None, :] for a in angles)
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2).to(x.dtype)


def causal_attention(q, k, v, scale):
    """[batch, tokens, heads, width] each, heads of k and v repeated as needed; v may be narrower than q and k."""
    repeat = q.shape[2] // k.shape[2]
    if repeat > 1:
        k, v = (x.repeat_interleave(repeat, 2) for x in (k, v))
    width = v.shape[-1]
    if width != q.shape[-1]:  # the fast kernels want equal widths
        v = F.pad(v, (0, q.shape[-1] - width))
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale).transpose(1, 2)[..., :width]


class Shift(nn.Module):
    """h_t + weight * (h_(t-1) - h_t): costs one row per sequence, not per token."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, h):
        return h + self.weight.to(h.dtype) * (before(h) - h)


def before(h):
    """The row of the token before; zeros before the first."""
    return F.pad(h, (0, 0, 1, 0))[:, :-1]


def seen_by_writer(config, h):
    rows = [h]
    for _ in range(config.look_back):
        rows.append(before(rows[-1]))
    return torch.cat(rows, -1)


# --------------------------------------------------------------------------------------------------------- attention


def gated(gate, h, heads):
    """heads: [batch, tokens, heads, width], each weighted by twice a sigmoid: 1 where the gate knows nothing."""
    return heads if gate is None else heads * (2 * torch.sigmoid(gate(h))).unsqueeze(-1).to(heads.dtype)


class HeadAttention(nn.Module):
    """mha, gqa, mqa, cla: keys (normalised and rotated) and values of heads are stored."""

    def __init__(self, config, writes):
        super().__init__()
        self.config = config
        n = config.heads * config.head_dim
        self.query = nn.Linear(config.width, n, bias=False)
        self.query_norm = RMSNorm(config.head_dim)
        self.query_norm.weight.data[:] = config.query_gain
        self.out = nn.Linear(n, config.width, bias=False)
        self.gate = nn.Linear(config.width, config.heads, bias=False) if config.gate else None
        self.writes = writes
        if writes:
            self.key_value = nn.Linear(config.width * (1 + config.look_back), 2 * config.kv_heads * config.head_dim, bias=False)
            if config.writer:
                self.write = FeedForward(config.width * (1 + config.look_back), config.writer, 2 * config.kv_heads * config.head_dim)
            self.key_norm = RMSNorm(config.head_dim)
            if config.shift:
                self.shift = Shift(config.width)
            if config.token_table:
                self.table = nn.Linear(config.width, config.kv_heads * config.head_dim, bias=False)

    def row(self, h, ids, angles):
        """What this layer stores: keys and values."""
        if self.config.shift:
            h = self.shift(h)
        seen = seen_by_writer(self.config, h)
        row = self.key_value(seen)
        if self.config.writer:
            row = row + self.write(seen)
        k, v = row.unflatten(-1, (2, self.config.kv_heads, -1)).unbind(2)
        if self.config.token_table:
            v = v + self.table(ids).unflatten(-1, (self.config.kv_heads, -1))
        return rotate(self.key_norm(k), angles), v

    def forward(self, h, rows, angles):
        k, v = rows[-1]
        q = rotate(self.query_norm(self.query(h).unflatten(-1, (self.config.heads, -1))), angles)
        return self.out(gated(self.gate, h, causal_attention(q, k, v, self.config.head_dim**-0.5)).flatten(-2))


class LatentAttention(nn.Module):
    """mla, clla, clla-int4: one latent and one rotary key are stored, of which every reader makes its own heads."""

    def __init__(self, config, writes, slots_read):
        super().__init__()
        self.config = config
        n = config.heads * config.head_dim
        self.slots_read = slots_read
        self.query = nn.Linear(config.width, config.heads * (config.head_dim + config.rotary), bias=False)
        self.query_norm = RMSNorm(config.head_dim + config.rotary)
        self.query_norm.weight.data[: config.head_dim] = config.query_gain
        self.query_norm.weight.data[config.head_dim:] = config.rotary_gain
        self.up_key = nn.Linear(slots_read * config.latent, n, bias=False)
        self.up_value = nn.Linear(slots_read * config.latent, n, bias=False)
        self.out = nn.Linear(n, config.width, bias=False)
        self.gate = nn.Linear(config.width, config.heads, bias=False) if config.gate else None
        self.writes = writes
        if writes:
            self.down = nn.Linear(config.width * (1 + config.look_back), config.latent + config.rotary, bias=False)
            if config.writer:
                self.write = FeedForward(config.width * (1 + config.look_back), config.writer, config.latent + config.rotary)
            self.latent_norm = RMSNorm(config.latent)
            if config.squash:  # 2 Phi(x) - 1, which makes a Gaussian uniform, is close to tanh(0.8 x)
                self.latent_norm.weight.data[:] = 0.8
            self.rotary_norm = RMSNorm(config.rotary)
            latent, rotary = config.grids()
            self.latent_grid = Quantizer(config.latent, latent, config.range, config.rotate, config.stochastic)
            self.rotary_grid = Quantizer(config.rotary, rotary, "edge" if config.range == "edge" else "amax")
            if config.shift:
                self.shift = Shift(config.width)
            if config.token_table:
                self.table = nn.Linear(config.width, config.latent, bias=False)

    def row(self, h, ids, angles):
        """What this layer stores, as it comes back from the cache: every token is seen dequantized, its own too."""
        if self.config.shift:
            h = self.shift(h)
        seen = seen_by_writer(self.config, h)
        row = self.down(seen)
        if self.config.writer:
            row = row + self.write(seen)
        c, kr = row.split((self.config.latent, self.config.rotary), -1)
        c = self.latent_norm(c)
        c = self.latent_grid(torch.tanh(c) if self.config.squash else c)
        kr = self.rotary_grid(rotate(self.rotary_norm(kr).unsqueeze(2), angles).squeeze(2))
        if self.config.token_table:  # known from the id, so it need not be stored
            c = c + self.table(ids)
        return c, kr

    def queries(self, h, angles):
        q = self.query_norm(self.query(h).unflatten(-1, (self.config.heads, -1)))
        qn, qr = q.split((self.config.head_dim, self.config.rotary), -1)
        return qn, rotate(qr, angles)

    def latents(self, rows):
        return torch.cat([c for c, _ in rows[-self.slots_read:]], -1), rows[-1][1]

    def forward(self, h, rows, angles):
        """Expanded: the latent becomes keys and values of all heads (training, prompts)."""
        c, kr = self.latents(rows)
        qn, qr = self.queries(h, angles)
        k = self.up_key(c).unflatten(-1, (self.config.heads, -1))
        v = self.up_value(c).unflatten(-1, (self.config.heads, -1))
        k = torch.cat((k, kr.unsqueeze(2).expand(-1, -1, self.config.heads, -1).to(k.dtype)), -1)
        q = torch.cat((qn, qr), -1)
        return self.out(gated(self.gate, h, causal_attention(q, k, v, q.shape[-1]**-0.5)).flatten(-2))

    def absorbed(self, h, rows, angles):
        """The same function on the latent itself, as kvc attends: W_uk moves to the query, W_uv to the output."""
        c, kr = self.latents(rows)
        qn, qr = self.queries(h, angles)
        up_key = self.up_key.weight.unflatten(0, (self.config.heads, -1))
        up_value = self.up_value.weight.unflatten(0, (self.config.heads, -1))
        qa = torch.einsum("bthd,hdr->bthr", qn, up_key)
        score = torch.einsum("bthr,bjr->bhtj", qa, c) + torch.einsum("bthr,bjr->bhtj", qr, kr)
        score = score / math.sqrt(self.config.head_dim + self.config.rotary)
        future = torch.ones(score.shape[-2:], dtype=torch.bool, device=score.device).triu(1)
        weight = score.masked_fill(future, -math.inf).softmax(-1)
        z = torch.einsum("bhtj,bjr->bthr", weight, c)
        return self.out(gated(self.gate, h, torch.einsum("bthr,hdr->bthd", z, up_value)).flatten(-2))


# --------------------------------------------------------------------------------------------------------- the model


class FeedForward(nn.Module):
    def __init__(self, width, inner, outputs=None):
        super().__init__()
        self.up = nn.Linear(width, 2 * inner, bias=False)
        self.out = nn.Linear(inner, outputs or width, bias=False)

    def forward(self, x):
        gate, value = self.up(x).chunk(2, -1)
        return self.out(F.silu(gate) * value)


class Layer(nn.Module):
    def __init__(self, config, index):
        super().__init__()
        self.slot = int(config.slots[index])
        writes = config.slots.index(config.slots[index]) == index
        self.attention_norm = RMSNorm(config.width)
        if config.is_latent:
            self.attention = LatentAttention(config, writes, min(config.reach, self.slot + 1))
        else:
            self.attention = HeadAttention(config, writes)
        self.feed_forward_norm = RMSNorm(config.width)
        self.feed_forward = FeedForward(config.width, config.feed_forward)
        self.attention_mix = Shift(config.width) if config.mix else nn.Identity()
        self.feed_forward_mix = Shift(config.width) if config.mix else nn.Identity()

    def forward(self, x, cache, ids, angles, absorbed=False):
        h = self.attention_norm(x)
        if self.attention.writes:
            cache.append(self.attention.row(h, ids, angles))
        attend = self.attention.absorbed if absorbed else self.attention
        x = x + attend(self.attention_mix(h), cache[: self.slot + 1], angles)
        return x + self.feed_forward(self.feed_forward_mix(self.feed_forward_norm(x)))


class Model(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config = filled(config)
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.layers))
        self.norm = RMSNorm(config.width)
        rotated = config.rotary if config.is_latent else config.head_dim
        cos, sin = rotary_angles(rotated, config.context, config.rotary_base)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.start()

    def start(self):
        """Every matrix keeps the size of what it multiplies; what ends in the residual stream starts small."""
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                deviation = 0.02 if name.startswith("embedding") else 0.5 * parameter.shape[1] ** -0.5
                if name.endswith(".out.weight"):
                    deviation /= math.sqrt(2 * self.config.layers)
                if name.endswith(".table.weight"):
                    deviation = 0.0
                nn.init.normal_(parameter, std=deviation)

    def forward(self, tokens, absorbed=False):
        """[batch, tokens] -> logits [batch, tokens, vocabulary]"""
        x = self.embedding(tokens)
        ids = F.rms_norm(x, x.shape[-1:]) if self.config.token_table else None
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        cache, angles = [], (self.cos, self.sin)
        for layer in self.layers:
            x = layer(x, cache, ids, angles, absorbed)
        return F.linear(self.norm(x), self.embedding.weight)

    def loss(self, batch):
        logits = self(batch[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())

    def quantizers(self):
        return [module for module in self.modules() if isinstance(module, Quantizer)]


def parameters(config):
    with torch.device("meta"):
        return sum(p.numel() for p in Model(config).parameters())


def filled(config):
    """The config with the feed-forward width that gives it as many parameters as its mha sibling has."""
    if config.feed_forward:
        return config
    plain = Config(width=config.width, layers=config.layers, heads=config.heads, head_dim=config.head_dim,
                   vocabulary=config.vocabulary, context=config.context, feed_forward=3 * config.width)
    if dataclasses.asdict(plain) == dataclasses.asdict(config) | {"feed_forward": 3 * config.width}:
        return plain
    wanted, probe = parameters(plain), dataclasses.replace(config, feed_forward=8)
    one = 3 * config.width * config.layers  # parameters of one more feed-forward channel
    return dataclasses.replace(config, feed_forward=8 + 8 * round((wanted - parameters(probe)) / (8 * one)))
