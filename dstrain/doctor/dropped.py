"""What dropout drops in real training steps: watched from outside, module by module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dstrain.config.schema import Recipe
from dstrain.doctor.fresh_engine import with_each_update
from dstrain.doctor.short_run import short_run
from dstrain.runtime.dist import Ranks


@dataclass
class Dropped:
    """Of all dropout modules in training mode."""

    looked: int = 0
    """values that were not 0 before"""
    dropped: int = 0
    scaled: float = 0.0
    """sum, over what was kept, of how many times larger it is behind"""
    masks: list[dict[int, Tensor]] = field(default_factory=lambda: [{}])
    """of each step, by module in the order of their first call: what its first call dropped"""

    @property
    def rate(self) -> float:
        return self.dropped / max(1, self.looked)

    @property
    def scale(self) -> float:
        return self.scaled / max(1, self.looked - self.dropped)


def dropped_in_steps(ranks: Ranks, recipe: Recipe, steps: int) -> Dropped:
    found = Dropped()
    with _each_dropout(found), with_each_update(lambda: found.masks.append({})):
        short_run(ranks, recipe, None, steps, ragged=False)
    found.masks = found.masks[:steps]
    return found


def alike(one: Tensor, other: Tensor) -> tuple[int, int]:
    """(dropped in both, dropped in the first), where two masks [B, T, C] have the same places."""
    common = tuple(slice(0, min(sizes)) for sizes in zip(one.shape, other.shape))
    one, other = one[common], other[common]
    return int((one & other).sum()), int(one.sum())


@contextmanager
def _each_dropout(found: Dropped) -> Iterator[None]:
    numbers: dict[int, int] = {}

    def look(module: nn.Module, inputs: tuple, output: object) -> None:
        if "Dropout" not in type(module).__name__ or not module.training or not isinstance(output, Tensor):
            return
        before, behind = inputs[0].detach(), output.detach()
        there, gone = before != 0, behind == 0
        found.looked += int(there.sum())
        found.dropped += int((there & gone).sum())
        kept = there & ~gone
        found.scaled += float((behind[kept].double() / before[kept].double()).sum())
        number = numbers.setdefault(id(module), len(numbers))
        found.masks[-1].setdefault(number, (there & gone).cpu())

    handle = nn.modules.module.register_module_forward_hook(look)
    try:
        yield
    finally:
        handle.remove()
