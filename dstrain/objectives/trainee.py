"""What the engine wraps: model and objective in one forward, so that no parameter is used outside of it."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn

from dstrain.objectives.next_token import Sums


class HasSums(Protocol):
    def sums(self, model: nn.Module, hidden: Any, labels_BT: Tensor, inputs: dict[str, Tensor]) -> Sums: ...


class Trainee(nn.Module):
    def __init__(self, model: nn.Module, objective: HasSums) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, *, inputs: dict[str, Tensor], labels_BT: Tensor, keys_B: Tensor | None) -> Sums:
        """The sum of nll per term. An input that the model does not take is a TypeError, not ignored."""
        return self.objective.sums(self.model, self.model(**inputs, keys_B=keys_B), labels_BT, inputs)
