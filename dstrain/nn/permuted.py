"""Rows in another order, and back.

Shapes: M rows, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor


def permuted(x_MC: Tensor, order_M: Tensor) -> Tensor:
    """x_MC[order_M] of a permutation. Its gradient is a permutation, too: no sum whose order a device could choose."""
    return _Permuted.apply(x_MC, order_M)


class _Permuted(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_MC: Tensor, order_M: Tensor) -> Tensor:
        ctx.save_for_backward(order_M)
        return x_MC[order_M]

    @staticmethod
    def backward(ctx, grad_MC: Tensor) -> tuple[Tensor, None]:
        order_M, = ctx.saved_tensors
        return grad_MC[inverse(order_M)], None


def inverse(order_M: Tensor) -> Tensor:
    return torch.empty_like(order_M).scatter_(0, order_M, torch.arange(len(order_M), device=order_M.device))
