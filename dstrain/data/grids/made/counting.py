"""Made puzzles count: which colour has the most cells, as an answer of one cell; or how many, as a bar of cells."""

from __future__ import annotations

import numpy as np

from dstrain.data.grids.made.chance import Chance
from dstrain.data.grids.made.rule import Rule, palette, shapes
from dstrain.data.grids.task import COLOURS, Grid

LONGEST = (4, 4, 4, 5, 5, 6)
MOST_COUNTED = 6


def count(chance: Chance) -> Rule:
    """Bars come from grids of one colour; where a colour wins, it has two cells more than the next, so that no other
    rule is meant than the eye finds at once."""
    way, shape = chance.below(len(WAYS_TO_COUNT)), shapes(chance, LONGEST, shortest=3)

    def draw() -> Grid:
        amounts = _amounts(chance) if WAYS_TO_COUNT[way] is winner else [1 + chance.below(MOST_COUNTED)]
        return scattered(chance, shape(), palette(chance, len(amounts), len(amounts)), amounts)

    return Rule(draw, WAYS_TO_COUNT[way], (*WAYS_TO_COUNT[:way], *WAYS_TO_COUNT[way + 1:]))


def winner(grid: Grid) -> Grid:
    """The colour of most cells, in a grid of one cell."""
    return np.full((1, 1), _most(grid)[0], np.uint8)


def bar_lying(grid: Grid) -> Grid:
    """As many cells in a row as there are of that colour."""
    colour, amount = _most(grid)
    return np.full((1, amount), colour, np.uint8)


def bar_standing(grid: Grid) -> Grid:
    colour, amount = _most(grid)
    return np.full((amount, 1), colour, np.uint8)


WAYS_TO_COUNT = (winner, bar_lying, bar_standing)


def scattered(chance: Chance, shape: tuple[int, int], colours: list[int], amounts: list[int]) -> Grid:
    """So many cells of each colour, anywhere."""
    grid = np.zeros(shape, np.uint8)
    cells = np.repeat(np.array(colours, np.uint8), amounts)
    grid.reshape(-1)[chance.places(grid.size, len(cells))] = cells
    return grid


def _amounts(chance: Chance) -> list[int]:
    """9 at most: as many as the smallest grid has cells."""
    others = [1 + chance.below(2) for _ in range(1 + chance.below(2))]
    return [*others, max(others) + 2 + chance.below(2)]


def _most(grid: Grid) -> tuple[int, int]:
    amounts = np.bincount(grid.reshape(-1), minlength=COLOURS)[1:]
    place = int(amounts.argmax())
    return place + 1, int(amounts[place])
