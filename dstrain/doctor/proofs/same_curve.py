"""The promise itself: other ranks, another ZeRO stage and other micro-batches give the same rows and losses."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from dstrain.doctor.case import Case
from dstrain.doctor.finding import Finding, largest, relative
from dstrain.doctor.short_run import Trace, short_run

CLAIM = "the same rows and losses on 1 and 2 ranks, in micro-batches of 1 and 4 rows, and at another ZeRO stage"
STEPS = 20
BOUND = {"fp32": 1e-5, "bf16": 2e-2}
WHY = {"fp32": "relative, over 20 steps: other shapes sum in another order",
       "bf16": "relative, over 20 steps: 8 bits of mantissa"}
MICRO_ROWS = (1, 4)


def prove(case: Case) -> Finding:
    precision, most = case.precision, case.worlds[-1]
    runs = {f"{world} x {micro_rows}": run(case, world, micro_rows)
            for world, micro_rows in product(case.worlds, MICRO_ROWS)}
    other_stage = f"zero{1 if case.stage == 3 else 3}_{precision}"
    runs[f"{most} x {MICRO_ROWS[-1]} with {other_stage}"] = run(case, most, MICRO_ROWS[-1], other_stage)
    if case.compiled:
        runs[f"{most} x {MICRO_ROWS[-1]} compiled"] = run(case, most, MICRO_ROWS[-1], compiled=True)
    first = next(iter(runs.values()))
    error, other_rows = compare(first, list(runs.values()))
    passed = error <= BOUND[precision] and other_rows == 0 and len(first.losses) == STEPS
    return Finding(passed,
                   f"losses {error:.1e}, {other_rows} other rows, in {len(runs)} runs (ranks x rows {', '.join(runs)})",
                   f"losses {BOUND[precision]:.0e} {WHY[precision]}; rows none",
                   "" if passed else "a loss that is not finite, a mean of means, rows that depend on ranks, or "
                   "dropout that is not keyed; look at what the model and the objective do with a micro-batch")


def run(case: Case, world: int, micro_rows: int, ds_config: str | None = None, compiled: bool = False) -> Trace:
    """One short run on `world` ranks; the first rank's trace."""
    recipe = replace(case.recipe, batch=replace(case.recipe.batch, micro_rows=micro_rows),
                     engine=replace(case.recipe.engine, compile=compiled))
    return case.ranks(world).run(short_run, recipe, ds_config, STEPS)[0]


def compare(reference: Trace, traces: list[Trace]) -> tuple[float, int]:
    """(largest relative difference of a loss, number of steps with other rows) against the reference.

    The difference is infinite where a loss of either is NaN or infinite.
    """
    error = largest(relative(a, b) for trace in traces for a, b in zip(trace.losses, reference.losses, strict=True))
    other_rows = sum(a != b for trace in traces for a, b in zip(trace.rows, reference.rows, strict=True))
    return error, other_rows
