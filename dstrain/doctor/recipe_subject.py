"""A recipe's model as the proofs on models look at one: what the engine would call, on one of the recipe's batches."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch
from torch import nn

from dstrain.config.schema import Recipe
from dstrain.doctor.finding import NotProven
from dstrain.doctor.subject import Roles, Seen, Subject, TensorDict
from dstrain.guard.machine import Memory
from dstrain.nn.chance import row_keys
from dstrain.objectives.loss_law import loss_law
from dstrain.runtime.engine import fill_weights
from dstrain.train.family import Batch, Family

BYTES_A_PARAMETER = 16
"""fp32 weight and gradient, and once more as much for a copy in another precision"""
COPIES_OF_LOGITS = 4


def subject_of(recipe: Recipe, family: Family, tokenizer: Any, batch: Batch) -> Subject:
    """The trainee at its initial weights, in training mode with keyed dropout; its loss by the loss law."""
    trainee, anatomy = fresh_trainee(recipe, family, tokenizer), family.anatomy
    objective = family.build_objective(recipe)
    names, held = tuple(batch.inputs()), {field.name for field in fields(batch)}

    def run(module: nn.Module, tensors: TensorDict) -> Seen:
        outputs: list[Any] = []
        hook = module.model.register_forward_hook(lambda model, inputs, output: outputs.append(output))
        try:
            sums = module(inputs={name: tensors[name] for name in names}, labels_BT=tensors["labels_BT"],
                          keys_B=tensors["keys_B"])
        finally:
            hook.remove()
        given = replace(batch, **{name: tensor for name, tensor in tensors.items() if name in held})
        terms = anatomy.further_terms(recipe, outputs[-1], given)
        further = sum(term.weight * term.summed / max(1, term.count) for term in terms) if terms else None
        return Seen(loss_law(sums.nll, objective.counts(given), objective.weights), anatomy.heads_of(outputs[-1]),
                    further)

    weights, smoothing = anatomy.loss(recipe)
    lengths_B, source_lengths_B = anatomy.lengths(batch)
    return Subject(
        module=trainee.train(), roles=Roles(**anatomy.roles(recipe)), lengths_B=lengths_B,
        source_lengths_B=source_lengths_B,
        batch={**batch.inputs(), "labels_BT": batch.labels_BT, "keys_B": row_keys(recipe.run.seed, 1, batch.rows_B)},
        targets=anatomy.targets(recipe, batch, tokenizer), weights=weights, smoothing=smoothing,
        vocab_size=len(tokenizer.token_bytes()), run=run,
        logits_of=lambda module, features: features @ module.model.output_weight.T.to(features.dtype),
        exact=anatomy.exact, context_padding_BX=anatomy.context_padding(batch), told_ahead=anatomy.told_ahead(recipe))


def fresh_trainee(recipe: Recipe, family: Family, tokenizer: Any) -> nn.Module:
    """The untrained model at its initial weights, in one process."""
    trainee = family.build_trainee(recipe, tokenizer)
    fill_weights(trainee, lambda name, shape: family.initial_weight(trainee.model, name, shape, recipe.run.seed))
    return trainee


def parameters_of(recipe: Recipe, family: Family, tokenizer: Any) -> int:
    """How many there are, without making any."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in family.build_trainee(recipe, tokenizer).parameters())


def check_memory(recipe: Recipe, family: Family, tokenizer: Any, positions: int) -> None:
    """Raises NotProven where weights, gradients and logits would not fit into what is free on this machine."""
    parameters, left_gib = parameters_of(recipe, family, tokenizer), Memory().left_gib()
    logits = positions * len(tokenizer.token_bytes())
    needed_gib = (BYTES_A_PARAMETER * parameters + 4 * COPIES_OF_LOGITS * logits) / 2**30
    if left_gib is not None and needed_gib > left_gib:
        raise NotProven(f"at full size: {parameters / 1e6:,.0f}M parameters and a row's logits take about "
                        f"{needed_gib:.1f} GiB, and {left_gib:.1f} GiB are free on this machine")
