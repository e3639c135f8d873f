"""What is generated with a cache, beside others, is what whole forward passes of the row alone give."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import torch

from dstrain.config.arc import PuzzleData
from dstrain.doctor.answered import Puzzles
from dstrain.doctor.case import LONGEST, Case
from dstrain.doctor.continued import Beginnings, Continued, Sources, Texts
from dstrain.doctor.finding import Finding, NotProven, largest, relative
from dstrain.doctor.recipe_subject import fresh_trainee

CLAIM = "generated with a cache is generated without one, whatever stands beside"
ROUNDING = {"float64": 1e-6, "float32": 1e-4}
"""relative, of the sum of log p; a search counts it in steps of 2^-20"""
LOUDER = 8.0
"""initial weights are so small that all tokens are nearly as likely: times this, what is attended decides"""


def prove(case: Case) -> Finding:
    """Four comparisons: with a cache and without, in float64; beside a longer neighbour, too; as long as the recipe's
    rows; and beside another neighbour of as many tokens, where the shapes are the same and no bit may differ."""
    tokenizer = case.tokenizer()
    model = louder_model(case, tokenizer)
    rows = beginnings(case, model, tokenizer)
    exact = copy.deepcopy(model).double()
    beside = rows.cached(exact, [*rows.watched, rows.third])
    alone = [rows.uncached(exact, start) for start in [*rows.watched, rows.third]]
    of_cache, ties = differences(beside, alone)
    of_longer, more_ties = differences(beside[:-1], rows.cached(exact, [*rows.watched, rows.longer])[:-1])
    in_float32, float32_ties = differences(rows.cached(model, [*rows.watched, rows.third]), alone)
    of_length, length, length_ties = of_a_long_one(case, rows, tokenizer)
    exactly = case.family.anatomy.exact and rows.same_shapes
    changed, tokens = changed_bits(model, rows) if exactly else changed_more(model, rows)
    faults = [fault for fault, there in {
        f"a cache changes them (by {of_cache:.1e})": of_cache > ROUNDING["float64"],
        f"a longer neighbour changes them (by {of_longer:.1e})": of_longer > ROUNDING["float64"],
        f"a cache changes one as long as a row, {length} tokens (by {of_length:.1e})": of_length > ROUNDING["float64"],
        f"in float32 a cache changes them (by {in_float32:.1e})": in_float32 > ROUNDING["float32"],
        f"another neighbour changes {changed} of them": changed > 0}.items() if there]
    if not tokens:
        faults.append("nothing was generated")
    return Finding(
        not faults, f"{of_cache:.1e} between cache and none, {of_longer:.1e} beside a longer neighbour, "
        f"{of_length:.1e} at {length} tokens, {in_float32:.1e} in float32, relative, in log p of {tokens} tokens; "
        f"{changed} changed by another neighbour; {ties + more_ties + length_ties} ties, {float32_ties} in float32",
        f"{ROUNDING['float64']:.0e} relative in float64, {ROUNDING['float32']:.0e} in float32: other shapes round "
        "otherwise (and a search counts in steps of 2^-20); only a tie may choose another token. By another neighbour "
        + ("none, where the shapes are the same" if exactly else f"by {ROUNDING['float32']:.0e}: "
           + ("experts sort tokens" if rows.same_shapes else "what has ended leaves its batch")),
        f"{'; '.join(faults)}: padding or another row is attended, or what is cached stands at another position than "
        "in training" if faults else "",
        "compare the model's `extend` with its `forward`: positions, masks, and which slots a row has filled"
        if faults else "")


def beginnings(case: Case, model: torch.nn.Module, tokenizer: Any) -> Beginnings:
    """What this model can continue; NotProven where nothing here generates with it."""
    missing = [name for name in ("new_cache", "extend", "logits", "length") if not hasattr(model, name)]
    if missing:
        raise NotProven(f"the model has no {', '.join(missing)}: nothing generates with it")
    if isinstance(case.recipe.data, PuzzleData):
        return Puzzles(case)
    return Sources(case, tokenizer) if hasattr(model, "encode") else Texts(case, tokenizer)


def louder_model(case: Case, tokenizer: object) -> torch.nn.Module:
    """The untrained model with larger matrices."""
    trainee = fresh_trainee(case.recipe, case.family, tokenizer)
    with torch.no_grad():
        for parameter in trainee.parameters():
            if parameter.dim() > 1:
                parameter.mul_(LOUDER)
    return trainee.model


def of_a_long_one(case: Case, rows: Beginnings, tokenizer: object) -> tuple[float, int, int]:
    """(relative difference with a cache and without, length, ties): a small model of the recipe's own length, with a
    beginning or a source as long, beside a short one."""
    length = max(min((case.full or case.recipe).batch.length, LONGEST), case.recipe.batch.length)
    long_case = replace(case, recipe=replace(case.recipe, batch=replace(case.recipe.batch, length=length)))
    model = louder_model(long_case, tokenizer).double()
    long, new_tokens = rows.as_long_as(length)
    found = rows.cached(model, [rows.watched[0], long], new_tokens)[1]
    error, ties = differences([found], [rows.uncached(model, long, new_tokens)])
    return error, length, ties


def differences(found: list[Continued], expected: list[Continued]) -> tuple[float, int]:
    """(largest relative difference in log p, how many were left out because of a tie); another token without a tie is
    infinitely different."""
    errors, ties = [0.0], 0
    for one, other in zip(found, expected, strict=True):
        if one.ids == other.ids:
            errors.append(relative(one.logprob, other.logprob))
        elif one.ties or other.ties:
            ties += 1
        else:
            errors.append(math.inf)
    return largest(errors), ties


def changed_more(model: torch.nn.Module, rows: Beginnings) -> tuple[int, int]:
    """As `changed_bits`, but by more than rounding: experts sort tokens, and another neighbour's go elsewhere; or one
    that has ended leaves, and the shapes are others."""
    watched = len(rows.watched)
    one, other = (rows.cached(model, [*rows.watched, beside])[:watched] for beside in (rows.third, rows.other))
    changed = sum(not differences([a], [b])[0] <= ROUNDING["float32"] for a, b in zip(one, other, strict=True))
    return changed, sum(len(a.ids) for a in one)


def changed_bits(model: torch.nn.Module, rows: Beginnings) -> tuple[int, int]:
    """(continuations that differ, their tokens) when the row beside them is exchanged for one of as many tokens."""
    watched = len(rows.watched)
    one, other = (rows.cached(model, [*rows.watched, beside])[:watched] for beside in (rows.third, rows.other))
    return sum(a != b for a, b in zip(one, other)), sum(len(a.ids) for a in one)
