"""Low-rank adapters: a small product of two matrices beside each linear layer, trained while the layer stays as it is.

output = layer(x) + scale * up(down(x)), with `down` [rank, in] and `up` [out, rank]. `up` begins at zero: an adapted
model begins as the very function that it was. The layer's own weight and bias keep their names, so that the
checkpoints of a model without adapters can be read by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dstrain.nn.init import initial_weight

DOWN, UP = "adapter_down", "adapter_up"
ALPHA = 16.0
"""scale x rank: of a higher rank each part counts less, so that one learning rate serves all ranks"""


def adapt(model: nn.Module, rank: int) -> list[nn.Parameter]:
    """Put an adapter beside every linear layer of the model, in place, and freeze all else. Returns what is trained.

    Under ZeRO-3 it belongs inside the context in which the model is built, and always before DeepSpeed gets it.
    """
    if rank < 1:
        raise ValueError(f"an adapter of rank {rank} adapts nothing: use 1 or more")
    places = linears(model)
    if not places:
        raise ValueError(f"{type(model).__name__} has no linear layer for an adapter to stand beside")
    again = next((name for _, name, linear in places if isinstance(linear, AdaptedLinear)), None)
    if again is not None:
        raise ValueError(f"the layer {again} has an adapter already")
    model.requires_grad_(False)
    adapted = []
    for parent, name, linear in places:
        adapted.append(AdaptedLinear(linear, rank))
        setattr(parent, name, adapted[-1])
    return [matrix for layer in adapted for matrix in (layer.adapter_down, layer.adapter_up)]


@contextmanager
def for_a_while(model: nn.Module, rank: int, seed: int | str) -> Iterator[list[nn.Parameter]]:
    """Adapters at their initial weights; after the block, however it ends, the model is as it was. Those that it has
    already are part of it."""
    needed_grad = {parameter: parameter.requires_grad for parameter in model.parameters()}
    places = linears(model)
    try:
        for parent, name, linear in places:
            if isinstance(linear, AdaptedLinear):
                setattr(parent, name, linear.merged())
        trained = adapt(model, rank)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if is_adapter(name):
                    parameter.copy_(initial_adapter(name, parameter.shape, seed))
        yield trained
    finally:
        for parent, name, linear in places:
            setattr(parent, name, linear)
        for parameter, needed in needed_grad.items():
            parameter.requires_grad_(needed)


def linears(model: nn.Module) -> list[tuple[nn.Module, str, nn.Linear]]:
    """(parent, name there, layer) of every linear layer."""
    return [(parent, name, child) for parent in model.modules() for name, child in parent.named_children()
            if isinstance(child, nn.Linear)]


def is_adapter(name: str) -> bool:
    return name.rsplit(".", 1)[-1] in (DOWN, UP)


def initial_adapter(name: str, shape: Sequence[int], seed: int | str) -> Tensor:
    """An adapter's first value, fp32 on the CPU: `down` keeps the size of what goes in, `up` is zero."""
    if name.endswith(UP):
        return torch.zeros(tuple(shape))
    return initial_weight(name, shape, shape[-1] ** -0.5, seed)


class AdaptedLinear(nn.Linear):
    """Takes over the weight and bias of a layer, and adds an adapter."""

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        nn.Module.__init__(self)  # nn.Linear's own would make another weight
        self.in_features, self.out_features, self.rank = linear.in_features, linear.out_features, rank
        self.weight, self.bias = linear.weight, linear.bias
        like = {"dtype": linear.weight.dtype, "device": linear.weight.device}
        self.adapter_down = nn.Parameter(torch.empty(rank, self.in_features, **like))
        self.adapter_up = nn.Parameter(torch.empty(self.out_features, rank, **like))
        self.train(linear.training)

    def forward(self, x: Tensor) -> Tensor:
        own = F.linear(x, self.weight, self.bias)
        return own + (ALPHA / self.rank) * F.linear(F.linear(x, self.adapter_down), self.adapter_up)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """A layer without an adapter that is the same function, but for rounding."""
        layer = nn.utils.skip_init(nn.Linear, self.in_features, self.out_features, bias=self.bias is not None,
                                   dtype=self.weight.dtype, device=self.weight.device)
        layer.weight.copy_(self.weight + (ALPHA / self.rank) * self.adapter_up @ self.adapter_down)
        if self.bias is not None:
            layer.bias.copy_(self.bias)
        return layer.train(self.training)
