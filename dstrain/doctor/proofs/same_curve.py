"""The promise itself: other ranks, another ZeRO stage and other micro-batches give the same rows and losses."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from dstrain.config.schema import Recipe
from dstrain.config.shape import in_micro_batches
from dstrain.config.counted import CountedInTokens
from dstrain.doctor.case import Case
from dstrain.doctor.finding import Finding, largest, relative
from dstrain.doctor.in_fp32 import in_fp32
from dstrain.doctor.short_run import Trace, short_run

CLAIM = "the same rows and losses on 1 and 2 ranks, in small and large micro-batches, and at another ZeRO stage"
STEPS = 20
BOUND = {"fp32": 1e-5, "bf16": 2e-3}
WHY = {"fp32": "relative, over 20 steps: other shapes sum in another order",
       "bf16": "relative, over 20 steps: 8 bits of mantissa, 2e-4 was measured"}


def prove(case: Case) -> Finding:
    """In half precision the smallest and the largest shape are compared in fp32 as well, at the same stage."""
    precision, most, sizes = case.precision, case.worlds[-1], case.family.anatomy.micro_sizes
    runs = {f"{world} x {size}": run(case, world, size) for world, size in product(case.worlds, sizes)}
    other_stage = f"zero{1 if case.stage == 3 else 3}_{precision}"
    runs[f"{most} x {sizes[-1]} with {other_stage}"] = run(case, most, sizes[-1], other_stage)
    if case.compiled:
        runs[f"{most} x {sizes[-1]} compiled"] = run(case, most, sizes[-1], compiled=True)
    first = next(iter(runs.values()))
    error, other_rows = compare(first, list(runs.values()))
    figure, allowed, law = f"losses {error:.1e}", f"losses {BOUND[precision]:.0e} {WHY[precision]}", 0.0
    if precision != "fp32":
        one, other = (run(case, world, size, in_fp32(case)) for world, size in ((1, sizes[0]), (most, sizes[-1])))
        law, rows_in_fp32 = compare(one, [other])
        other_rows += rows_in_fp32
        figure += f", in fp32 {law:.1e}"
        allowed += f"; in fp32 {BOUND['fp32']:.0e}"
    passed = error <= BOUND[precision] and law <= BOUND["fp32"] and other_rows == 0 and len(first.losses) == STEPS
    return Finding(passed,
                   f"{figure}, {other_rows} other rows, on {' and '.join(map(str, case.worlds))} rank(s), in "
                   f"{len(runs)} runs (ranks x {in_what(case.recipe)} {', '.join(runs)})", f"{allowed}; rows none",
                   "" if passed else "a loss that is not finite, a mean of means, rows that depend on ranks, or "
                   "dropout that is not keyed; look at what the model and the objective do with a micro-batch")


def in_what(recipe: Recipe) -> str:
    return "tokens" if isinstance(recipe.batch, CountedInTokens) else "rows"


def run(case: Case, world: int, micro_size: int, ds_config: str | None = None, compiled: bool = False) -> Trace:
    """One short run on `world` ranks, in micro-batches of so many rows or tokens; the first rank's trace."""
    recipe = replace(in_micro_batches(case.recipe, micro_size),
                     engine=replace(case.recipe.engine, compile=compiled))
    return case.ranks(world).run(short_run, recipe, ds_config, STEPS)[0]


def compare(reference: Trace, traces: list[Trace]) -> tuple[float, int]:
    """(largest relative difference of a loss, number of steps with other rows) against the reference.

    The difference is infinite where a loss of either is NaN or infinite.
    """
    error = largest(relative(a, b) for trace in traces for a, b in zip(trace.losses, reference.losses, strict=True))
    other_rows = sum(a != b for trace in traces for a, b in zip(trace.rows, reference.rows, strict=True))
    return error, other_rows
