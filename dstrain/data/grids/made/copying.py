"""Made puzzles copy: the grid as it is, twice side by side, twice one below the other, or its object alone."""

from __future__ import annotations

import numpy as np

from dstrain.data.grids.made.chance import Chance
from dstrain.data.grids.made.counting import WAYS_TO_COUNT
from dstrain.data.grids.made.rule import Rule, as_it_is, palette, shapes, with_object
from dstrain.data.grids.task import Grid

LONGEST = (4, 4, 4, 5, 5)
"""no more: some grids are shown twice"""


def copy(chance: Chance) -> Rule:
    colours, shape = palette(chance, 1, 2), shapes(chance, LONGEST)
    ways = (as_it_is, side_by_side, one_below_the_other, object_alone)
    way = chance.below(len(ways))
    others = (*ways[:way], *ways[way + 1:], *WAYS_TO_COUNT)  # a cell that is all of an object might have been counted
    return Rule(lambda: with_object(chance, shape(), colours), ways[way], others)


def side_by_side(grid: Grid) -> Grid:
    return np.concatenate((grid, grid), axis=1)


def one_below_the_other(grid: Grid) -> Grid:
    return np.concatenate((grid, grid), axis=0)


def object_alone(grid: Grid) -> Grid:
    """The smallest rectangle that holds all coloured cells."""
    rows, columns = np.flatnonzero(grid.any(axis=1)), np.flatnonzero(grid.any(axis=0))
    return np.ascontiguousarray(grid[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1])
