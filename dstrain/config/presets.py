"""Fills in what a recipe leaves to be derived: the preset's sizes, lanes, steps from tokens, the schedule's fall."""

from __future__ import annotations

import os
from dataclasses import replace

from dstrain.config.errors import UserError
from dstrain.config.schema import LmModel, Recipe, Source

LM_PRESETS = {
    "tiny": {"width": 256, "heads": 4, "layers": 4, "ff": 1024},
    "small": {"width": 512, "heads": 8, "layers": 6, "ff": 2048},
    "medium": {"width": 768, "heads": 12, "layers": 12, "ff": 3072},
}
MOST_DEFAULT_LANES = 64


def resolve(recipe: Recipe) -> Recipe:
    """The same recipe with no number left open. Resolving it again changes nothing."""
    data, run = recipe.data, recipe.run
    if data.lanes is None:
        data = replace(data, lanes=default_lanes(recipe.batch.rows))
    if data.folder is not None:
        data = replace(data, folder=None, train=tuple(_in_folder(source, data.folder) for source in data.train),
                       valid=tuple(_in_folder(source, data.folder) for source in data.valid))
    if run.steps is None and run.tokens is not None:
        tokens_per_step = recipe.batch.rows * recipe.batch.length
        run = replace(run, steps=-(-run.tokens // tokens_per_step), tokens=None)
    schedule = recipe.schedule
    if schedule.name == "WarmupStableDecayLR" and schedule.decay_steps is None:
        schedule = replace(schedule, decay_steps=min(-(-run.steps // 5), max(1, run.steps - schedule.warmup_steps)))
    return replace(recipe, model=_sized(recipe.model), data=data, run=run, schedule=schedule)


def default_lanes(rows: int) -> int:
    """The largest divisor of `rows` up to 64."""
    return next(lanes for lanes in range(min(rows, MOST_DEFAULT_LANES), 0, -1) if rows % lanes == 0)


def _in_folder(source: Source, folder: str) -> Source:
    """The source as it lies in the folder; `os.path.join` leaves a path alone that is not relative."""
    if source.path is not None:
        return replace(source, path=os.path.join(folder, source.path))
    if source.hub is None:
        return source
    downloaded = os.path.join(folder, source.hub)
    if os.path.isdir(downloaded):
        return replace(source, hub=downloaded, revision=None)
    if os.path.isdir(folder):
        return replace(source, hub=folder, config=None, revision=None)
    raise UserError(f"data.folder is {folder!r}, and there is no such folder (looked in {os.getcwd()}); correct it, or "
                    f"leave it out to read {source.hub} from the hub")


def _sized(model: LmModel) -> LmModel:
    if model.preset is None:
        return model
    sizes = LM_PRESETS[model.preset]
    return replace(model, **{name: size for name, size in sizes.items() if getattr(model, name) is None})
