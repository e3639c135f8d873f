"""Attention of a target's positions to its source: queries from the decoder, keys and values from the encoder's output.

Shapes: B rows, N rows that are picked, T positions of the target, S of the source, C channels, H heads, D channels of
a head.

Key and value are one projection of [2C, C], rows in that order. Positions play no part here unless both sides are
turned by them: the encoder's output knows them already.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from dstrain.nn.positions import Turns, turned


class SourceKeys(NamedTuple):
    """One layer's keys and values of a source."""

    k_BSHD: Tensor
    v_BSHD: Tensor


class SourceMemory(NamedTuple):
    """All that a decoder needs of its sources, computed once for as many calls as it takes to write the targets.

    Each source may serve several rows, the beams of a search: as many for each, standing one after another.
    """

    layers: list[SourceKeys]
    can_attend_B11S: Tensor

    def of_rows(self, rows_N: Tensor) -> SourceMemory:
        """The same of these rows, in this order."""
        layers = [SourceKeys(*(tensor.index_select(0, rows_N) for tensor in layer)) for layer in self.layers]
        return SourceMemory(layers, self.can_attend_B11S.index_select(0, rows_N))


class CrossAttention(nn.Module):
    MATRICES = {"q.weight": 1, "kv.weight": 2, "out.weight": 1}

    def __init__(self, width: int, heads: int, bias: bool) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}: change one")
        self.heads = heads
        self.q = nn.Linear(width, width, bias=bias)
        self.kv = nn.Linear(width, 2 * width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)

    def forward(self, x_BTC: Tensor, source: Tensor | SourceKeys, can_attend_B11S: Tensor, turns: Turns | None = None,
                source_turns: Turns | None = None) -> Tensor:
        """`source`: the encoder's output [B, S, C], or what `keys` made of it."""
        k_BSHD, v_BSHD = source if isinstance(source, SourceKeys) else self.keys(source, source_turns)
        rows, length, width = x_BTC.shape
        q_BTHD = self.q(x_BTC).view(rows, length, self.heads, width // self.heads)
        if turns is not None:
            q_BTHD = turned(q_BTHD, turns)
        # Rows that share a source stand one after another: to it they are more positions of one row.
        q_BTHD = q_BTHD.reshape(len(k_BSHD), rows // len(k_BSHD) * length, self.heads, width // self.heads)
        mixed_BHTD = F.scaled_dot_product_attention(q_BTHD.transpose(1, 2), k_BSHD.transpose(1, 2),
                                                    v_BSHD.transpose(1, 2), attn_mask=can_attend_B11S)
        return self.out(mixed_BHTD.transpose(1, 2).reshape(rows, length, width))

    def keys(self, source_BSC: Tensor, turns: Turns | None = None) -> SourceKeys:
        rows, length, width = source_BSC.shape
        k_BSHD, v_BSHD = self.kv(source_BSC).view(rows, length, 2, self.heads, width // self.heads).unbind(2)
        return SourceKeys(k_BSHD if turns is None else turned(k_BSHD, turns), v_BSHD)
