"""Initial weights that depend on a parameter's name and the seed alone, not on who fills them or in which order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from dstrain.nn.chance import name_number


def initial_weight(name: str, shape: Sequence[int], std: float, seed: int) -> Tensor:
    """Normal numbers in fp32 on the CPU, from a generator of this parameter's own."""
    generator = torch.Generator().manual_seed(name_number(f"{seed}/{name}"))
    return torch.empty(tuple(shape)).normal_(0.0, std, generator=generator)


class _HasInitial(Protocol):
    def initial(self, name: str, shape: Sequence[int], seed: int) -> Tensor: ...


@torch.no_grad()
def fill_initial(model: nn.Module & _HasInitial, seed: int) -> nn.Module:
    """Fills a model that no ZeRO stage has partitioned, and returns it."""
    for name, parameter in model.named_parameters():
        parameter.copy_(model.initial(name, parameter.shape, seed))
    return model
