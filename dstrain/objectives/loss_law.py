"""The loss law, the one place where a sum of nll becomes a loss.

    loss = sum over terms t of  weight_t * (sum of nll_t) / (count of t)

Both sums run over all ranks and all micro-batches of the step (or the whole of a validation). There is no mean of
means: not over micro-batches, not over ranks, not over heads. Counts come from the labels alone, so they are known
before the first backward pass, and each micro-batch on each rank can be divided by the count of the whole step: the
law is linear in nll, hence the parts' losses, and their gradients, add up to the step's.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def loss_law(nll: Tensor, counts: Tensor, weights: Sequence[float]) -> Tensor:
    """`nll` (float64 [terms]) of any part of the step, `counts` ([terms]) of the whole step: the part's loss.

    A term that nothing scores (count 0, hence nll 0) gives 0, not NaN.
    """
    if not len(weights) == nll.shape[0] == counts.shape[0]:
        raise ValueError(f"{nll.shape[0]} sums of nll, {counts.shape[0]} counts and {len(weights)} weights: they must"
                         " be one each per term")
    means = nll / counts.clamp(min=1)
    return sum(weight * mean for weight, mean in zip(weights, means.unbind(), strict=True))
