"""The plain reference: one process, float64, no DeepSpeed, each row alone, the loss written out from the logits."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from contextlib import closing
from typing import Any

import torch
import torch.nn.functional as F

from dstrain.config.schema import Recipe
from dstrain.config.shape import in_micro_batches
from dstrain.data.collate import UNSCORED
from dstrain.doctor.recipe_subject import fresh_trainee
from dstrain.families import family_of
from dstrain.nn.chance import row_keys
from dstrain.train.family import Batch


def reference_step(recipe: Recipe, ragged: bool = True, step: int = 1,
                   weights: dict[str, torch.Tensor] | None = None) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradient of that step, at those weights or the initial ones: each row of the global batch by itself
    and without padding."""
    recipe = in_micro_batches(recipe, None)
    family = family_of(recipe)
    tokenizer, anatomy = family.open_tokenizer(recipe, None), family.anatomy
    model = fresh_trainee(recipe, family, tokenizer).double().train().model
    with torch.no_grad():
        for name, parameter in model.named_parameters() if weights else ():
            parameter.copy_(weights[name])
    with closing(family.train_feed(recipe, tokenizer, 0, 1, None)) as feed:
        batch, = next(itertools.islice(feed, step - 1, None)).micro_batches
    batch = anatomy.ragged(batch, step) if ragged else batch
    loss = loss_by_rows(model, [batch], recipe, tokenizer, step)
    loss.backward()
    return float(loss.detach()), {name: parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
                                  for name, parameter in model.named_parameters()}


def loss_by_rows(model: torch.nn.Module, batches: Iterable[Batch], recipe: Recipe, tokenizer: Any,
                 step: int | None = None) -> torch.Tensor:
    """The loss law over these batches, each row by itself; with the dropout of that step, or None for none."""
    anatomy = family_of(recipe).anatomy
    shares, smoothing = anatomy.loss(recipe)
    sums, counts = torch.zeros(len(shares), dtype=torch.float64), torch.zeros(len(shares), dtype=torch.int64)
    for row in (anatomy.alone(batch, b) for batch in batches for b in range(len(batch.rows_B))):
        if row.labels_BT.shape[1] and int(row.rows_B) >= 0:
            keys_B = None if step is None else row_keys(recipe.run.seed, step, row.rows_B)
            of_row = [_of_head(model, hidden_BTC, targets_BT, smoothing) for hidden_BTC, targets_BT in
                      zip(model(**row.inputs(), keys_B=keys_B), anatomy.targets(row, tokenizer), strict=True)]
            sums = sums + torch.stack([loss for loss, _ in of_row])
            counts += torch.tensor([count for _, count in of_row])
    return sum(weight * total / count for weight, total, count in zip(shares, sums, counts.clamp(min=1)))


def _of_head(model: torch.nn.Module, hidden_BTC: torch.Tensor, targets_BT: torch.Tensor,
             smoothing: float) -> tuple[torch.Tensor, int]:
    """(sum of the targets' cross entropies, number of targets), torch's own label smoothing in them."""
    scored = targets_BT != UNSCORED
    logits = (hidden_BTC @ model.output_weight.T)[scored]
    return F.cross_entropy(logits, targets_BT[scored], reduction="sum", label_smoothing=smoothing), int(scored.sum())
