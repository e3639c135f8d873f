"""The next-token objective: one term, every label but -100."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from dstrain.nn.heads import IGNORED, summed_nll


class Sums(NamedTuple):
    """What a forward pass adds up."""

    nll: Tensor
    """float64 [terms]: each term's sum of nll over the scored labels"""
    seen: Tensor | None = None
    """float64, without a gradient: further sums that the model wants of the whole step, after its update"""
    found: Tensor | None = None
    """float64, only without gradients: further sums that a validation scores"""


class HasLabels(Protocol):
    labels_BT: Tensor


class HasHidden(Protocol):
    hidden_BTD: Tensor


class SameWeights:
    """An objective whose weights are the same in all steps."""

    weights: tuple[float, ...]

    def weights_at(self, step: int) -> tuple[float, ...]:
        return self.weights

    def rests(self, step: int) -> bool:
        return False


class NextToken(SameWeights):
    terms = ("next",)

    def __init__(self, weights: Sequence[float] = (1.0,)) -> None:
        if len(weights) != len(self.terms):
            raise ValueError(f"objective.weights has {len(weights)} numbers, but there is one term, {self.terms[0]!r}:"
                             " give one weight")
        self.weights = tuple(weights)

    def counts(self, batch: HasLabels) -> Tensor:
        """Int64 [terms] on the batch's device: how many labels are scored; needs no forward pass."""
        return scored_labels(batch.labels_BT).unsqueeze(0)

    # A compiled access to a tied weight under ZeRO-3 skips DeepSpeed's hook, and finds it empty.
    @torch.compiler.disable
    def sums(self, model: nn.Module, hidden: HasHidden, labels_BT: Tensor, inputs: dict[str, Tensor]) -> Sums:
        """Reads the output weight, so it belongs inside the wrapped module's forward (ZeRO-3)."""
        return Sums(summed_nll(hidden.hidden_BTD, model.output_weight, labels_BT).unsqueeze(0))


def scored_labels(labels_BT: Tensor) -> Tensor:
    return (labels_BT != IGNORED).sum()
