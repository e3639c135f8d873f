"""Checks that span several fields or sections; limits of one field alone stand in the schema."""

from __future__ import annotations

import re
from collections.abc import Callable

from dstrain.config.environment import check_environment
from dstrain.config.errors import UserError
from dstrain.config.hints import shown
from dstrain.config.schema import Optim, Recipe
from dstrain.config.source_rules import check_source

SIZES = ("width", "heads", "layers", "ff")
FOLDER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=-]{0,99}")
LM_TERMS = 1

PlaceOf = Callable[[str], str]


def check(recipe: Recipe, place_of: PlaceOf = lambda dotted: "the recipe") -> None:
    """Raises UserError for the first rule that is broken; `place_of("run.steps")` says where that key stands.
    Holds before a recipe is resolved (sizes and lanes may be open) and after."""
    _check_model(recipe, place_of)
    _check_data(recipe, place_of)
    _check_objective(recipe, place_of)
    _check_optim(recipe, place_of)
    _check_run(recipe, place_of)
    _check_schedule(recipe, place_of)
    _check_valid(recipe, place_of)
    check_environment(recipe.environment, place_of)


def _check_model(recipe: Recipe, place_of: PlaceOf) -> None:
    model = recipe.model
    missing = [name for name in SIZES if getattr(model, name) is None]
    if model.preset is None and missing:
        raise UserError(f"{place_of('model')}: model has no preset and no {', '.join(missing)}; "
                        f"set model.preset (tiny, small, medium) or all of {', '.join(SIZES)}")
    width, heads = model.width, model.heads
    if width is None or heads is None:
        return  # a preset fills them; checked again then
    place = place_of("model.heads")
    if width % heads:
        raise UserError(f"{place}: model.heads is {heads}, which does not divide model.width {width}; "
                        f"choose one of {_divisors(width)}")
    if model.positions == "rotary" and (width // heads) % 2:
        raise UserError(f"{place}: model.heads is {heads}, so each head has {width // heads} of model.width {width} "
                        f"channels, and rotary positions turn pairs of them; choose heads with an even width / heads")
    if model.positions == "sinusoidal" and width % 2:
        raise UserError(f"{place_of('model.width')}: model.width is {width}, and sinusoidal positions need pairs of "
                        f"channels; choose an even width")


def _check_data(recipe: Recipe, place_of: PlaceOf) -> None:
    if not recipe.data.train:
        raise UserError(f"{place_of('data.train')}: data.train is an empty list, so there is nothing to train on; "
                        f"give a source, for example [{{embedded: python-stdlib, part: train}}]")
    for split in ("train", "valid"):
        for i, source in enumerate(getattr(recipe.data, split)):
            name = f"data.{split}.{i}"
            check_source(source, name, lambda key: place_of(f"{name}.{key}"))
    lanes, rows = recipe.data.lanes, recipe.batch.rows
    if lanes is not None and rows % lanes:
        raise UserError(f"{place_of('data.lanes')}: data.lanes is {lanes}, which does not divide batch.rows {rows}; "
                        f"choose one of {_divisors(rows)}, or leave it out")


def _check_objective(recipe: Recipe, place_of: PlaceOf) -> None:
    weights = recipe.objective.weights
    if recipe.family == "lm" and (len(weights) != LM_TERMS or not weights[0] > 0):
        raise UserError(f"{place_of('objective.weights')}: objective.weights is {shown(list(weights))}, but family lm "
                        f"has one loss term, the next token, whose weight must be above 0; write [1.0]")


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


def _divisors(number: int) -> str:
    found = [d for d in range(1, min(number, 4096) + 1) if number % d == 0]
    return ", ".join(map(str, found[:16])) + (", ..." if len(found) > 16 else "")
