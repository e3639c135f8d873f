"""What models share whose embedding is their output matrix, too.

Shapes: V vocabulary, C channels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dstrain.nn.cache import KvCache


class TiedOutput(nn.Module):
    """Has `embed`, `length` (the longest row that it was built for) and `settings` with width and heads."""

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

    def cache_of(self, rows: int, capacity: int | None, layers: int) -> KvCache:
        """Room for `capacity` tokens a row, by default the model's length, which is also the most."""
        capacity = self.length if capacity is None else capacity
        if capacity > self.length:
            raise ValueError(f"a cache of {capacity} tokens goes beyond this model's length {self.length}")
        width, heads = self.settings.width, self.settings.heads  # at ZeRO-3 the weight itself has no shape here
        return KvCache(rows, capacity, layers, heads, width // heads, self.output_weight.dtype,
                       self.output_weight.device)
