"""The gradient that the optimizer gets is the gradient of the loss law, whatever the step was cut into."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from dstrain.config.schema import Recipe
from dstrain.config.shape import in_micro_batches
from dstrain.doctor.case import Case
from dstrain.doctor.finding import Finding, largest
from dstrain.doctor.in_fp32 import in_fp32
from dstrain.doctor.reference import reference_step
from dstrain.doctor.short_run import short_run, whole

CLAIM = "the whole step's gradient equals a one-process float64 reference"
BOUND = {"fp32": 1e-5, "bf16": 2e-2}
"""of the whole gradient's norm; in bf16 4e-3 to 7e-3 was measured"""
BOUND_EACH = 0.2
"""of a parameter's own norm, in bf16: 1e-2 to 4e-2 was measured; one that no gradient reaches is off by 1"""
SMALLEST = 1e-3
"""share of the whole norm below which a parameter's own is all rounding"""


def prove(case: Case) -> Finding:
    """On one rank in many small micro-batches, on more in large ones. In half precision the law itself is held to
    fp32's bound, at the same stage, and each parameter to its own."""
    _, expected = reference_step(with_all_heads(case))
    unreached = [name for name, gradient in expected.items() if not gradient.any()]
    if unreached:
        return Finding(False, f"{len(unreached)} parameters get no gradient", "none",
                       f"no part of the loss depends on {', '.join(unreached)}: use them in forward, or take them out")
    half, sizes = case.precision != "fp32", case.family.anatomy.micro_sizes
    shapes = ((1, sizes[0]), (case.worlds[-1], sizes[-1]))
    law = largest(error_at(case, expected, *shape, in_fp32(case) if half else None) for shape in shapes)
    cause = "" if law <= BOUND["fp32"] else (
        "a loss that is not the sum over all targets divided by their number, a label that is not the next token, or a "
        "parameter that no gradient reaches")
    figure, allowed = f"{law:.1e} of the gradient's norm", f"at most {BOUND['fp32']:.0e}: rounding of fp32"
    if half:
        found = [gradient_at(case, expected, *shape) for shape in shapes]
        off, (worst, name) = largest(difference(each, expected) for each in found), max(
            of_each(each, expected) for each in found)
        figure = f"in fp32 at this stage {figure}; in {case.precision} {off:.1e}, and {worst:.1e} of its own in {name}"
        allowed += (f"; in {case.precision} {BOUND['bf16']:.0e}, and {BOUND_EACH} of each parameter's own: 8 bits of "
                    "mantissa")
        if not (off <= BOUND["bf16"] and worst <= BOUND_EACH):
            cause += "; " * bool(cause) + f"in {case.precision} {name} gets another gradient than rounding explains"
    return Finding(not cause, figure, allowed, cause)


def with_all_heads(case: Case) -> Recipe:
    """From the first step, which is the one that is looked at."""
    return case.family.anatomy.heads_at_once(case.recipe)


def gradient_at(case: Case, expected: dict[str, torch.Tensor], world: int, micro_size: int,
                ds_config: str | None = None) -> dict[str, torch.Tensor]:
    """Of step 1, in micro-batches of so many rows, or tokens; put together from all ranks."""
    recipe = replace(in_micro_batches(with_all_heads(case), micro_size), optim=replace(case.recipe.optim, clip=0.0))
    traces = case.ranks(world).run(short_run, recipe, ds_config, 1)
    return whole([trace.gradient for trace in traces], {name: g.shape for name, g in expected.items()})


def of_each(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> tuple[float, str]:
    """(the largest difference of a parameter's gradient over that gradient's norm, the parameter's name)."""
    least = SMALLEST * norm(expected)
    off = {name: float((found[name] - values).norm()) / max(least, float(values.norm()))
           for name, values in expected.items()}
    return max((value if math.isfinite(value) else math.inf, name) for name, value in off.items())


def error_at(case: Case, expected: dict[str, torch.Tensor], world: int, micro_size: int,
             ds_config: str | None = None) -> float:
    """In micro-batches of so many rows, or tokens. Norm of the difference over the norm of the reference, over
    all parameters; infinite if any is missing."""
    return difference(gradient_at(case, expected, world, micro_size, ds_config), expected)


def difference(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Infinite where anything is NaN or infinite, and where the reference itself is all zero."""
    if not all(torch.isfinite(values).all() for values in (*found.values(), *expected.values())):
        return math.inf
    whole_norm = norm(expected)
    return norm({name: found[name] - expected[name] for name in expected}) / whole_norm if whole_norm else math.inf


def norm(tensors: dict[str, torch.Tensor]) -> float:
    """Of all of them as one vector."""
    return sum(float(values.square().sum()) for values in tensors.values()) ** 0.5
