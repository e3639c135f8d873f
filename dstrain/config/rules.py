"""Checks that span several fields or sections; limits of one field alone stand in the schema."""

from __future__ import annotations

import re
from collections.abc import Callable

from dstrain.config.environment import check_environment
from dstrain.config.errors import UserError
from dstrain.config.hints import shown
from dstrain.config.rules_arc import check_arc
from dstrain.config.rules_lm import check_lm
from dstrain.config.rules_moe import check_moe
from dstrain.config.rules_translate import check_translate
from dstrain.config.schema import Optim, Recipe

FOLDER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=-]{0,99}")
OF_FAMILY = {"lm": check_lm, "translate": check_translate, "moe": check_moe, "arc": check_arc}

PlaceOf = Callable[[str], str]


def check(recipe: Recipe, place_of: PlaceOf = lambda dotted: "the recipe") -> None:
    """Raises UserError for the first rule that is broken; `place_of("run.steps")` says where that key stands.
    Holds before a recipe is resolved (sizes and lanes may be open) and after."""
    OF_FAMILY[recipe.family](recipe, place_of)
    if recipe.engine.expert_parallel > 1 and recipe.family != "moe":
        raise UserError(f"{place_of('engine.expert_parallel')}: engine.expert_parallel is "
                        f"{recipe.engine.expert_parallel}, but family {recipe.family} has no experts; remove it")
    _check_optim(recipe, place_of)
    _check_run(recipe, place_of)
    _check_schedule(recipe, place_of)
    _check_valid(recipe, place_of)
    check_environment(recipe.environment, place_of)


def _check_optim(recipe: Recipe, place_of: PlaceOf) -> None:
    for i, beta in enumerate(recipe.optim.betas):
        if not 0 <= beta < 1:
            raise UserError(f"{place_of(f'optim.betas.{i}')}: optim.betas.{i} is {beta}, but must be at least 0 and "
                            f"below 1; [0.9, 0.95] is usual")
    defaults = Optim()
    for key in ("muon_lr", "muon_momentum"):
        value = getattr(recipe.optim, key)
        if recipe.optim.name != "muon" and value != getattr(defaults, key):
            raise UserError(f"{place_of(f'optim.{key}')}: optim.{key} is {value}, but optim.name is "
                            f"{recipe.optim.name}, which has none; remove it, or set optim.name=muon")


def _check_run(recipe: Recipe, place_of: PlaceOf) -> None:
    run = recipe.run
    if not FOLDER_NAME.fullmatch(run.name):
        raise UserError(f"{place_of('run.name')}: run.name is {shown(run.name)}, which cannot name a folder; use up to "
                        f"100 letters, digits, '-', '_', '.' and '=', beginning with a letter or digit")
    if not run.dir.strip():
        raise UserError(f"{place_of('run.dir')}: run.dir is {shown(run.dir)}, which names no folder; write runs")
    if run.steps is None and run.tokens is None:
        raise UserError(f"{place_of('run')}: run has neither steps nor tokens, so it has no end; "
                        f"set run.steps")
    if run.steps is not None and run.tokens is not None:
        raise UserError(f"{place_of('run.tokens')}: run has both steps {run.steps} and tokens {run.tokens}; "
                        f"keep one of them (the other: null)")


def _check_schedule(recipe: Recipe, place_of: PlaceOf) -> None:
    schedule, steps = recipe.schedule, recipe.run.steps
    if steps is not None and schedule.warmup_steps > steps:
        raise UserError(f"{place_of('schedule.warmup_steps')}: schedule.warmup_steps is {schedule.warmup_steps}, but "
                        f"the run has only {steps} steps; "
                        f"warm up for fewer steps (schedule.warmup_steps=0), or run for more")
    if schedule.name == "WarmupLR" and schedule.floor > 0:
        raise UserError(f"{place_of('schedule.floor')}: schedule.floor is {schedule.floor}, but WarmupLR never falls; "
                        f"remove it, or choose WarmupDecayLR or WarmupCosineLR")
    if schedule.decay_steps is None:
        return
    place = place_of("schedule.decay_steps")
    if schedule.name != "WarmupStableDecayLR":
        raise UserError(f"{place}: schedule.decay_steps is {schedule.decay_steps}, but only WarmupStableDecayLR has "
                        f"a stretch of decay; remove it, or set schedule.name=WarmupStableDecayLR")
    if steps is not None and schedule.warmup_steps + schedule.decay_steps > steps:
        raise UserError(f"{place}: schedule.decay_steps {schedule.decay_steps} and schedule.warmup_steps "
                        f"{schedule.warmup_steps} are more than the run's {steps} steps; make one of them smaller")


def _check_valid(recipe: Recipe, place_of: PlaceOf) -> None:
    patience = recipe.valid.patience
    if patience is not None and not recipe.data.valid:
        raise UserError(f"{place_of('valid.patience')}: valid.patience is {patience}, but data.valid is empty, so no "
                        f"validation can end the run; give data.valid, or remove it")
