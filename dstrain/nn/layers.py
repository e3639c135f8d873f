"""The blocks and their parts: norms, the two feed-forwards, dropout on what is added to the residual stream.

Shapes: B rows, T positions, C channels; S positions that may be attended, where a source stands beside them those of
the source, and U those of the row itself.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from dstrain.nn.attention import SelfAttention
from dstrain.nn.cache import LayerMemory
from dstrain.nn.chance import KeyedDropout
from dstrain.nn.cross_attention import CrossAttention, SourceKeys
from dstrain.nn.positions import Turns

NORM_EPS = 1e-5


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)): an encoder's or a language model's, as the mask says."""

    PARTS = ("attention", "ff")

    def __init__(self, kind: str, width: int, heads: int, ff: int | nn.Module, dropout: float) -> None:
        """`ff`: channels inside the feed-forward, or what stands in its place."""
        super().__init__()
        self.attention_norm = norm(kind, width)
        self.attention = SelfAttention(width, heads, bias=kind == "gelu")
        self.attention_dropout = KeyedDropout(dropout)
        self.ff_norm = norm(kind, width)
        self.ff = ff if isinstance(ff, nn.Module) else feed_forward(kind, width, ff)
        self.ff_dropout = KeyedDropout(dropout)

    def forward(self, x_BTC: Tensor, can_attend_B1TS: Tensor, turns: Turns | None, keys_B: Tensor | None,
                slots_T: Tensor | None, memory: LayerMemory | None = None) -> Tensor:
        x_BTC = self.attended(x_BTC, can_attend_B1TS, turns, keys_B, slots_T, memory)
        return x_BTC + self.ff_dropout(self.ff(self.ff_norm(x_BTC)), keys_B, slots_T)

    def attended(self, x_BTC: Tensor, can_attend_B1TS: Tensor, turns: Turns | None, keys_B: Tensor | None,
                 slots_T: Tensor | None, memory: LayerMemory | None) -> Tensor:
        """x + attention(norm(x)), to the row itself."""
        mixed_BTC = self.attention(self.attention_norm(x_BTC), can_attend_B1TS, turns, memory)
        return x_BTC + self.attention_dropout(mixed_BTC, keys_B, slots_T)

    def matrices(self) -> dict[str, int]:
        """Its weight matrices by name, and how many stand in each, one below the other."""
        return {f"{part}.{name}": count for part in self.PARTS
                for name, count in getattr(self, part).MATRICES.items()}


class CrossBlock(Block):
    """The same, with x + attention to a source(norm(x)) in between: the decoder's beside an encoder."""

    PARTS = ("attention", "cross_attention", "ff")

    def __init__(self, kind: str, width: int, heads: int, ff: int, dropout: float,
                 cross_heads: int | None = None) -> None:
        """`cross_heads`: of the attention to the source, by default as many as of that to itself."""
        super().__init__(kind, width, heads, ff, dropout)
        self.cross_norm = norm(kind, width)
        self.cross_attention = CrossAttention(width, cross_heads or heads, bias=kind == "gelu")
        self.cross_dropout = KeyedDropout(dropout)

    def forward(self, x_BTC: Tensor, can_attend_B1TU: Tensor, turns: Turns | None, source: Tensor | SourceKeys,
                can_attend_B11S: Tensor, keys_B: Tensor | None, slots_T: Tensor | None,
                memory: LayerMemory | None = None, cross_turns: Turns | None = None,
                source_turns: Turns | None = None) -> Tensor:
        x_BTC = self.attended(x_BTC, can_attend_B1TU, turns, keys_B, slots_T, memory)
        mixed_BTC = self.cross_attention(self.cross_norm(x_BTC), source, can_attend_B11S, cross_turns, source_turns)
        x_BTC = x_BTC + self.cross_dropout(mixed_BTC, keys_B, slots_T)
        return x_BTC + self.ff_dropout(self.ff(self.ff_norm(x_BTC)), keys_B, slots_T)


class PairBlock(CrossBlock):
    """Of an encoder of pairs: an input, or a lone row, attends itself alone, an output its input, too, at their
    places."""

    def forward(self, x_BTC: Tensor, can_attend_B11T: Tensor, turns: Turns, keys_B: Tensor | None,
                slots_T: Tensor, input_BSC: Tensor | None = None, can_attend_B11S: Tensor | None = None,
                asks: Turns | None = None, asked: Turns | None = None) -> Tensor:
        if input_BSC is None:
            return Block.forward(self, x_BTC, can_attend_B11T, turns, keys_B, slots_T)
        return super().forward(x_BTC, can_attend_B11T, turns, input_BSC, can_attend_B11S, keys_B, slots_T,
                               cross_turns=asks, source_turns=asked)


def norm(kind: str, width: int) -> nn.Module:
    """LayerNorm with bias for `gelu`, as GPT-2; RMSNorm for `swiglu`, as Llama."""
    if kind == "gelu":
        return nn.LayerNorm(width, eps=NORM_EPS)
    if kind == "swiglu":
        return nn.RMSNorm(width, eps=NORM_EPS)
    raise ValueError(f"block {kind!r} is unknown: use gelu or swiglu")


def feed_forward(kind: str, width: int, ff: int) -> nn.Module:
    return GeluFeedForward(width, ff) if kind == "gelu" else SwigluFeedForward(width, ff)


class GeluFeedForward(nn.Module):
    """GPT-2's: GELU in its tanh form, with biases."""

    MATRICES = {"up.weight": 1, "down.weight": 1}

    def __init__(self, width: int, ff: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, ff)
        self.down = nn.Linear(ff, width)

    def forward(self, x_BTC: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x_BTC), approximate="tanh"))


class SwigluFeedForward(nn.Module):
    """Llama's: one projection of [2 ff, C] whose first half is gate_proj and whose second is up_proj."""

    MATRICES = {"gate_up.weight": 2, "down.weight": 1}

    def __init__(self, width: int, ff: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(width, 2 * ff, bias=False)
        self.down = nn.Linear(ff, width, bias=False)

    def forward(self, x_BTC: Tensor) -> Tensor:
        gate, up = self.gate_up(x_BTC).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)
