"""The learning rate that the optimizer really used is the requested curve, at every step to the end."""

from __future__ import annotations

import math
from dataclasses import replace

from dstrain.config.schema import Schedule
from dstrain.config.shape import in_micro_batches
from dstrain.doctor.case import Case
from dstrain.doctor.finding import Finding, largest, within
from dstrain.doctor.short_run import short_run

CLAIM = "the lr used at each optimizer step is the requested curve, for each group of parameters"
STEPS = 20


def prove(case: Case) -> Finding:
    """The recipe's own schedule, its warm-up and its decay in the same proportion, squeezed into 20 steps."""
    asked = case.recipe.schedule
    warmup_steps = _squeezed(asked.warmup_steps, case.recipe.run.steps) if asked.warmup_steps else 0
    if asked.decay_steps is not None:
        decay_steps = max(1, min(STEPS - warmup_steps, _squeezed(asked.decay_steps, case.recipe.run.steps)))
        asked = replace(asked, decay_steps=decay_steps)
    error = largest_error(case, replace(asked, warmup_steps=warmup_steps),
                          micro_size=case.family.anatomy.micro_sizes[-1])
    return within(error, 1e-12, "of the peak", "the same formula",
                  "a scheduler that is never stepped, stepped per micro-batch, or one step late")


def largest_error(case: Case, schedule: Schedule, world: int = 1, micro_size: int | None = None,
                  ds_config: str | None = None) -> float:
    """In micro-batches of so many rows, or tokens (None: in one). Over all 20 steps, as a share of the peak: used
    against asked, the curve written out here once more."""
    recipe = replace(in_micro_batches(case.recipe, micro_size), schedule=schedule,
                     run=replace(case.recipe.run, steps=STEPS))
    trace = case.ranks(world).run(short_run, recipe, ds_config, STEPS)[0]
    peaks = {"adamw": recipe.optim.lr, "muon": recipe.optim.muon_lr or recipe.optim.lr}
    found = [*trace.lrs_by_rule.items(), ("adamw", [record["lr"] for record in trace.records])]
    return largest(abs(lr / peaks[rule] - asked_share(schedule, step))
                   for rule, lrs in found for step, lr in zip(range(1, STEPS + 1), lrs, strict=True))


def asked_share(schedule: Schedule, step: int, steps: int = STEPS) -> float:
    """What a reader of the recipe expects: the warm-up reaches the peak in its last step, the end is the floor."""
    rise = min(1.0, step / schedule.warmup_steps if schedule.warmup_steps else 1.0)
    if rise < 1.0:
        return rise if schedule.warmup == "linear" else math.log(1 + step) / math.log(1 + schedule.warmup_steps)
    if schedule.name == "WarmupLR" or step == schedule.warmup_steps:
        return 1.0
    if schedule.name == "WarmupStableDecayLR":
        return schedule.floor + (1 - schedule.floor) * min(1.0, (steps - step) / schedule.decay_steps)
    progress = (step - schedule.warmup_steps) / (steps - schedule.warmup_steps)
    above_floor = 1.0 - progress if schedule.name == "WarmupDecayLR" else math.cos(math.pi * progress) / 2 + 0.5
    return schedule.floor + (1 - schedule.floor) * above_floor


def _squeezed(steps: int, of: int) -> int:
    return round(STEPS * steps / of)
