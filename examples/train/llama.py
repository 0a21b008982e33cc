# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""A Llama-architecture model read from a GGUF file: the teacher of convert.py, and all of the student but its attention.

Row vectors; every matrix is an nn.Linear as elsewhere here. Rotary pairs are neighbouring channels, as GGUF keeps them.
"""

import dataclasses
import functools

import torch
import torch.nn.functional as F
from torch import nn

from model import RMSNorm, causal_attention, rotary_angles, rotate


@dataclasses.dataclass(frozen=True)
class Shape:
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int
    vocabulary: int
    rotary_base: float
    epsilon: float


@functools.lru_cache(maxsize=8)
def angles_of(shape, tokens, device):
    return [a.to(device) for a in rotary_angles(shape.head_dim, tokens, shape.rotary_base)]


class FeedForward(nn.Module):
    def __init__(self, width, inner):
        super().__init__()
        self.gate, self.up = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


class GroupedAttention(nn.Module):
    """Grouped-query attention; [batch, tokens, width] -> the same."""

    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        self.query = nn.Linear(shape.width, shape.heads * shape.head_dim, bias=False)
        self.key = nn.Linear(shape.width, shape.kv_heads * shape.head_dim, bias=False)
        self.value = nn.Linear(shape.width, shape.kv_heads * shape.head_dim, bias=False)
        self.out = nn.Linear(shape.heads * shape.head_dim, shape.width, bias=False)

    def heads(self, h):
        """Queries, keys (both before rotary) and values: [batch, tokens, heads, head dim]."""
        return (of(h).unflatten(-1, (-1, self.shape.head_dim)) for of in (self.query, self.key, self.value))

    def forward(self, h, rows, angles, mask=None):
        q, k, v = self.heads(h)
        q, k = rotate(q, angles), rotate(k, angles)
        if mask is None:
            return self.out(causal_attention(q, k, v, self.shape.head_dim**-0.5).flatten(-2))
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        return self.out(mixed.transpose(1, 2).flatten(-2))


class Layer(nn.Module):
    def __init__(self, shape, attention):
        super().__init__()
        self.attention_norm, self.attention = RMSNorm(shape.width, shape.epsilon), attention
        self.feed_forward_norm = RMSNorm(shape.width, shape.epsilon)
        self.feed_forward = FeedForward(shape.width, shape.feed_forward)

    def forward(self, x, rows, angles, mask=None):
        x = x + self.attention(self.attention_norm(x), rows, angles, mask)
        return x + self.feed_forward(self.feed_forward_norm(x))


class Llama(nn.Module):
    """`attentions`: one module per layer, called with (h, rows, angles, mask); `rows` is theirs to share. mask: which keys a
    query may see, bool [tokens, tokens]; none: all up to itself."""

    def __init__(self, shape, attentions=None):
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        attentions = attentions or [GroupedAttention(shape) for _ in range(shape.layers)]
        self.layers = nn.ModuleList(Layer(shape, attention) for attention in attentions)
        self.norm = RMSNorm(shape.width, shape.epsilon)

    def features(self, tokens, mask=None):
        """What the logits are made from: [batch, tokens, width]."""
        x = self.embedding(tokens)
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        angles = angles_of(self.shape, tokens.shape[1], str(x.device))
        rows = []
        for layer in self.layers:
            x = layer(x, rows, angles, mask)
        return self.norm(x)

    def forward(self, tokens, mask=None):
        return F.linear(self.features(tokens, mask), self.embedding.weight)


NAMES = {"attention_norm": "attn_norm", "feed_forward_norm": "ffn_norm", "attention.query": "attn_q", "attention.key": "attn_k",
         "attention.value": "attn_v", "attention.out": "attn_output", "feed_forward.gate": "ffn_gate",
         "feed_forward.up": "ffn_up", "feed_forward.down": "ffn_down"}


def read(path):
    """The model of a GGUF file, dequantized to fp32."""
    import gguf
    reader = gguf.GGUFReader(path)
    fact = lambda key: reader.fields[key].contents()
    if fact("general.architecture") != "llama":
        raise ValueError(f"{path}: the architecture is {fact('general.architecture')}, not llama")
    tensors = {t.name: t for t in reader.tensors}
    of = lambda name: torch.from_numpy(gguf.quants.dequantize(tensors[name].data, tensors[name].tensor_type).copy()).float()
    embedding = of("token_embd.weight")
    if "output.weight" in tensors:
        raise ValueError(f"{path}: logits with a matrix of their own are not served")
    heads, width = fact("llama.attention.head_count"), fact("llama.embedding_length")
    shape = Shape(width, fact("llama.block_count"), heads, fact("llama.attention.head_count_kv"), width // heads,
                  fact("llama.feed_forward_length"), embedding.shape[0], fact("llama.rope.freq_base"),
                  fact("llama.attention.layer_norm_rms_epsilon"))
    state = {"embedding.weight": embedding, "norm.weight": of("output_norm.weight")}
    for i in range(shape.layers):
        state |= {f"layers.{i}.{mine}.weight": of(f"blk.{i}.{theirs}.weight") for mine, theirs in NAMES.items()}
    with torch.device("meta"):
        model = Llama(shape)
    model.load_state_dict(state, assign=True)
    return model


def tokenizer(path):
    """The byte-level BPE inside the file, every digit on its own (`smollm`), as a `tokenizers` object."""
    import gguf
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    fields = gguf.GGUFReader(path).fields
    if fields["tokenizer.ggml.pre"].contents() != "smollm":
        raise ValueError(f"{path}: its pre-tokenizer is {fields['tokenizer.ggml.pre'].contents()}, not smollm")
    vocabulary = {token: i for i, token in enumerate(fields["tokenizer.ggml.tokens"].contents())}
    merges = [tuple(pair.split(" ")) for pair in fields["tokenizer.ggml.merges"].contents()]
    made = Tokenizer(models.BPE(vocabulary, merges))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\p{N}"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    made.decoder = decoders.ByteLevel()
    return made
