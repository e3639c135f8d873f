"""Made puzzles flip and rotate: the whole grid is mirrored, or turned."""

from __future__ import annotations

from functools import partial

import numpy as np

from dstrain.data.grids.made.chance import Chance
from dstrain.data.grids.made.rule import Answer, Rule, palette, shape, speckled
from dstrain.data.grids.task import Grid

DOWN, ACROSS = 0, 1
QUARTERS = (1, 2, 3)


def flip(chance: Chance) -> Rule:
    """Rows in reverse, or columns."""
    axis = chance.of((DOWN, ACROSS))
    return _any_grid(chance, partial(flipped, axis=axis), [partial(flipped, axis=1 - axis)])


def rotate(chance: Chance) -> Rule:
    """By 90, 180 or 270 degrees, against the clock."""
    quarters = chance.of(QUARTERS)
    return _any_grid(chance, partial(rotated, quarters=quarters),
                     [partial(rotated, quarters=other) for other in QUARTERS if other != quarters])


def flipped(grid: Grid, axis: int) -> Grid:
    return np.ascontiguousarray(grid[::-1] if axis == DOWN else grid[:, ::-1])


def rotated(grid: Grid, quarters: int) -> Grid:
    turned = {1: grid.T[::-1], 2: grid[::-1, ::-1], 3: grid[::-1].T}[quarters]
    return np.ascontiguousarray(turned)


def _any_grid(chance: Chance, answer: Answer, others: list[Answer]) -> Rule:
    colours = palette(chance, 2, 4)
    return Rule(lambda: speckled(chance, shape(chance), colours, len(colours)), answer, tuple(others))
