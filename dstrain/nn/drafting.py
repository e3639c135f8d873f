"""The further heads at work during generation: they propose the tokens behind the next one, which is known.

Shapes: B rows, T new positions, S slots of a row's tokens, C channels, F inside a feed-forward, D further heads, H of
them asked at once, R positions of a tail, W of a window.

A draft is right or wrong, never dangerous: whoever asked for it checks it. Only known tokens and the drafts of the same
call decide one, so no draft that was refused leaves a trace.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dstrain.nn.cache import KvCache
from dstrain.nn.layers import NORM_EPS
from dstrain.nn.next_heads import ParallelHead, SequentialHead
from dstrain.nn.positions import Turns

Pick = Callable[[int, Tensor], None]
"""Hears (the number of the first of H heads, their hidden states [B, H, C]) and writes a token of each into ids_BS: of
head d, counted from 1, d places behind the newest known token"""


class Drafter(Protocol):
    heads: int

    def draft(self, x_BTC: Tensor, new_B: Tensor, ids_BS: Tensor, pick: Pick) -> None:
        """`x_BTC`: the trunk's output at positions that follow those of the calls before, the first `new_B[b]` of row
        b; `ids_BS`: each row's tokens, known up to the one behind the last of these positions."""


class ParallelDrafter:
    """All heads at once, on the last position alone: their weights are stacked for it."""

    def __init__(self, heads: Sequence[ParallelHead]) -> None:
        self.heads = len(heads)
        self._ff_norm_D1C = torch.stack([head.ff_norm.weight for head in heads]).unsqueeze(1)
        self._gate_up_DCF = torch.stack([head.ff.gate_up.weight.T for head in heads])
        self._down_DFC = torch.stack([head.ff.down.weight.T for head in heads])
        self._norm_DC = torch.stack([head.norm.weight for head in heads])

    def draft(self, x_BTC: Tensor, new_B: Tensor, ids_BS: Tensor, pick: Pick) -> None:
        x_BC = _at(x_BTC, new_B - 1)
        gate_DBF, up_DBF = torch.bmm(_rms(x_BC) * self._ff_norm_D1C, self._gate_up_DCF).chunk(2, dim=-1)
        x_DBC = x_BC + torch.bmm(F.silu(gate_DBF) * up_DBF, self._down_DFC)
        pick(1, _rms(x_DBC).transpose(0, 1) * self._norm_DC)


class SequentialDrafter:
    """One head after the other, each with keys and values of its own, on the token that the one before proposed.

    Head d at a position reads the token d places on: at a row's last positions that is a draft. What was computed there
    is made again in the next call, when those tokens are known: of each row the tail, D - 1 positions, is computed
    twice. So all heads have the same positions, and their caches are one.
    """

    def __init__(self, heads: Sequence[SequentialHead], embed: nn.Embedding, turns: Callable[[Tensor], Turns | None],
                 cache: KvCache) -> None:
        self.heads = len(heads)
        self._heads, self._embed, self._turns, self._cache = heads, embed, turns, cache
        rows = len(cache.lengths_B)
        self._tail_BRC = embed.weight.new_zeros(rows, self.heads - 1, embed.weight.shape[1])
        self._tail_lengths_B = torch.zeros_like(cache.lengths_B)

    def draft(self, x_BTC: Tensor, new_B: Tensor, ids_BS: Tensor, pick: Pick) -> None:
        self._cache.take_back(self._tail_lengths_B)
        x_BWC, lengths_B = self._window(x_BTC, new_B)
        extension = self._cache.extend(x_BWC.shape[1], lengths_B)
        turns = self._turns(extension.positions_BT)
        for distance, (head, memory) in enumerate(zip(self._heads, extension.memories, strict=True), start=1):
            token_BWC = self._embed(ids_BS.gather(1, extension.positions_BT + distance))
            x_BWC, hidden_BWC = head(x_BWC, token_BWC, extension.can_attend_B1TS, turns, None, None, memory)
            pick(distance, _at(hidden_BWC, lengths_B - 1).unsqueeze(1))

    def _window(self, x_BTC: Tensor, new_B: Tensor) -> tuple[Tensor, Tensor]:
        """Each row's tail and what is new, from the left; and how many these are. It also keeps the next tail."""
        most = self._tail_BRC.shape[1]
        both_BWC = torch.cat([self._tail_BRC, x_BTC], dim=1)
        first_B1, lengths_B = (most - self._tail_lengths_B)[:, None], self._tail_lengths_B + new_B
        places_W = torch.arange(both_BWC.shape[1], device=x_BTC.device)
        window_BWC = _taken(both_BWC, (first_B1 + places_W).clamp(max=len(places_W) - 1))
        self._tail_BRC = _taken(both_BWC, new_B[:, None] + places_W[:most])
        self._tail_lengths_B = lengths_B.clamp(max=most)
        return window_BWC, lengths_B


def _at(x_BTC: Tensor, places_B: Tensor) -> Tensor:
    """[B, C]; where a place is negative, any."""
    return x_BTC[torch.arange(len(x_BTC), device=x_BTC.device), places_B.clamp(min=0)]


def _taken(x_BTC: Tensor, places_BW: Tensor) -> Tensor:
    return x_BTC.gather(1, places_BW.unsqueeze(-1).expand(-1, -1, x_BTC.shape[2]))


def _rms(x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], eps=NORM_EPS)
