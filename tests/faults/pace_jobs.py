"""A training that writes down every step's own time, with one rank slowed on request; runs in ranks of a RankGroup."""

from __future__ import annotations

import contextlib
import io
import statistics
import time

from dstrain.config.engine_json import engine_json
from dstrain.config.schema import Recipe
from dstrain.families import family_of
from dstrain.runtime.dist import Ranks
from dstrain.runtime.pace import Pace
from dstrain.train import trainer, watch

SLOW_RANK = 1


class _Noted(Pace):
    """A Pace whose steps and news are kept; from step `slow_from` on one rank takes `factor` times its own time."""

    notes: list["_Noted"] = []
    slow_from: int | None = None
    factor = 1.0

    def __init__(self, engine, ranks: Ranks):
        super().__init__(engine, ranks)
        self.own, self.named = [], []
        self.notes.append(self)
        engine.trainee.register_forward_pre_hook(self._sleep)
        self._passes = 0
        self._sleep_s = 0.0

    def stepped(self, data_wait_s: float) -> list[str]:
        news = super().stepped(data_wait_s)
        self.own.append((self.ranks.pulse.own_s, self.ranks.pulse.own_running_s))
        self.named += [(len(self.own), line) for line in news]
        if self.slow_from is not None and len(self.own) == self.slow_from - 1 and self.ranks.rank == SLOW_RANK:
            a_pass_s = statistics.median(running_s for _, running_s in self.own[-20:]) * len(self.own) / self._passes
            self._sleep_s = (self.factor - 1) * a_pass_s
        return news

    def _sleep(self, module, _) -> None:
        if module.training:
            self._passes += 1
            time.sleep(self._sleep_s)


def paces(ranks: Ranks, recipe: Recipe, ds_config: str, slow_from: int | None = None,
          factor: float = 2.0) -> tuple[list[float], list[tuple[int, str]]]:
    """Each step's own time on this rank, and (step, what was said) of slow ranks."""
    _Noted.notes.clear()
    _Noted.slow_from, _Noted.factor = slow_from, factor
    kept, watch.Pace = watch.Pace, _Noted
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            trainer.train(recipe, family_of(recipe), engine_json(recipe, ranks.world, "cpu", ds_config), ranks)
    finally:
        watch.Pace = kept
    return _Noted.notes[0].own, _Noted.notes[0].named
