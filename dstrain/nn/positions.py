"""How a token knows its place: rotary turns and sinusoids, computed from positions at each call.

Shapes: B rows, T positions, F = D / 2 frequencies of a head of width D, C channels.

There are no buffers: model.to(bfloat16) can round none of it. Angles are fp32, or fp64 in a double model.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BASE = 10_000.0


class Turns(NamedTuple):
    """Rotary positions: by how much each pair of channels is turned, the same for all heads and layers."""

    cos_BT1F: Tensor
    sin_BT1F: Tensor


def rotary_turns(positions_BT: Tensor, head_width: int, dtype: torch.dtype) -> Turns:
    """Angles of the Llama convention: channel i turns with channel i + D / 2, at base^(-2i / D) per position."""
    angles_BT1F = _angles(positions_BT, head_width, dtype).unsqueeze(2)
    return Turns(angles_BT1F.cos().to(dtype), angles_BT1F.sin().to(dtype))


def turned(x_BTHD: Tensor, turns: Turns) -> Tensor:
    """x turned by its positions' angles."""
    return _Turn.apply(x_BTHD, turns.cos_BT1F.to(x_BTHD.dtype), turns.sin_BT1F.to(x_BTHD.dtype))


def sinusoid(positions_BT: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """[B, T, width]: sines, then cosines, of root-mean-square 1."""
    angles_BTF = _angles(positions_BT, width, dtype)
    return (torch.cat([angles_BTF.sin(), angles_BTF.cos()], dim=-1) * 2.0**0.5).to(dtype)


class _Turn(torch.autograd.Function):
    """Writes both halves straight into the answer; its gradient is the turn back, which needs no activations."""

    @staticmethod
    def forward(ctx, x_BTHD: Tensor, cos_BT1F: Tensor, sin_BT1F: Tensor) -> Tensor:
        ctx.save_for_backward(cos_BT1F, sin_BT1F)
        return _turn(x_BTHD, cos_BT1F, sin_BT1F)

    @staticmethod
    def backward(ctx, grad_BTHD: Tensor) -> tuple[Tensor, None, None]:
        cos_BT1F, sin_BT1F = ctx.saved_tensors
        return _turn(grad_BTHD, cos_BT1F, -sin_BT1F), None, None


def _turn(x_BTHD: Tensor, cos_BT1F: Tensor, sin_BT1F: Tensor) -> Tensor:
    first, second = x_BTHD.chunk(2, dim=-1)
    if torch.compiler.is_compiling():  # writing into a part would end the compiled code here, and begin another
        return torch.cat([first * cos_BT1F - second * sin_BT1F, second * cos_BT1F + first * sin_BT1F], dim=-1)
    out_BTHD = torch.empty(x_BTHD.shape, dtype=x_BTHD.dtype, device=x_BTHD.device)
    out_first, out_second = out_BTHD.chunk(2, dim=-1)
    torch.mul(first, cos_BT1F, out=out_first).addcmul_(second, sin_BT1F, value=-1.0)
    torch.mul(second, cos_BT1F, out=out_second).addcmul_(first, sin_BT1F)
    return out_BTHD


def _angles(positions_BT: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    if width % 2:
        raise ValueError(f"positions by angles need an even width, not {width}: change heads or width")
    precision = torch.float64 if dtype == torch.float64 else torch.float32
    steps_F = torch.arange(0, width, 2, dtype=torch.float64, device=positions_BT.device) / width
    return positions_BT.to(precision).unsqueeze(-1) * (BASE ** -steps_F).to(precision)
