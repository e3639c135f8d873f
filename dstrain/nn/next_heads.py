"""What stands between the last block and the output matrix for the heads that predict further tokens than the next.

Shapes: B rows, T positions, S positions that may be attended, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dstrain.nn.cache import LayerMemory
from dstrain.nn.layers import Block, SwigluFeedForward, norm
from dstrain.nn.positions import Turns


class ParallelHead(nn.Module):
    """x + feed-forward(norm(x)) of the last block's output, then a norm: it sees no more than the first head."""

    def __init__(self, width: int, ff: int) -> None:
        super().__init__()
        self.ff_norm = norm("swiglu", width)
        self.ff = SwigluFeedForward(width, ff)
        self.norm = norm("swiglu", width)

    def forward(self, x_BTC: Tensor) -> Tensor:
        return self.norm(x_BTC + self.ff(self.ff_norm(x_BTC)))

    def matrices(self) -> dict[str, int]:
        return {f"ff.{name}": count for name, count in self.ff.MATRICES.items()}


class SequentialHead(nn.Module):
    """A block on what the head before has and on the embedding of the token that it predicts, which is known in
    training; with a norm of each, and one for the output matrix."""

    def __init__(self, width: int, heads: int, ff: int, dropout: float) -> None:
        super().__init__()
        self.before_norm, self.token_norm = norm("swiglu", width), norm("swiglu", width)
        self.join = nn.Linear(2 * width, width, bias=False)
        self.block = Block("swiglu", width, heads, ff, dropout)
        self.norm = norm("swiglu", width)

    def forward(self, before_BTC: Tensor, token_BTC: Tensor, can_attend_B1TS: Tensor, turns: Turns | None,
                keys_B: Tensor | None, slots_T: Tensor | None,
                memory: LayerMemory | None = None) -> tuple[Tensor, Tensor]:
        """(what the next head goes on from, this head's hidden states)."""
        joined_BTC = self.join(torch.cat([self.before_norm(before_BTC), self.token_norm(token_BTC)], dim=-1))
        x_BTC = self.block(joined_BTC, can_attend_B1TS, turns, keys_B, slots_T, memory)
        return x_BTC, self.norm(x_BTC)

    def matrices(self) -> dict[str, int]:
        return {"join.weight": 1} | {f"block.{name}": count for name, count in self.block.matrices().items()}


def ahead(x_BTC: Tensor, segments_BT: Tensor, distance: int) -> Tensor:
    """What stands `distance` further on in the same document, zeros where that has ended."""
    return torch.where(goes_on(segments_BT, distance).unsqueeze(-1), _shifted(x_BTC, distance), 0)


def goes_on(segments_BT: Tensor, distance: int) -> Tensor:
    """Where a document has a further token that far on, in the same row."""
    same_BT = (_shifted(segments_BT, distance) == segments_BT) & (segments_BT >= 0)
    slots_T = torch.arange(segments_BT.shape[1], device=segments_BT.device)
    return same_BT & (slots_T < segments_BT.shape[1] - distance)


def _shifted(tensor: Tensor, distance: int) -> Tensor:
    return tensor.roll(-distance, dims=1)
