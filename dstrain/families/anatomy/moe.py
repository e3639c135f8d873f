"""The anatomy of `moe`: rows as of `lm`, several prediction heads, and experts whose bias moves from step to step.

What the training computes is written out here once more by other means: heads' weights and targets, terms, biases.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dstrain.config.schema import Recipe
from dstrain.data.collate import UNSCORED, Batch
from dstrain.families.anatomy.lm import LM_ANATOMY
from dstrain.families.own_class import shrunk
from dstrain.train.family import Term

SMALL = {"preset": None, "width": 32, "heads": 2, "layers": 2, "ff": 64, "experts": 4, "expert_ff": 16,
         "upcycle": None}
MOST = {"top_k": 2, "every": 2, "shared_experts": 1}
BEGINS = 2
"""step with which all heads have come in, in small: the shortest run of a proof has no more"""
BALANCE, ROUTER_Z, BIAS_SPEED = 0.1, 0.01, 0.01
"""in small, at least, unless the recipe has none: with usual ones nobody would see a wrong term beside the loss"""


def _shrunk(recipe: Recipe, folder: Path) -> Recipe:
    model, objective = recipe.model, recipe.objective
    most = {name: min(most, getattr(model, name)) for name, most in MOST.items()}
    speed = max(BIAS_SPEED, objective.bias_speed) if objective.has_bias else objective.bias_speed
    weight = objective.balance_weight and max(BALANCE, objective.balance_weight)
    objective = replace(objective, begins=_soon(objective.begins), bias_speed=speed,
                        balance_weight=weight if objective.has_balance_term else objective.balance_weight,
                        z_weight=objective.z_weight and max(ROUTER_Z, objective.z_weight))
    # The sizes first: what `lm` makes small has no experts.
    small = LM_ANATOMY.shrink(replace(recipe, model=replace(model, code=None)), folder)
    return replace(small, model=shrunk(model, SMALL | most), objective=objective)


def _soon(begins: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """In the same order, one step after the other."""
    if begins is None:
        return None
    numbers = sorted(set(begins))
    return tuple(min(BEGINS, 1 + numbers.index(begin)) for begin in begins)


# Heads

def _loss(recipe: Recipe, step: int | None = None) -> tuple[tuple[float, ...], float]:
    of, last = recipe.objective, recipe.run.steps
    step = last if step is None else step
    way = 0.0 if last <= 1 else min(last - 1, step - 1) / (last - 1)
    ends = of.final_weights or of.weights
    shares = [(1 - way) * start + way * end for start, end in zip(of.weights, ends, strict=True)]
    shares = [0.0 if begin > step else share
              for share, begin in zip(shares, of.begins or (1,) * len(shares), strict=True)]
    return tuple(share / sum(shares) for share in shares), 0.0


def _at_once(recipe: Recipe) -> Recipe:
    of = recipe.objective
    weights = tuple(map(max, of.weights, of.final_weights or of.weights))
    return replace(recipe, objective=replace(of, weights=weights, begins=None, final_weights=None))


def _first_alone(recipe: Recipe) -> Recipe | None:
    heads = recipe.model.next_tokens
    weights = (1.0, *(0.0,) * (heads - 1))
    objective = replace(recipe.objective, weights=weights, begins=None, final_weights=None)
    return replace(recipe, objective=objective) if heads > 1 else None


def _told_ahead(recipe: Recipe) -> tuple[int, ...]:
    """A sequential head gets the tokens up to the one that it predicts; parallel ones get no more than the first."""
    heads = range(recipe.model.next_tokens)
    return tuple(head if recipe.model.further == "sequential" else 0 for head in heads)


def _targets(recipe: Recipe, batch: Batch, tokenizer: Any) -> tuple[Tensor, ...]:
    """Document by document, the next tokens of each: a head further on scores as many fewer at its end."""
    next_BT, = LM_ANATOMY.targets(recipe, batch, tokenizer)
    found = [torch.full_like(next_BT, UNSCORED) for _ in range(recipe.model.next_tokens)]
    for b, segments_T in enumerate(batch.segments_BT.tolist()):
        for number in sorted({number for number in segments_T if number >= 0}):
            begin, size = segments_T.index(number), segments_T.count(number)
            document = next_BT[b, begin:begin + size]
            for head in range(min(len(found), size)):
                found[head][b, begin:begin + size - head] = document[head:]
    return tuple(found)


# Experts

def _further_terms(recipe: Recipe, output: Any, batch: Batch) -> tuple[Term, ...]:
    """Each row of each layer counts once in the balance, each token in the router's term."""
    of, layers = recipe.objective, len(output.routed)
    tokens_B = (batch.segments_BT >= 0).sum(dim=1)
    balance = of.balance_weight if of.has_balance_term else 0.0
    balances, router_zs = (torch.stack([getattr(one, name) for one in output.routed]).sum()
                           for name in ("balance", "router_z"))
    return (Term("balance", balance, balances, layers * int((tokens_B > 0).sum())),
            Term("router_z", of.z_weight, router_zs, layers * int(tokens_B.sum())))


def _counters_after(recipe: Recipe, counters: dict[str, Tensor], outputs: list[Any],
                    slack: float) -> dict[str, tuple[Tensor, Tensor]]:
    """An expert that got more than its share goes one down, one that got less goes one up."""
    found, moves = {}, recipe.objective.has_bias
    for layer, (name, nudges_E) in enumerate(counters.items()):
        given_E = sum(output.routed[layer].seen_X[:len(nudges_E)] for output in outputs).tolist()
        share = sum(given_E) / len(given_E)
        moved = [(given < share) - (given > share) if moves else 0 for given in given_E]
        sure = [not moves or abs(given - share) > slack * share for given in given_E]
        found[name] = nudges_E + torch.tensor(moved), torch.tensor(sure)
    return found


MOE_ANATOMY = replace(
    LM_ANATOMY, shrink=_shrunk, loss=_loss, targets=_targets, heads_of=lambda output: output.heads, exact=False,
    told_ahead=_told_ahead, further_terms=_further_terms, counters_after=_counters_after, heads_at_once=_at_once,
    first_head_alone=_first_alone)
