"""Made puzzles gravity: coloured cells fall to one side, and keep their order."""

from __future__ import annotations

from functools import partial

import numpy as np

from dstrain.data.grids.made.chance import Chance
from dstrain.data.grids.made.rule import Rule, as_it_is, palette, shapes, speckled
from dstrain.data.grids.task import Grid

TO = ("left", "right", "top", "bottom")


def gravity(chance: Chance) -> Rule:
    to = TO[chance.below(len(TO))]
    colours, shape = palette(chance, 1, 3), shapes(chance, shortest=3)
    return Rule(lambda: speckled(chance, shape(), colours, 2 * len(colours)), partial(fallen, to=to),
                (as_it_is, *(partial(fallen, to=other) for other in TO if other != to)))


def fallen(grid: Grid, to: str) -> Grid:
    """In lists: grids are too small for numpy's sorting to be the faster way."""
    lines = (grid.T if to in ("top", "bottom") else grid).tolist()
    found = []
    for line in lines:
        cells = [cell for cell in line if cell]
        empty = [0] * (len(line) - len(cells))
        found.append(cells + empty if to in ("left", "top") else empty + cells)
    answer = np.array(found, np.uint8)
    return np.ascontiguousarray(answer.T) if to in ("top", "bottom") else answer
