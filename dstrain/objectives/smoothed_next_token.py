"""The next-token objective with label smoothing: a share e of the target distribution is spread over the vocabulary.

    -sum over v of ((1 - e) [v = label] + e / V) log p(v)  =  (1 - e) (-log p(label))  +  e (mean over v of -log p(v))

These are two terms of the loss law, so what is logged as "next" stays the plain -log p(label) of any run.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dstrain.nn.heads import summed_nll, summed_nll_and_spread
from dstrain.objectives.next_token import HasHidden, HasLabels, SameWeights, Sums, scored_labels


class SmoothedNextToken(SameWeights):
    def __init__(self, label_smoothing: float) -> None:
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"objective.label_smoothing {label_smoothing} must be at least 0 and below 1")
        self.smooths = label_smoothing > 0.0
        self.terms = ("next", "smoothing") if self.smooths else ("next",)
        self.weights = (1.0 - label_smoothing, label_smoothing) if self.smooths else (1.0,)

    def counts(self, batch: HasLabels) -> Tensor:
        """Int64 [terms] on the batch's device: how many labels are scored, for both terms; needs no forward pass."""
        return scored_labels(batch.labels_BT).repeat(len(self.terms))

    # As in NextToken: a compiled access to a tied weight under ZeRO-3 skips DeepSpeed's hook, and finds it empty.
    @torch.compiler.disable
    def sums(self, model: nn.Module, hidden: HasHidden, labels_BT: Tensor, inputs: dict[str, Tensor]) -> Sums:
        """Reads the output weight, so it belongs inside the wrapped module's forward (ZeRO-3)."""
        if not self.smooths:
            return Sums(summed_nll(hidden.hidden_BTD, model.output_weight, labels_BT).unsqueeze(0))
        return Sums(torch.stack(summed_nll_and_spread(hidden.hidden_BTD, model.output_weight, labels_BT)))
