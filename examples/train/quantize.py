# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The grids that kvc stores, trained in: what the forward pass sees is exactly what the cache would give back.

A *group* of values (here usually a whole latent: one group) becomes integer codes, a scale and perhaps an offset:

    affine      offset = fp16(min), rounded down     scale = fp16((max - offset) / (2^b - 1)), rounded up
                code = round((x - offset) / scale)   x^ = code * scale + offset
    symmetric   (mid-tread, 2^b - 1 levels)          scale = fp16(amax / (2^(b-1) - 1)), rounded up
                code = round(x / scale)              x^ = code * scale
    midrise     (2^b levels, none of them zero)      scale = fp16(amax / 2^(b-1)), rounded up
                code = floor(x / scale) + 2^(b-1)    x^ = (2 code - (2^b - 1)) * scale / 2

(docs/formats.md; amax is the edge of midrise's outermost step, not its level, so that steps are smaller.) Scales are rounded
*up* and offsets *down*, so that no value falls off the grid, and codes are computed from the rounded scale, as any decoder
will use it, by its fp32 inverse, as kvc does. tests/engine/trained_model.cpp holds this file against kvc. Rows are rounded to bfloat16 before they are encoded, because that is what a cache is
handed. `amax` may be multiplied by a learned clip, or replaced by a learned multiple of the group's RMS: the stored form
does not change, only which scale the encoder picks.
"""

import dataclasses

import torch

FP16_MAX = 65504.0


@dataclasses.dataclass(frozen=True)
class Grid:
    bits: int = 4
    kind: str = "midrise"  # affine | symmetric | midrise
    group: int = 0  # values that share a scale; 0: the whole segment

    def metadata_bytes(self, width):
        groups = 1 if self.group == 0 else -(-width // self.group)
        return groups * (4 if self.kind == "affine" else 2)

    def bytes(self, width):
        if self.bits == 16:
            return 2 * width
        return -(-width * self.bits // 8) + self.metadata_bytes(width)


# The three roundings work on the bits of fp32. x.to(float16).float() would say the same, but a compiler that fuses may
# leave such a round trip out, and training would then see scales that no cache stores.

FP16_LOW_BITS = (1 << 13) - 1  # fp32 has 13 more mantissa bits than fp16
FP16_TINY = 2.0**-24  # the spacing of fp16's subnormals
FP16_NORMAL = 2.0**-14


def fp16_up(x):
    """The smallest fp16 not below x (x >= 0), as fp32."""
    x = x.clamp(max=FP16_MAX)
    normal = ((x.view(torch.int32) + FP16_LOW_BITS) & ~FP16_LOW_BITS).view(torch.float32)
    return torch.where(x >= FP16_NORMAL, normal, torch.ceil(x / FP16_TINY) * FP16_TINY)


def fp16_down(x):
    """The largest fp16 not above x, as fp32."""
    x = x.clamp(-FP16_MAX, FP16_MAX)
    toward_zero = (x.view(torch.int32) & ~FP16_LOW_BITS).view(torch.float32)
    normal = torch.where(x < 0, -fp16_up(-x), toward_zero)
    return torch.where(x.abs() >= FP16_NORMAL, normal, torch.floor(x / FP16_TINY) * FP16_TINY)


def bf16_nearest(x):
    """bfloat16, ties to even, as fp32: what a cache is handed."""
    bits = x.view(torch.int32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000).view(torch.float32)


def encode(x, grid, amax=None):
    """x: fp32 [..., values of one group] -> (codes, scale, offset), each [..., n or 1]. `amax` overrides the range."""
    top = 2**grid.bits - 1
    if grid.kind == "affine":
        offset = fp16_down(x.amin(-1, keepdim=True))
        scale = fp16_up((x.amax(-1, keepdim=True) - offset) / top)
    else:
        offset = None
        amax = x.abs().amax(-1, keepdim=True) if amax is None else amax
        scale = fp16_up(amax / (top // 2 if grid.kind == "symmetric" else top // 2 + 1))
    inverse = torch.where(scale > 0, 1.0 / scale, torch.zeros_like(scale))  # an all-equal group has scale 0
    if grid.kind == "affine":
        codes = torch.round((x - offset) * inverse).clamp(0, top)
    elif grid.kind == "symmetric":
        codes = torch.round(x * inverse).clamp(-(top // 2), top // 2)
    else:
        codes = (torch.floor(x * inverse) + 2 ** (grid.bits - 1)).clamp(0, top)
    return codes, scale, offset


def decode(codes, scale, offset, grid):
    if grid.kind == "affine":
        return codes * scale + offset
    if grid.kind == "symmetric":
        return codes * scale
    return (2 * codes - (2**grid.bits - 1)) * (scale / 2)


def hadamard(n):
    """An orthonormal Hadamard matrix of the largest power of two that divides n, block-diagonal, with fixed signs."""
    block = n & -n
    h = torch.ones(1, 1)
    while h.shape[0] < block:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)], 0)
    signs = torch.randint(0, 2, (n,), generator=torch.Generator().manual_seed(20)) * 2.0 - 1.0
    return torch.block_diag(*[h / block**0.5] * (n // block)) * signs


def rounded(x):
    """bf16_nearest with the gradient of the identity; x - x is zero, so the value is exact."""
    return x - x.detach() + bf16_nearest(x.detach())


class Quantizer(torch.nn.Module):
    """Straight-through: the forward pass returns decode(encode(x)); the gradient passes as if it had returned x.

    With `range="clip"` or `"rms"` the range is a learned multiple of the group's amax or RMS. Then the gradient is that of
    the clamped ramp, and the multiple gets the rounding error's gradient (learned step size). With `range="edge"` the scale is
    amax's, and the value that it is made from gets that gradient: it learns what its group pays for it.
    `strength` in [0, 1] blends the grid in (quantization warmed in); evaluation always uses the full grid.
    """

    # the range (the edge of the outermost step) that is best for a Gaussian, as a multiple of its deviation, and of its
    # expected amax over 128 values
    RMS_START = {2: 1.99, 3: 2.34, 4: 2.68, 8: 4.0}
    CLIP_START = {2: 0.75, 3: 0.88, 4: 1.0, 8: 1.0}

    def __init__(self, width, grid, range="amax", rotate=False, stochastic=False):
        super().__init__()
        assert range in ("amax", "edge", "clip", "rms") and (range == "amax" or grid.kind != "affine")
        self.width, self.grid, self.range, self.stochastic = width, grid, range, stochastic
        if range in ("clip", "rms"):
            start = (self.CLIP_START if range == "clip" else self.RMS_START)[grid.bits]
            self.multiple = torch.nn.Parameter(torch.tensor(start))
        self.register_buffer("rotation", hadamard(width) if rotate else None, persistent=False)
        self.register_buffer("strength", torch.ones(()), persistent=False)

    def groups(self, x):
        if self.grid.group in (0, self.width):
            return x.unsqueeze(-2)
        assert self.width % self.grid.group == 0, "training wants groups that divide the segment"
        return x.unflatten(-1, (-1, self.grid.group))

    def span(self, x):
        if self.range == "amax":
            return None
        if self.range == "edge":
            return x.abs().amax(-1, keepdim=True)
        if self.range == "clip":
            return self.multiple * x.detach().abs().amax(-1, keepdim=True)
        return self.multiple * x.detach().square().mean(-1, keepdim=True).sqrt()

    def forward(self, x):
        if self.grid.bits == 16:
            return x
        with torch.autocast(x.device.type, enabled=False):
            dtype, x = x.dtype, rounded(x.float())
            if self.rotation is not None:
                x = x @ self.rotation.float()
            x = self.groups(x)
            span = self.span(x)
            codes, scale, offset = encode(x.detach(), self.grid, None if span is None else span.detach())
            if self.training and self.stochastic:  # early in training: round at random, up or down; no value is favoured
                codes = self.rounded_at_random(x.detach(), codes, scale)
            value = decode(codes, scale, offset, self.grid)
            ramp = x if span is None else self.ramp(x, span, value, scale)
            if self.training:
                value = value * self.strength + x.detach() * (1 - self.strength)
            # the value is exactly the decoded one, the gradient is the ramp's
            out = (ramp - ramp.detach() + value).flatten(-2)
            if self.rotation is not None:
                out = out @ self.rotation.float().T
            return out.to(dtype)

    def ramp(self, x, span, value, scale):
        """d/dx = 1 inside the range, 0 outside; d/dspan = sign outside, (x^ - x) / span inside."""
        inside = (x.abs() <= span).float()
        slope = torch.where(inside > 0, (value - x.detach()) / span.detach().clamp(min=1e-12), torch.sign(x.detach()))
        return x * inside + slope * span

    def rounded_at_random(self, x, codes, scale):
        top = 2**self.grid.bits - 1
        if self.grid.kind != "midrise":
            return codes
        u = x / torch.where(scale > 0, scale, torch.ones_like(scale)) + top / 2
        noisy = torch.floor(u + torch.rand_like(u)).clamp(0, top)
        return torch.where(self.strength < 1, noisy, codes)
