"""One optimizer step: the loss law, in the order in which it happens."""

from __future__ import annotations

from typing import Any, NamedTuple, Sequence

import torch

from dstrain.nn.chance import row_keys
from dstrain.objectives.loss_law import loss_law
from dstrain.runtime.dist import Ranks
from dstrain.runtime.engine import Engine
from dstrain.train.family import Batch, Objective


class StepResult(NamedTuple):
    """What a step leaves behind. Tensors stay on the device until the log step reads them."""

    nll: torch.Tensor
    """sum of nll per term over this rank's rows"""
    totals: torch.Tensor
    """scored targets per term over all ranks, then the hash of the step's rows"""
    lrs: dict[str, float]
    """by rule: "adamw", and "muon" where there is one"""
    grad_norm: Any
    applied: bool
    """False: a NaN or Inf somewhere, so no rank changed anything"""
    loss_scale: float | None
    """of fp16: what this step's loss was multiplied by"""


def train_step(engine: Engine, objective: Objective, batches: Sequence[Batch], rows_hash: int, step: int, seed: int,
               ranks: Ranks, spoiled: bool = False) -> StepResult:
    """Train on one global batch, of which `batches` are this rank's micro-batches.

    `spoiled`: this rank has no rows to give, and makes all ranks skip the step.
    """
    batches = [batch.to(ranks.device, non_blocking=True) for batch in batches]
    totals = ranks.sum(_totals(objective, batches, rows_hash, ranks.device))
    counts = totals[:-1]  # of the whole step: over all micro-batches and ranks, known before the first forward
    engine.schedule.step(step)

    nll = torch.zeros(len(objective.terms), dtype=torch.float64, device=ranks.device)
    for number, batch in enumerate(batches, start=1):
        sums = engine(inputs=batch.inputs(), labels_BT=batch.labels_BT, keys_B=row_keys(seed, step, batch.rows_B))
        loss = loss_law(sums.nll, counts, objective.weights)
        engine.backward(loss * torch.nan if spoiled else loss, last=number == len(batches))
        nll += sums.nll.detach()

    lrs, scale = engine.lrs(), engine.loss_scale()
    applied = engine.update()
    return StepResult(nll, totals, lrs, engine.grad_norm(), applied, None if scale is None else scale["cur_scale"])


def _totals(objective: Objective, batches: Sequence[Batch], rows_hash: int, device: torch.device) -> torch.Tensor:
    """This rank's targets per term and its part of the rows' hash, as one vector: one all-reduce sums both."""
    counts = torch.stack([objective.counts(batch) for batch in batches]).sum(dim=0)
    return torch.cat([counts, torch.tensor([rows_hash], dtype=torch.int64).to(device, non_blocking=True)])
