"""Ranks that share out a layer's experts: each holds some of them whole, and tokens travel to them and back.

Shapes: M of this rank's tokens, sorted by expert; S tokens that came to this rank; P peers, E experts, O of them on
this rank; C channels.

A model is written as if for one rank. Built `among` peers, each rank gets its own experts; built anywhere else (a
reference, a model to generate with) it has them all.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any, Callable, Iterator

import torch
import torch.distributed as torch_dist
from torch import Tensor, nn

from dstrain.nn.permuted import inverse, permuted


@dataclass(frozen=True)
class Peers:
    """The ranks that together hold each expert once."""

    rank: int = 0
    """this rank's number among them: it has the rank-th part of the experts"""
    size: int = 1
    group: Any = None
    mark: Callable[[nn.Parameter], None] = lambda parameter: None
    """tells whoever sums gradients that this parameter is another one on each peer"""

    def own(self, experts: int) -> int:
        """How many of them each peer has."""
        if experts % self.size:
            raise ValueError(f"{experts} experts cannot be shared out evenly among {self.size} ranks")
        return experts // self.size

    def share_out(self, module: nn.Module) -> None:
        """Say that the module's parameters are this rank's part of longer ones, cut along their first dimension. To be
        called in its __init__: at ZeRO stage 3 DeepSpeed cuts parameters up right after that."""
        for parameter in module.parameters(recurse=False) if self.size > 1 else ():
            parameter.share = (self.rank, self.size)
            self.mark(parameter)


_peers = Peers()


@contextlib.contextmanager
def among(peers: Peers) -> Iterator[None]:
    """Experts that are built inside are shared out among these."""
    global _peers
    before, _peers = _peers, peers
    try:
        yield
    finally:
        _peers = before


def peers_here() -> Peers:
    return _peers


class Journey:
    """To the ranks that hold the experts, and back; all peers make it together, with tokens or without."""

    def __init__(self, sizes_E: Tensor, peers: Peers) -> None:
        """`sizes_E`: how many of this rank's tokens go to each expert."""
        own, device = peers.own(len(sizes_E)), sizes_E.device
        coming_E = torch.empty_like(sizes_E)
        torch_dist.all_to_all_single(coming_E, sizes_E, group=peers.group)  # from each peer, to each expert here
        going_PO, coming_PO = sizes_E.view(peers.size, own), coming_E.view(peers.size, own)
        # The one wait for the device: the host must know how much to send and to make room for.
        self._sent, self._received = torch.stack([going_PO, coming_PO]).sum(dim=2).cpu().tolist()
        self._group = peers.group
        self.sizes_O = coming_PO.sum(dim=0)
        """how many came to each expert of this rank"""
        expert_PO = torch.arange(own, device=device).expand(peers.size, own)
        expert_S = expert_PO.flatten().repeat_interleave(coming_E, output_size=sum(self._received))
        self._order_S = expert_S.argsort(stable=True)  # they come ordered by peer, then expert

    def there(self, sorted_MC: Tensor) -> Tensor:
        """[S, C], what came to this rank, sorted by expert."""
        return permuted(_Exchange.apply(sorted_MC, self._sent, self._received, self._group), self._order_S)

    def back(self, y_SC: Tensor) -> Tensor:
        """[M, C], in the order in which they left."""
        return _Exchange.apply(permuted(y_SC, inverse(self._order_S)), self._received, self._sent, self._group)


class _Exchange(torch.autograd.Function):
    """sent[p] rows to peer p, received[p] rows from it; gradients go the way back."""

    @staticmethod
    def forward(ctx, rows: Tensor, sent: list[int], received: list[int], group: Any) -> Tensor:
        ctx.way_back = received, sent, group
        return _exchanged(rows, sent, received, group)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return _exchanged(grad, *ctx.way_back), None, None, None


def _exchanged(rows: Tensor, sent: list[int], received: list[int], group: Any) -> Tensor:
    came = rows.new_empty(sum(received), *rows.shape[1:])
    torch_dist.all_to_all_single(came, rows.contiguous(), received, sent, group=group)
    return came
