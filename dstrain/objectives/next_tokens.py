"""The objective of several prediction heads, with what keeps experts busy: each a term of the loss law.

Head k predicts the token k places on. Its labels are the batch's labels, moved on by k - 1 within their document, and
it has a count of its own. The balance counts rows and layers, the router's z-term tokens and layers: sums with counts
that the batch alone tells, so no mean of means is anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from dstrain.nn.heads import IGNORED, summed_nll, summed_nll_and_best
from dstrain.nn.next_heads import goes_on
from dstrain.nn.routing import Routed
from dstrain.objectives.drafts import found_by_heads
from dstrain.objectives.next_token import Sums, scored_labels

BALANCE, ROUTER_Z = "balance", "router_z"


class HasRows(Protocol):
    labels_BT: Tensor
    segments_BT: Tensor


class HasHeads(Protocol):
    heads: tuple[Tensor, ...]
    routed: tuple[Routed, ...]


class NextTokens:
    """`weights` of the heads at step 1 and `final_weights` at the last of `steps`, in a line between; head k has none
    before step begins[k]. The others share it: weights are scaled to sum 1."""

    def __init__(self, weights: Sequence[float], layers: int, balance_weight: float, z_weight: float, steps: int = 1,
                 begins: Sequence[int] | None = None, final_weights: Sequence[float] | None = None) -> None:
        self.heads, self.layers, self.steps = len(weights), layers, steps
        self.terms = (*("next", *(f"next{k}" for k in range(2, self.heads + 1))), BALANCE, ROUTER_Z)
        self._first, self._last = tuple(weights), tuple(final_weights or weights)
        self._begins, self._others = tuple(begins or (1,) * self.heads), (balance_weight, z_weight)

    @property
    def weights(self) -> tuple[float, ...]:
        """Those of the run's last step: validations of all steps are scored alike."""
        return self.weights_at(self.steps)

    def weights_at(self, step: int) -> tuple[float, ...]:
        gone = min(1.0, (step - 1) / max(1, self.steps - 1))
        raw = [(first + gone * (last - first)) * (step >= begin)
               for first, last, begin in zip(self._first, self._last, self._begins, strict=True)]
        return (*(weight / sum(raw) for weight in raw), *self._others)

    def rests(self, step: int) -> bool:
        return 0.0 in self.weights_at(step)[:self.heads]

    def counts(self, batch: HasRows) -> Tensor:
        """Int64 [terms] on the batch's device: of each head its labels, of the others rows and tokens; needs no forward
        pass."""
        real_BT = batch.segments_BT >= 0
        of_heads = [scored_labels(labels_of_head(batch.labels_BT, batch.segments_BT, head))
                    for head in range(self.heads)]
        return torch.stack([*of_heads, real_BT.any(dim=1).sum() * self.layers, real_BT.sum() * self.layers])

    # As in NextToken: a compiled access to a tied weight under ZeRO-3 skips DeepSpeed's hook, and finds it empty.
    @torch.compiler.disable
    def sums(self, model: nn.Module, hidden: HasHeads, labels_BT: Tensor, inputs: dict[str, Tensor]) -> Sums:
        """Reads the output weight, so it belongs inside the wrapped module's forward (ZeRO-3)."""
        weight, segments_BT, found = model.output_weight, inputs["segments_BT"], None
        labels = [labels_of_head(labels_BT, segments_BT, head) for head in range(len(hidden.heads))]
        if torch.is_grad_enabled():
            nll = [summed_nll(hidden_BTC, weight, of_head) for hidden_BTC, of_head in zip(hidden.heads, labels)]
        else:
            nll, best = zip(*(summed_nll_and_best(hidden_BTC, weight, of_head)
                              for hidden_BTC, of_head in zip(hidden.heads, labels)))
            found = found_by_heads(best, labels)
        of_layers = [torch.stack(sums).sum() for sums in zip(*((one.balance, one.router_z) for one in hidden.routed))]
        return Sums(torch.stack([*nll, *of_layers]), torch.stack([one.seen_X for one in hidden.routed]), found)


def labels_of_head(labels_BT: Tensor, segments_BT: Tensor, head: int) -> Tensor:
    """Head 0's are the batch's own; each further one's stand one place further on in the same document."""
    if head == 0:
        return labels_BT
    return torch.where(goes_on(segments_BT, head), labels_BT.roll(-head, dims=1), IGNORED)
