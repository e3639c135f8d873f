"""What elastic.py lets ranks do: train for so many steps, then leave as a preempted run does."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path

from dstrain.config.engine_json import engine_json
from dstrain.config.errors import Left
from dstrain.config.schema import Recipe
from dstrain.families import family_of
from dstrain.guard.bell import Bell
from dstrain.runtime.dist import Ranks
from dstrain.train.trainer import train


class RingsAfter(Bell):
    """Asked once a step, it asks to leave with step number `steps` of this call."""

    def __init__(self, steps: int):
        super().__init__()
        self.steps = steps

    def rings(self, needs_s: float = 0.0) -> bool:
        self.steps -= 1
        if self.steps == 0:
            self.ring("SIGTERM")
        return super().rings(needs_s)


def leg(ranks: Ranks, recipe: Recipe, ds_config: str, steps: int, place: Path) -> str:
    """Goes on for `steps` steps, or to the end; what was said."""
    os.chdir(place)
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(Left):
        config = engine_json(recipe, ranks.world, "cpu", ds_config)
        train(recipe, family_of(recipe), config, ranks, RingsAfter(steps))
    return said.getvalue()
