"""The trained model of another run, for a new run to start from: its recipe, its tokenizer's folder, its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, NamedTuple

import torch

from dstrain.config.errors import UserError
from dstrain.config.load import load_saved_recipe
from dstrain.config.schema import Recipe
from dstrain.runtime.checkpoint.folder import committed, pointed
from dstrain.runtime.checkpoint.loading import load
from dstrain.runtime.checkpoint.manifest import MANIFEST, verify


class OtherRun(NamedTuple):
    checkpoint: Path
    recipe: Recipe
    tokenizer: Path
    names: frozenset[str]
    weight_of: Callable[[str], torch.Tensor]
    """whole, fp32, by the name of a parameter"""
    best: str | None
    """name of the run's best checkpoint by validation loss, where a run was given and another was taken"""


def open_run(key: str, place: str) -> OtherRun:
    """`place`, which the recipe gives under `key`, is a run folder, of which the newest checkpoint is taken, or a
    checkpoint."""
    given = Path(place).expanduser()
    there = [given] if (given / MANIFEST).is_file() else committed(given / "checkpoints")
    if not there:
        what = "has no checkpoint" if given.is_dir() else "is not there"
        raise UserError(f"{key}: {place} {what} (looked in {Path.cwd()}); give the folder of a trained run, or one of "
                        f"its checkpoints")
    checkpoint = there[-1]
    fault = verify(checkpoint)
    if fault is not None:
        raise UserError(f"{key}: {checkpoint} is damaged: {fault}; give another of its run's checkpoints")
    weights = load(checkpoint).weights
    return OtherRun(checkpoint, load_saved_recipe(checkpoint / "recipe.yaml"), checkpoint / "tokenizer",
                    frozenset(weights.shapes), weights.tensor, _better(given, checkpoint))


def _better(given: Path, taken: Path) -> str | None:
    best = None if given == taken else pointed(given / "checkpoints", "best")
    return None if best is None or best.name == taken.name else best.name
