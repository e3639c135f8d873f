"""How large gradient, weight and update of every parameter are in one step, at any ZeRO stage, by one all-reduce.

    with Measured(engine) as measured:
        train_step(...)
    norms = measured.read()       # {} where the step was skipped

Every rank measures the elements that it alone owns. Until the update it keeps a copy of its fp32 weights: four bytes a
parameter, divided by the number of ranks. A step outside of this pays nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from dstrain.runtime.engine import Engine, own_name
from dstrain.runtime.fragments import gradient_fragments


class Norms(NamedTuple):
    """Of one parameter, or of several together."""

    gradient: float
    """as the optimizer used it: over all ranks, clipped"""
    weight: float
    """after the update"""
    update: float
    """weight after minus weight before, in fp32"""

    @staticmethod
    def together(parts: list["Norms"]) -> "Norms":
        return Norms(*(sum(norm * norm for norm in norms) ** 0.5 for norms in zip(*parts)))


class Measured:
    """Looks into the optimizer when it updates."""

    def __init__(self, engine: Engine):
        self.engine = engine
        self._before: dict[str, tuple[int, torch.Tensor]] = {}
        self._squared_gradient: dict[str, torch.Tensor] = {}

    def __enter__(self) -> "Measured":
        optimizer, guarded = self.engine.optimizer, self.engine.stage == 0
        self._hooks = [optimizer.register_step_pre_hook(lambda *_: self._copy_weights()),
                       # At stage 0 the optimizer itself clips, inside its step.
                       (optimizer.register_step_post_hook if guarded else optimizer.register_step_pre_hook)(
                           lambda *_: self._look_at_gradient())]
        return self

    def __exit__(self, *exception: Any) -> None:
        for hook in self._hooks:
            hook.remove()

    def read(self) -> dict[str, Norms]:
        """By parameter name, alike on all ranks, which call it together; waits for the device."""
        zero = torch.zeros((), dtype=torch.float64, device=self.engine.ranks.device)
        names = list(self.engine.trained_shapes())
        squares = {name: [self._squared_gradient.get(name, zero), zero, zero] for name in names}
        for fragment in self.engine.own_fragments():
            if fragment.name in self._before:
                _, before = self._before[fragment.name]
                squares[fragment.name][1:] = [_squared(fragment.weight), _squared(fragment.weight - before)]
        table = torch.stack([square.to(zero.device) for name in names for square in squares[name]])
        norms = self.engine.ranks.sum(table).sqrt().view(-1, 3).tolist()
        self._before, self._squared_gradient = {}, {}
        return {name: Norms(*of_name) for name, of_name in zip(names, norms)}

    def _copy_weights(self) -> None:
        """Before the first update of the step: DeepSpeed calls the optimizer once for each of its groups."""
        if not self._before:
            trained = self.engine.trained_shapes()
            self._before = {f.name: (f.start, f.weight.clone()) for f in self.engine.own_fragments()
                            if f.name in trained}

    def _look_at_gradient(self) -> None:
        """The last look counts: with offload, the gradients of later groups are there early, and not yet clipped."""
        for name, start, gradient in gradient_fragments(self.engine.deepspeed, self.engine.stage):
            if own_name(name) in self._before:
                own_start, own = self._before[own_name(name)]
                self._squared_gradient[own_name(name)] = _squared(gradient.narrow(0, own_start - start, own.numel()))


def _squared(values: torch.Tensor) -> torch.Tensor:
    """Summed in float64: a float32 sum over millions of elements is off in the fifth digit."""
    return torch.linalg.vector_norm(values, dtype=torch.float64).square()
