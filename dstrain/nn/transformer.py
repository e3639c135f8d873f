"""What the Transformers share: the embedding that is the output matrix, too, positions, initial weights, recomputing.

Shapes: B rows, T positions, V vocabulary, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dstrain.nn.cache import KvCache
from dstrain.nn.init import initial_weight
from dstrain.nn.positions import Turns, rotary_turns, sinusoid

EMBEDDING_STD = 0.02


class Hidden(NamedTuple):
    hidden_BTD: Tensor


class Transformer(nn.Module):
    """Has `embed`, `length` (the longest row that it was built for) and `settings`, its section of the recipe."""

    embed: nn.Embedding
    length: int
    settings: Any

    @property
    def output_weight(self) -> Tensor:
        """[V, C], tied to the embedding. Under ZeRO-3 it is whole only inside the wrapped module's forward."""
        return self.embed.weight

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., V] in fp32 (fp64 in a double model), for generation; training uses nn/heads.py."""
        logits = F.linear(hidden, self.output_weight)
        return logits if logits.dtype == torch.float64 else logits.float()

    def initial(self, name: str, shape: Sequence[int], seed: int) -> Tensor:
        """A parameter's first value, fp32 on the CPU, from its qualified name within this model."""
        module_name, kind = name.rsplit(".", 1)
        if kind == "bias":
            return torch.zeros(tuple(shape))
        if module_name.endswith("norm"):
            return torch.ones(tuple(shape))
        return initial_weight(name, shape, self.initial_std(module_name, shape), seed)

    def initial_std(self, module_name: str, shape: Sequence[int]) -> float:
        """Of the matrix, or embedding, of that module."""
        raise NotImplementedError

    def no_decay(self, name: str) -> bool:
        """Norms and biases are never decayed."""
        module_name, kind = name.rsplit(".", 1)
        return kind == "bias" or module_name.endswith("norm")

    def after_step(self, seen: Tensor, applied: bool) -> None:
        """Called behind each update with what the forward passes of the whole step have seen (`Sums.seen`), over all
        micro-batches and ranks, where they say any."""

    def cache_of(self, rows: int, capacity: int | None, layers: int, kind: type[KvCache] = KvCache) -> KvCache:
        """Room for `capacity` tokens a row, by default the model's length, which is also the most."""
        capacity = self.length if capacity is None else capacity
        if capacity > self.length:
            raise ValueError(f"a cache of {capacity} tokens goes beyond this model's length {self.length}")
        width, heads = self.settings.width, self.settings.heads  # at ZeRO-3 the weight itself has no shape here
        return kind(rows, capacity, layers, heads, width // heads, self.output_weight.dtype,
                    self.output_weight.device)

    def run(self, block: nn.Module, x_BTC: Tensor, *others: Tensor | Turns | None) -> Tensor:
        """The block's output; its activations are kept, or computed again in the backward pass."""
        return recomputed(block, x_BTC, *others) if self.settings.checkpoint_activations else block(x_BTC, *others)

    def with_places(self, x_BTC: Tensor, positions_BT: Tensor, learned: nn.Embedding | None) -> Tensor:
        """Embedded tokens with their positions, where these are added: `learned`, or sinusoids."""
        if learned is not None:
            return x_BTC + learned(positions_BT)
        if self.settings.positions == "sinusoidal":
            return x_BTC + sinusoidal_positions(positions_BT, self.settings.width, x_BTC.dtype)
        return x_BTC

    def turns(self, positions_BT: Tensor) -> Turns | None:
        """Rotary positions, where the model has them."""
        if self.settings.positions != "rotary":
            return None
        return rotary_turns(positions_BT, self.settings.width // self.settings.heads, self.output_weight.dtype)


def recomputed(module: nn.Module, *inputs: Any) -> Any:
    """What the module returns; its activations are computed again in the backward pass. Dropout is keyed, so that
    repeats it without any generator's state."""
    if torch.is_grad_enabled():
        return checkpoint(module, *inputs, use_reentrant=False, preserve_rng_state=False)
    return module(*inputs)


def residual_std(module_name: str, shape: Sequence[int], outputs: int) -> float:
    """Of a matrix: what comes out is as large as what goes in. Of those whose outputs, so many, add up in a residual
    stream, less: this keeps their sum at the size of one."""
    adds = module_name.endswith(("attention.out", "bridge.out", "ff.down"))
    return shape[-1] ** -0.5 / (outputs ** 0.5 if adds else 1.0)


def sinusoidal_positions(positions_BT: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """[B, T, C], at the embedding's own initial size: at size 1 they would drown tokens of size 0.02."""
    return EMBEDDING_STD * sinusoid(positions_BT, width, dtype)
