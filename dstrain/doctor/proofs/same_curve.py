"""The promise itself: other ranks, ZeRO stages and micro-batches give the same rows and the same losses."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from dstrain.doctor.case import WORLDS, Case
from dstrain.doctor.finding import Finding
from dstrain.doctor.short_run import short_run

CLAIM = "the same rows and losses on any number of ranks and micro-batches"
STEPS = 20
BOUND = {"fp32": 1e-5, "bf16": 2e-2}
WHY = {"fp32": "relative, over 20 steps: other shapes sum in another order",
       "bf16": "relative, over 20 steps: 8 bits of mantissa"}
MICRO_ROWS = (1, 4)


def prove(case: Case) -> Finding:
    recipe = case.recipe
    runs = {(world, micro_rows): run(case, world, micro_rows) for world, micro_rows in product(WORLDS, MICRO_ROWS)}
    first = next(iter(runs.values()))
    precision = "bf16" if case.config(recipe, 1).get("bf16", {}).get("enabled") else "fp32"
    error, other_rows = compare(first, list(runs.values()))
    passed = error <= BOUND[precision] and other_rows == 0 and len(first.losses) == STEPS
    return Finding(passed, f"losses {error:.1e}, {other_rows} other rows, {len(runs)} shapes", f"losses {BOUND[precision]:.0e} {WHY[precision]}; rows: none",
                   "" if passed else "a mean of means, rows that depend on ranks, or dropout that is not keyed; "
                   "look at what the model and the objective do with a micro-batch")


def run(case: Case, world: int, micro_rows: int, ds_config: str | None = None, compiled: bool = False):
    """One short run on `world` ranks; the first rank's trace."""
    recipe = replace(case.recipe, batch=replace(case.recipe.batch, micro_rows=micro_rows),
                     engine=replace(case.recipe.engine, compile=compiled))
    return case.ranks(world).run(short_run, recipe, ds_config or case.ds_config, STEPS)[0]


def compare(reference, traces: list) -> tuple[float, int]:
    """(largest relative difference of a loss, number of steps with other rows) against the reference."""
    error = max(abs(a - b) / abs(b) for trace in traces for a, b in zip(trace.losses, reference.losses, strict=True))
    other_rows = sum(a != b for trace in traces for a, b in zip(trace.rows, reference.rows, strict=True))
    return error, other_rows
