"""Causal self-attention over packed documents.

Shapes: B rows, T positions, S positions that may be attended, C channels, H heads, D channels of a head.

Query, key and value are one projection of [3C, C], rows in that order. One large matrix product is the fastest, and
both exports are plain reshapes of it: GPT-2's c_attn is its transpose; Llama's q_proj, k_proj and v_proj are its thirds
(the rotary halves are Llama's too, so no channel moves).

There is no dropout on the attention probabilities: inside SDPA it costs three to four times the time, and could
not be keyed by row and position.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from dstrain.nn.cache import LayerMemory
from dstrain.nn.positions import Turns, turned


class SelfAttention(nn.Module):
    MATRICES = {"qkv.weight": 3, "out.weight": 1}

    def __init__(self, width: int, heads: int, bias: bool) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}: change one")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)

    def forward(self, x_BTC: Tensor, can_attend_B1TS: Tensor, turns: Turns | None,
                memory: LayerMemory | None = None) -> Tensor:
        rows, length, width = x_BTC.shape
        q_BTHD, k_BTHD, v_BTHD = self.qkv(x_BTC).view(rows, length, 3, self.heads, width // self.heads).unbind(2)
        if turns is not None:
            q_BTHD, k_BTHD = turned(q_BTHD, turns), turned(k_BTHD, turns)
        if memory is not None:
            k_BTHD, v_BTHD = memory.append(k_BTHD, v_BTHD)
        mixed_BHTD = F.scaled_dot_product_attention(q_BTHD.transpose(1, 2), k_BTHD.transpose(1, 2),
                                                    v_BTHD.transpose(1, 2), attn_mask=can_attend_B1TS)
        return self.out(mixed_BHTD.transpose(1, 2).reshape(rows, length, width))
