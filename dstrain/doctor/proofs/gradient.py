"""The gradient that the optimizer gets is the gradient of the loss law, whatever the step was cut into."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from dstrain.config.shape import in_micro_batches
from dstrain.doctor.case import Case
from dstrain.doctor.finding import Finding, largest, within
from dstrain.doctor.reference import reference_step
from dstrain.doctor.short_run import short_run, whole

CLAIM = "the whole step's gradient equals a one-process float64 reference"
BOUND = {"fp32": 1e-5, "bf16": 5e-2}


def prove(case: Case) -> Finding:
    _, expected = reference_step(case.recipe)
    unreached = [name for name, gradient in expected.items() if not gradient.any()]
    if unreached:
        return Finding(False, f"{len(unreached)} parameters get no gradient", "none",
                       f"no part of the loss depends on {', '.join(unreached)}: use them in forward, or take them out")
    error = largest(error_at(case, expected, world, case.family.anatomy.micro_sizes[0]) for world in case.worlds)
    precision = case.precision
    return within(error, BOUND[precision], "of the gradient's norm", f"rounding of {precision}",
                  "a loss that is not the sum over all targets divided by their number, a label that is not the "
                  "next token, or a parameter that no gradient reaches")


def error_at(case: Case, expected: dict[str, torch.Tensor], world: int, micro_size: int,
             ds_config: str | None = None) -> float:
    """In micro-batches of so many rows, or tokens. Norm of the difference over the norm of the reference, over
    all parameters; infinite if any is missing."""
    recipe = replace(in_micro_batches(case.recipe, micro_size), optim=replace(case.recipe.optim, clip=0.0))
    traces = case.ranks(world).run(short_run, recipe, ds_config, 1)
    shapes = {name: g.shape for name, g in expected.items()}
    return difference(whole([trace.gradient for trace in traces], shapes), expected)


def difference(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Infinite where anything is NaN or infinite, and where the reference itself is all zero."""
    if not all(torch.isfinite(values).all() for values in (*found.values(), *expected.values())):
        return math.inf
    norm = sum(float(values.square().sum()) for values in expected.values())
    off = sum(float((found[name] - expected[name]).square().sum()) for name in expected)
    return (off / norm) ** 0.5 if norm else math.inf
