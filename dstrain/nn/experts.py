"""The experts: SwiGLU feed-forwards of one layer as fused weights, each computed on the tokens that were sent to it.

Shapes: N tokens, K experts of each, M = N * K tokens to be computed, C channels, E experts, F channels inside one.

Nothing is dropped and nothing is padded: tokens are sorted by expert, and each expert's stretch is one matrix product.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dstrain.nn.exchange import Journey, peers_here
from dstrain.nn.permuted import inverse, permuted


class Experts(nn.Module):
    """[E, 2 F, C] whose first half is gate_proj and whose second is up_proj, and [E, C, F] back. Built among peers, a
    rank has its own experts of them, and tokens travel."""

    def __init__(self, width: int, experts: int, ff: int) -> None:
        super().__init__()
        self.experts, self.peers = experts, peers_here()
        own = self.peers.own(experts)
        self.gate_up = nn.Parameter(torch.empty(own, 2 * ff, width))
        self.down = nn.Parameter(torch.empty(own, width, ff))
        self.peers.share_out(self)

    def forward(self, x_NC: Tensor, chosen_NK: Tensor, gates_NK: Tensor) -> Tensor:
        """The chosen experts' outputs, weighted."""
        tokens, top_k = chosen_NK.shape
        chosen_M = chosen_NK.flatten()
        order_M = chosen_M.argsort(stable=True)
        sorted_MC = permuted(x_NC.unsqueeze(1).expand(-1, top_k, -1).flatten(0, 1), order_M)
        sizes_E = torch.zeros(self.experts, dtype=torch.int64, device=x_NC.device).scatter_add_(
            0, chosen_M, torch.ones_like(chosen_M))
        y_MC = self.computed(sorted_MC, sizes_E)
        y_NKC = permuted(y_MC, inverse(order_M)).unflatten(0, (tokens, top_k))
        return (y_NKC * gates_NK.to(y_NKC.dtype).unsqueeze(-1)).sum(dim=1)

    def computed(self, sorted_MC: Tensor, sizes_E: Tensor) -> Tensor:
        """Each expert on its stretch of tokens, on whichever rank it is."""
        if self.peers.size == 1:
            return self._computed_here(sorted_MC, sizes_E)
        journey = Journey(sizes_E, self.peers)
        return journey.back(self._computed_here(journey.there(sorted_MC), journey.sizes_O))

    def _computed_here(self, sorted_MC: Tensor, sizes_E: Tensor) -> Tensor:
        gate_MF, up_MF = grouped_linear(sorted_MC, self.gate_up, sizes_E).chunk(2, dim=-1)
        return grouped_linear(F.silu(gate_MF) * up_MF, self.down, sizes_E)


def grouped_linear(x_MI: Tensor, weight_EOI: Tensor, sizes_E: Tensor) -> Tensor:
    """[M, O]: the first sizes_E[0] rows times the first weight, the next sizes_E[1] times the second, and so on; M may
    be 0, where none of the tokens came to this rank's experts."""
    if x_MI.device.type == "cuda" and x_MI.dtype == torch.bfloat16 and len(x_MI):
        return F.grouped_mm(x_MI, weight_EOI.transpose(1, 2), offs=sizes_E.cumsum(0).to(torch.int32))
    return _GroupedLinear.apply(x_MI, weight_EOI, sizes_E.tolist() if len(x_MI) else [])


class _GroupedLinear(torch.autograd.Function):
    """One product an expert. An expert without tokens gets a gradient of zeros: it takes part like any other."""

    @staticmethod
    def forward(ctx, x_MI: Tensor, weight_EOI: Tensor, sizes: list[int]) -> Tensor:
        ctx.save_for_backward(x_MI, weight_EOI)
        ctx.sizes = sizes
        y_MO = x_MI.new_empty(x_MI.shape[0], weight_EOI.shape[1])
        for expert, part in _stretches(sizes):
            torch.mm(x_MI[part], weight_EOI[expert].T, out=y_MO[part])
        return y_MO

    @staticmethod
    def backward(ctx, grad_MO: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x_MI, weight_EOI = ctx.saved_tensors
        grad_MO = grad_MO.contiguous()
        grad_MI = torch.empty_like(x_MI) if ctx.needs_input_grad[0] else None
        grad_EOI = torch.zeros_like(weight_EOI) if ctx.needs_input_grad[1] else None
        for expert, part in _stretches(ctx.sizes):
            if grad_MI is not None:
                torch.mm(grad_MO[part], weight_EOI[expert], out=grad_MI[part])
            if grad_EOI is not None:
                torch.mm(grad_MO[part].T, x_MI[part], out=grad_EOI[expert])
        return grad_MI, grad_EOI, None


def _stretches(sizes: list[int]):
    """(expert, its rows) of the experts that have some."""
    start = 0
    for expert, size in enumerate(sizes):
        if size:
            yield expert, slice(start, start + size)
        start += size
