"""Made puzzles flip and rotate: the whole grid is mirrored, or turned."""

from __future__ import annotations

from functools import partial

import numpy as np

from dstrain.data.grids.made.chance import Chance
from dstrain.data.grids.made.rule import Answer, Rule, changed, palette, shapes, with_object
from dstrain.data.grids.task import Grid

DOWN, ACROSS = 0, 1
QUARTERS = (1, 2, 3)


def flip(chance: Chance) -> Rule:
    """Rows in reverse, or columns."""
    return _rule(chance, _FLIPS[chance.below(len(_FLIPS))])


def rotate(chance: Chance) -> Rule:
    """By 90, 180 or 270 degrees, against the clock."""
    return _rule(chance, _ROTATIONS[chance.below(len(_ROTATIONS))])


def flipped(grid: Grid, axis: int) -> Grid:
    return np.ascontiguousarray(grid[::-1] if axis == DOWN else grid[:, ::-1])


def rotated(grid: Grid, quarters: int) -> Grid:
    turned = {1: grid.T[::-1], 2: grid[::-1, ::-1], 3: grid[::-1].T}[quarters]
    return np.ascontiguousarray(turned)


_FLIPS = tuple(partial(flipped, axis=axis) for axis in (DOWN, ACROSS))
_ROTATIONS = tuple(partial(rotated, quarters=quarters) for quarters in QUARTERS)


def _rule(chance: Chance, answer: Answer) -> Rule:
    """The two kinds are told from each other, too."""
    colours, shape = palette(chance, 1, 2), shapes(chance, shortest=2)
    others = tuple(other for other in (*_FLIPS, *_ROTATIONS) if other is not answer)
    return Rule(changed(lambda: with_object(chance, shape(), colours, smallest=2), answer), answer, others)
