"""What a kind of made puzzle decides for one task, and what the kinds' inputs are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dstrain.data.grids.made.chance import Chance
from dstrain.data.grids.task import COLOURS, Grid

BACKGROUND = 0
LONGEST = (4, 4, 4, 4, 4, 4, 5, 5, 5, 5, 5, 6, 6, 6, 7, 8)
"""of a task's inputs the longest side that there may be, as it is drawn"""

MOST_OF_OBJECT = 4
"""cells on a side"""

Answer = Callable[[Grid], Grid]


class Rule(NamedTuple):
    draw: Callable[[], Grid]
    """an input"""
    answer: Answer
    others: tuple[Answer, ...]
    """the answers by other rules that one might take it for: demonstrations must tell that none of them is meant"""


@dataclass(frozen=True)
class Kind:
    name: str
    difficulty: int
    """1 easy to 3 hard: how many things must be found out and put together, for a reader and for a model"""
    why: str
    """that it is so difficult"""
    rule: Callable[[Chance], Rule]


def as_it_is(grid: Grid) -> Grid:
    return grid.copy()


def changed(draw: Callable[[], Grid], answer: Answer) -> Callable[[], Grid]:
    """Draws only what the rule does not leave as it is."""
    def one() -> Grid:
        while True:
            grid = draw()
            if not np.array_equal(answer(grid), grid):
                return grid

    return one


def palette(chance: Chance, fewest: int, most: int) -> list[int]:
    """Some colours, none of them the background."""
    return chance.some_of(range(1, COLOURS), fewest + chance.below(most - fewest + 1))


def speckled(chance: Chance, shape: tuple[int, int], colours: Sequence[int], background: int) -> Grid:
    """Each cell has one of the colours, or, with the chance of so many more colours, the background's."""
    table = np.array([*colours, *[BACKGROUND] * background], np.uint8)
    return table[chance.many_below(len(table), shape[0] * shape[1])].reshape(shape)


def with_object(chance: Chance, shape: tuple[int, int], colours: list[int], smallest: int = 1) -> Grid:
    """A patch of coloured cells somewhere on the background, maybe as large as the grid."""
    height, width = (smallest + chance.below(min(side, MOST_OF_OBJECT) - smallest + 1) for side in shape)
    top, left = chance.below(shape[0] - height + 1), chance.below(shape[1] - width + 1)
    grid = np.zeros(shape, np.uint8)
    grid[top:top + height, left:left + width] = speckled(chance, (height, width), colours, 1)
    return grid


def shapes(chance: Chance, longest: Sequence[int] = LONGEST, shortest: int = 1) -> Callable[[], tuple[int, int]]:
    """Draws a task's shapes: different ones of about one size, for a task's largest grid says what all of it costs."""
    most = chance.of(longest)
    least = max(shortest, most - 3)

    def shape() -> tuple[int, int]:
        return least + chance.below(most - least + 1), least + chance.below(most - least + 1)

    return shape
