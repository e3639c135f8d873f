"""Fills in what a recipe leaves to be derived: the preset's sizes, lanes, steps from tokens, the schedule's fall."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from dstrain.config.arc import ArcModel, PuzzleData, PuzzleSource
from dstrain.config.errors import UserError
from dstrain.config.moe import HEAD_WEIGHTS, MoeModel, MoeObjective
from dstrain.config.schema import Data, LmModel, Recipe, Source
from dstrain.config.shape import positions_a_step
from dstrain.config.source_files import PACKED
from dstrain.config.translate import PairData, PairSource, TranslateModel

LM_PRESETS = {
    "tiny": {"width": 256, "heads": 4, "layers": 4, "ff": 1024},
    "small": {"width": 512, "heads": 8, "layers": 6, "ff": 2048},
    "medium": {"width": 768, "heads": 12, "layers": 12, "ff": 3072},
}
TRANSLATE_PRESETS = {
    "tiny": {"width": 128, "heads": 4, "encoder_layers": 4, "decoder_layers": 4, "ff": 256},
    "small": {"width": 256, "heads": 4, "encoder_layers": 4, "decoder_layers": 4, "ff": 1024},
    "base": {"width": 512, "heads": 8, "encoder_layers": 6, "decoder_layers": 6, "ff": 2048},
}
MOE_PRESETS = {
    "tiny": {"width": 256, "heads": 4, "layers": 4, "ff": 704, "experts": 8, "expert_ff": 352},
    "small": {"width": 512, "heads": 8, "layers": 6, "ff": 1408, "experts": 16, "expert_ff": 704},
    "medium": {"width": 768, "heads": 12, "layers": 12, "ff": 2048, "experts": 32, "expert_ff": 1024},
}
"""top_k 2 experts of half a dense feed-forward's size each: as many active parameters as a dense model of that width"""
ARC_PRESETS = {
    "decoder": {
        "tiny": {"width": 104, "heads": 4, "layers": 4, "ff": 416},
        "small": {"width": 136, "heads": 4, "layers": 4, "ff": 544},
        "base": {"width": 168, "heads": 4, "layers": 5, "ff": 672},
        "large": {"width": 320, "heads": 8, "layers": 6, "ff": 1280},
    },
    "encoder-decoder": {
        "tiny": {"width": 96, "heads": 4, "encoder_layers": 1, "decoder_layers": 3, "ff": 384},
        "small": {"width": 120, "heads": 4, "encoder_layers": 1, "decoder_layers": 3, "ff": 480},
        "base": {"width": 168, "heads": 4, "encoder_layers": 1, "decoder_layers": 3, "ff": 672},
        "large": {"width": 336, "heads": 8, "encoder_layers": 1, "decoder_layers": 3, "ff": 1344},
    },
    "champion": {
        "tiny": {"width": 96, "heads": 4, "encoder_layers": 1, "decoder_layers": 2, "ff": 384},
        "small": {"width": 128, "heads": 4, "encoder_layers": 1, "decoder_layers": 2, "ff": 512},
        "base": {"width": 160, "heads": 4, "encoder_layers": 1, "decoder_layers": 3, "ff": 640},
        "large": {"width": 320, "heads": 8, "encoder_layers": 1, "decoder_layers": 3, "ff": 1280},
    },
}
GRID_TOKENIZER, UNSAID = "grid", Recipe.tokenizer
MOST_DEFAULT_LANES = 64
SPLIT_NAMES = {"validation": ("validation", "valid", "val", "dev"), "test": ("test",), "train": ("train",)}
"""of a hub's split: what its files may be called in a folder"""


def resolve(recipe: Recipe) -> Recipe:
    """The same recipe with no number left open. Resolving it again changes nothing."""
    run = recipe.run
    if run.steps is None and run.tokens is not None:
        run = replace(run, steps=-(-run.tokens // positions_a_step(recipe)), tokens=None)
    schedule = recipe.schedule
    if schedule.name == "WarmupStableDecayLR" and schedule.decay_steps is None:
        schedule = replace(schedule, decay_steps=min(-(-run.steps // 5), max(1, run.steps - schedule.warmup_steps)))
    tokenizer = GRID_TOKENIZER if recipe.family == "arc" and recipe.tokenizer == UNSAID else recipe.tokenizer
    return replace(recipe, model=_sized(recipe.model), data=_placed(recipe), run=run, schedule=schedule,
                   objective=_weighted(recipe), tokenizer=tokenizer)


def default_lanes(rows: int) -> int:
    """The largest divisor of `rows` up to 64."""
    return next(lanes for lanes in range(min(rows, MOST_DEFAULT_LANES), 0, -1) if rows % lanes == 0)


def _weighted(recipe: Recipe) -> Any:
    objective = recipe.objective
    if not isinstance(objective, MoeObjective) or objective.weights is not None:
        return objective
    return replace(objective, weights=HEAD_WEIGHTS[:recipe.model.next_tokens])


def _placed(recipe: Recipe) -> Data | PairData | PuzzleData:
    """The data where they lie, and their lanes where rows have them."""
    data = recipe.data
    if isinstance(data, Data) and data.lanes is None:
        data = replace(data, lanes=default_lanes(recipe.batch.rows))
    if data.folder is None:
        return data
    in_folder = _pairs_in_folder if isinstance(data, PairData) else _in_folder
    more = (data.languages,) if isinstance(data, PairData) else ()
    return replace(data, folder=None, train=tuple(in_folder(source, data.folder, *more) for source in data.train),
                   valid=tuple(in_folder(source, data.folder, *more) for source in data.valid))


def _in_folder(source: Source | PuzzleSource, folder: str) -> Source | PuzzleSource:
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


def _pairs_in_folder(source: PairSource, folder: str, languages: tuple[str, str]) -> PairSource:
    """As `_in_folder`; the folder's own files of a split are parallel text, one file a language."""
    paths = {key: os.path.join(folder, path) for key in ("path", "source_path", "target_path")
             if (path := getattr(source, key)) is not None}
    if paths or source.hub is None:
        return replace(source, **paths)
    downloaded = os.path.join(folder, source.hub)
    if os.path.isdir(downloaded):
        return replace(source, hub=downloaded, revision=None)
    found = [_text_of(folder, source.split, language) for language in languages]
    if None in found:
        files = " or ".join(f"{name}.{languages[0]} and {name}.{languages[1]}"
                            for name in SPLIT_NAMES.get(source.split, (source.split,)))
        what = (f"it holds neither {source.hub} nor the split {source.split!r} as {files} (plain, .gz or .zst)"
                if os.path.isdir(folder) else "there is no such folder")
        raise UserError(f"data.folder is {folder!r}, and {what}; looked in {os.getcwd()}; correct it, or leave it out "
                        f"to read from the hub")
    return PairSource(source_path=found[0], target_path=found[1], weight=source.weight)


def _text_of(folder: str, split: str, language: str) -> str | None:
    """One side's file of a split: train.en, train.en.gz ..."""
    names = (os.path.join(folder, f"{name}.{language}{packing}") for name in SPLIT_NAMES.get(split, (split,))
             for packing in ("", *PACKED))
    return next((name for name in names if os.path.isfile(name)), None)


PRESETS = {LmModel: LM_PRESETS, TranslateModel: TRANSLATE_PRESETS, MoeModel: MOE_PRESETS}


def _sized(model: Any) -> Any:
    if model.preset is None:
        return model
    presets = ARC_PRESETS[model.kind] if isinstance(model, ArcModel) else PRESETS[type(model)]
    sizes = presets[model.preset]
    return replace(model, **{name: size for name, size in sizes.items() if getattr(model, name) is None})
