"""Made puzzles gravity: coloured cells fall to one side, and keep their order."""

from __future__ import annotations

from functools import partial

import numpy as np

from dstrain.data.grids.made.chance import Chance
from dstrain.data.grids.made.rule import Rule, changed, palette, shapes, speckled
from dstrain.data.grids.task import Grid

TO = ("left", "right", "top", "bottom")


def gravity(chance: Chance) -> Rule:
    colours, shape = palette(chance, 1, 2), shapes(chance, shortest=3)
    side = chance.below(len(TO))
    answers = [partial(fallen, to=to) for to in TO]
    draw = changed(lambda: speckled(chance, shape(), colours, 2 * len(colours)), answers[side])
    return Rule(draw, answers[side], (*answers[:side], *answers[side + 1:]))


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
