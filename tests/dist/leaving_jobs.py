"""A training whose bell rings at a chosen moment on one rank; looked up by name in the ranks' own processes."""

from __future__ import annotations

import contextlib
import io

from dstrain.config.engine_json import engine_json
from dstrain.config.errors import Left
from dstrain.config.schema import Recipe
from dstrain.families import family_of
from dstrain.guard.bell import Bell
from dstrain.guard.pulse import Pulse
from dstrain.runtime.dist import Ranks
from dstrain.train.trainer import train


class _RingsIn(Pulse):
    """Rings when its rank enters a phase for the n-th time."""

    def __init__(self, bell: Bell, phase: str, times: int):
        super().__init__()
        self.bell, self.rings_in, self.times = bell, phase, times

    def enter(self, phase: str, detail: str = "") -> None:
        super().enter(phase, detail)
        if phase == self.rings_in:
            self.times -= 1
            if self.times == 0:
                self.bell.ring("SIGTERM")


def leaving(ranks: Ranks, recipe: Recipe, ds_config: str, asked_rank: int, phase: str, times: int,
            at_once: bool) -> str | None:
    """Trains until the end, or until all leave because `asked_rank` was asked to: then says with which words."""
    bell, kept = Bell(), ranks.pulse
    if ranks.rank == asked_rank:
        if at_once:
            bell.ring("SIGTERM")
        object.__setattr__(ranks, "pulse", _RingsIn(bell, phase, times))
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            train(recipe, family_of(recipe), engine_json(recipe, ranks.world, "cpu", ds_config), ranks, bell)
    except Left as left:
        return str(left)
    finally:
        object.__setattr__(ranks, "pulse", kept)
    return None
