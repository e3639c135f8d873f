"""One optimizer step: the loss law, in the order in which it happens."""

from __future__ import annotations

from typing import Any, NamedTuple, Sequence

import torch

from dstrain.nn.chance import row_keys
from dstrain.objectives.loss_law import loss_law
from dstrain.runtime.dist import Ranks
from dstrain.runtime.engine import Engine
from dstrain.train.family import Batch, Objective


class Wishes(NamedTuple):
    """What a rank tells the others with each step; summed over ranks in the step's own all-reduce."""

    leave: int = 0
    """it was asked to save and leave"""
    fails: int = 0
    """it cannot go on: what it writes beside the training failed"""


class StepResult(NamedTuple):
    """What a step leaves behind. Tensors stay on the device until the log step reads them."""

    nll: torch.Tensor
    """sum of nll per term over this rank's rows"""
    totals: torch.Tensor
    """scored targets per term over all ranks, then the hash of the step's rows, then the wishes"""
    lrs: dict[str, float]
    """by rule: "adamw", and "muon" where there is one"""
    grad_norm: Any
    applied: bool
    """False: a NaN or Inf somewhere, so no rank changed anything"""
    loss_scale: float | None
    """of fp16: what this step's loss was multiplied by"""
    wishes: Wishes
    """of all ranks: the same on all of them, so all act alike"""
    seen: torch.Tensor | None
    """what the model wanted of the whole step beside nll, summed over all ranks"""


def train_step(engine: Engine, objective: Objective, batches: Sequence[Batch], rows_hash: int, step: int, seed: int,
               ranks: Ranks, wishes: Wishes = Wishes(), spoiled: bool = False) -> StepResult:
    """Train on one global batch, of which `batches` are this rank's micro-batches.

    `spoiled`: this rank has no rows to give, and makes all ranks skip the step.
    """
    ranks.pulse.enter("step", "counting targets")
    batches = [batch.to(ranks.device, non_blocking=True) for batch in batches]
    terms = len(objective.terms)
    totals = ranks.sum(_totals(objective, batches, (rows_hash, *wishes), ranks.device))
    counts = totals[:terms]  # of the whole step: over all micro-batches and ranks, known before the first forward
    engine.schedule.step(step)

    weights, nll, seen = objective.weights_at(step), torch.zeros_like(counts, dtype=torch.float64), None
    for number, batch in enumerate(batches, start=1):
        ranks.pulse.enter("step", f"micro-batch {number} of {len(batches)}")
        sums = engine(inputs=batch.inputs(), labels_BT=batch.labels_BT, keys_B=row_keys(seed, step, batch.rows_B))
        loss = loss_law(sums.nll, counts, weights)
        engine.backward(loss * torch.nan if spoiled else loss, last=number == len(batches))
        nll += sums.nll.detach()
        if sums.seen is not None:
            seen = sums.seen if seen is None else seen + sums.seen

    ranks.pulse.enter("step", "update")
    lrs, scale = engine.lrs(), engine.loss_scale()
    applied = engine.update()
    if seen is not None:
        engine.model.after_step(ranks.sum(seen), applied)
    asked = Wishes(*totals[terms + 1:].tolist())  # read after the update, which has waited for the device already
    return StepResult(nll, totals, lrs, engine.grad_norm(), applied, None if scale is None else scale["cur_scale"],
                      asked, seen)


def _totals(objective: Objective, batches: Sequence[Batch], others: tuple[int, ...],
            device: torch.device) -> torch.Tensor:
    """This rank's targets per term and other whole numbers, as one vector: one all-reduce sums them all."""
    counts = torch.stack([objective.counts(batch) for batch in batches]).sum(dim=0)
    return torch.cat([counts, torch.tensor(others, dtype=torch.int64).to(device, non_blocking=True)])
