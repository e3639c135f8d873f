"""The plain reference: one process, float64, no DeepSpeed, each row alone, the loss written out from the logits."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable
from contextlib import closing
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from dstrain.config.schema import Recipe
from dstrain.config.shape import in_micro_batches
from dstrain.data.collate import UNSCORED
from dstrain.doctor.recipe_subject import fresh_trainee
from dstrain.families import family_of
from dstrain.nn.chance import row_keys
from dstrain.train.family import Batch, Term


class Reference(NamedTuple):
    loss: float
    gradient: dict[str, torch.Tensor]
    outputs: list[Any]
    """what the model returned for each row"""


def reference_step(recipe: Recipe, ragged: bool = True, step: int = 1,
                   weights: dict[str, torch.Tensor] | None = None) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradient of that step, at those weights or the initial ones: each row of the global batch by itself
    and without padding."""
    return reference_of(recipe, ragged, step, weights)[:2]


def reference_of(recipe: Recipe, ragged: bool = True, step: int = 1, weights: dict[str, torch.Tensor] | None = None,
                 counters: dict[str, torch.Tensor] | None = None) -> Reference:
    """The same with all that the model returned, and with those counters where it counts something."""
    recipe = in_micro_batches(recipe, None)
    family = family_of(recipe)
    tokenizer, anatomy = family.open_tokenizer(recipe, None), family.anatomy
    model = fresh_trainee(recipe, family, tokenizer).double().train().model
    with torch.no_grad():
        for name, parameter in model.named_parameters() if weights else ():
            parameter.copy_(weights[name])
        for name, counter in (counters or {}).items():
            model.get_buffer(name).copy_(counter)
    with closing(family.train_feed(recipe, tokenizer, 0, 1, None)) as feed:
        batch, = next(itertools.islice(feed, step - 1, None)).micro_batches
    batch = anatomy.ragged(batch, step) if ragged else batch
    outputs: list[Any] = []
    loss = loss_by_rows(model, [batch], recipe, tokenizer, step, outputs)
    loss.backward()
    gradient = {name: parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
                for name, parameter in model.named_parameters()}
    return Reference(float(loss.detach()), gradient, outputs)


def loss_by_rows(model: torch.nn.Module, batches: Iterable[Batch], recipe: Recipe, tokenizer: Any,
                 step: int | None = None, outputs: list[Any] | None = None) -> torch.Tensor:
    """The loss law over these batches, each row by itself; with the dropout and the weights of that step, or None for
    no dropout and the last ones. What the model returns for each row is added to `outputs`."""
    anatomy, terms = family_of(recipe).anatomy, defaultdict(list)
    weights, smoothing = anatomy.loss(recipe, step)
    for row in (anatomy.alone(batch, b) for batch in batches for b in range(len(batch.rows_B))):
        if row.labels_BT.shape[1] and int(row.rows_B) >= 0:
            keys_B = None if step is None else row_keys(recipe.run.seed, step, row.rows_B)
            output = model(**row.inputs(), keys_B=keys_B)
            heads = zip(weights, anatomy.heads_of(output), anatomy.targets(recipe, row, tokenizer), strict=True)
            of_heads = [_of_head(model, number, *head, smoothing) for number, head in enumerate(heads)]
            for term in (*of_heads, *anatomy.further_terms(recipe, output, row)):
                terms[term.name].append(term)
            if outputs is not None:
                outputs.append(output)
    return sum(of[0].weight * sum(term.summed for term in of) / max(1, sum(term.count for term in of))
               for of in terms.values())


def _of_head(model: torch.nn.Module, number: int, weight: float, hidden_BTC: torch.Tensor, targets_BT: torch.Tensor,
             smoothing: float) -> Term:
    """The targets' cross entropies, torch's own label smoothing in them."""
    scored = targets_BT != UNSCORED
    logits = (hidden_BTC @ model.output_weight.T)[scored]
    nll = F.cross_entropy(logits, targets_BT[scored], reduction="sum", label_smoothing=smoothing)
    return Term(f"head {number}", weight, nll, int(scored.sum()))
