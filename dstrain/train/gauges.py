"""What TensorBoard shows beside the loss, over the steps since the last log: padding, sources, waiting, memory, use."""

from __future__ import annotations

import os
import re
from pathlib import PurePath
from typing import Any

import torch

from dstrain.config.arc import PuzzleSource
from dstrain.config.schema import Recipe, Source
from dstrain.config.translate import PairSource
from dstrain.runtime.peak import peak_flops
from dstrain.train.run import Run

WAIT_SHARE = "perf/data_wait_share"


class Gauges:
    """Sums of what the data feed says of each step. Shares are of all ranks' rows, memory is this rank's."""

    def __init__(self, run: Run):
        self.ranks = run.ranks
        self.shares = share_tags(run.recipe)
        self.peak = peak_flops(run.ranks.device, run.config)
        self.flops_a_target = run.family.flops_a_target(run.recipe, run.engine.parameters)
        self._clear()

    def add(self, batch: Any) -> None:
        """Note a step: plain numbers, no device."""
        stats = batch.stats
        self._filled += stats["filled"]
        self._positions += stats["positions"]
        self._bad_lines = stats["bad_lines"]
        if "dropped" in stats:  # of pairs, those that were too long
            self._over_long = (self._over_long or 0) + stats["dropped"] + stats["cut"]
        self._wait_s += batch.wait_s
        if self.shares:
            for source, targets in enumerate(stats["targets_by_source"]):
                self._targets[source] += targets

    def read(self, tokens_per_s: float, window_s: float) -> dict[str, float]:
        """By TensorBoard tag. All ranks call it together, after `window_s` seconds of training; one all-reduce."""
        waits = [0.0] * self.ranks.world
        waits[self.ranks.rank] = self._wait_s
        numbers = torch.tensor([self._filled, self._positions, self._bad_lines, self._over_long or 0, *self._targets,
                                *waits], dtype=torch.float64, device=self.ranks.device)
        filled, positions, bad_lines, over_long, *others = self.ranks.sum(numbers).tolist()
        counts_over_long = self._over_long is not None
        targets, waits = others[:len(self.shares)], others[len(self.shares):]
        self._clear()
        shown = {"data/pad_share": 1 - filled / max(1.0, positions), "data/bad_lines": bad_lines,
                 WAIT_SHARE: max(waits) / window_s}  # of the rank that waits longest: the others wait for it
        if counts_over_long:
            shown["data/over_long"] = over_long
        if sum(targets):
            shown |= {tag: count / sum(targets) for tag, count in zip(self.shares, targets)}
        if self.peak is not None:
            shown["perf/mfu"] = tokens_per_s * self.flops_a_target / (self.peak * self.ranks.world)
        return shown | self._memory()

    def _memory(self) -> dict[str, float]:
        shown = {"mem/resident_gib": _resident_bytes() / 2**30}
        if self.ranks.device.type == "cuda":
            shown["mem/device_peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
            shown["mem/device_reserved_gib"] = torch.cuda.memory_reserved() / 2**30
        return shown

    def _clear(self) -> None:
        self._filled, self._positions, self._bad_lines, self._wait_s = 0, 0, 0, 0.0
        self._over_long: int | None = None
        self._targets = [0] * len(self.shares)


def share_tags(recipe: Recipe) -> list[str]:
    """One tag a source, such as data/share/0_wikitext; none where there is one source alone."""
    sources = recipe.data.train
    return [f"data/share/{number}_{_short(source)}" for number, source in enumerate(sources)] if sources[1:] else []


def _short(source: Source | PairSource | PuzzleSource) -> str:
    """The part of a source's place that tells it from others, in characters that a tag may have."""
    place = source.path or source.hub or source.embedded or source.source_path
    return re.sub(r"[^\w.-]+", "_", PurePath(place).name).strip("_") or "source"


def _resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
