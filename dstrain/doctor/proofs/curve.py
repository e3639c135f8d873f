"""The lr curve at the run's full length: the engine's own scheduler taken through every step, without training."""

from __future__ import annotations

from dstrain.config.schema import Recipe, Schedule
from dstrain.doctor.case import Case
from dstrain.doctor.finding import Finding, largest
from dstrain.doctor.fresh_engine import fresh_engine
from dstrain.doctor.proofs.schedule import asked_share
from dstrain.runtime.dist import Ranks

CLAIM = "over all steps of the run the lr is the requested curve"
EVERY_STEP, EDGE = 200_000, 1_000
"""longer runs are looked at in so many steps, evenly, and in every step near a bend of the curve"""
BOUND = 1e-12


def prove(case: Case) -> Finding:
    """The run's own numbers of steps: no shrunk recipe has others."""
    recipe = case.recipe
    steps = looked_at(recipe.schedule, recipe.run.steps)
    lrs_by_rule = case.ranks(1).run(lrs_at, recipe, steps)[0]
    peaks = {"adamw": recipe.optim.lr, "muon": recipe.optim.muon_lr or recipe.optim.lr}
    errors = {(rule, step): abs(lr / peaks[rule] - asked_share(recipe.schedule, step, recipe.run.steps))
              for rule, lrs in lrs_by_rule.items() for step, lr in zip(steps, lrs, strict=True)}
    error = largest(errors.values())
    passed = error <= BOUND
    rule, worst = max(errors, key=errors.get)
    used, asked = lrs_by_rule[rule][steps.index(worst)], asked_share(recipe.schedule, worst, recipe.run.steps)
    return Finding(
        passed, f"{error:.1e} of the peak, at most, in {len(steps):,} of {recipe.run.steps:,} steps; largest at step "
        f"{worst:,}: {used:.4g} for {asked * peaks[rule]:.4g}",
        f"at most {BOUND:.0e}: the same formula, written twice",
        "" if passed else "a scheduler that is never stepped or one step late, a warm-up that does not reach its peak, "
        "or a decay that does not end with the run",
        "" if passed else f"compare schedule.* and run.steps with what was meant; if they are right, the scheduler's "
        f"class is wrong (schedule.name={recipe.schedule.name})")


def looked_at(schedule: Schedule, steps: int) -> list[int]:
    """Every step of a run up to 200,000; of a longer one as many, evenly, and all near its bends."""
    if steps <= EVERY_STEP:
        return list(range(1, steps + 1))
    bends = (1, schedule.warmup_steps, steps - (schedule.decay_steps or 0), steps)
    near = (step for bend in bends for step in range(bend - EDGE, bend + EDGE + 1) if 1 <= step <= steps)
    return sorted({*range(1, steps + 1, -(-steps // EVERY_STEP)), *near})


def lrs_at(ranks: Ranks, recipe: Recipe, steps: list[int]) -> dict[str, list[float]]:
    """By rule: what stands in the engine's optimizer when the training step reads it."""
    with fresh_engine(ranks, recipe) as (engine, _):
        found: dict[str, list[float]] = {rule: [] for rule in engine.lrs()}
        for step in steps:
            engine.schedule.step(step)
            for rule, lr in engine.lrs().items():
                found[rule].append(lr)
    return found
