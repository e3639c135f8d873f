"""The made puzzles by number: which kinds there are, and the task that a number stands for."""

from __future__ import annotations

import numpy as np

from dstrain.data.grids.made.chance import Chance
from dstrain.data.grids.made.copying import copy
from dstrain.data.grids.made.counting import count
from dstrain.data.grids.made.falling import gravity
from dstrain.data.grids.made.filling import fill
from dstrain.data.grids.made.parts import is_to_validate
from dstrain.data.grids.made.recolouring import recolour
from dstrain.data.grids.made.rule import Answer, Kind, Rule
from dstrain.data.grids.made.turning import flip, rotate
from dstrain.data.grids.task import Example, Grid, Task
from dstrain.data.hashing import MADE_PUZZLES, mix

KINDS = (
    Kind("flip", 1, "each cell moves alone, in one of two ways", flip),
    Kind("rotate", 2, "rows become columns, and a quarter turn has two directions", rotate),
    Kind("recolour", 2, "each colour's new one must be looked up in the demonstrations", recolour),
    Kind("gravity", 3, "a cell's place depends on all cells of its line, and on the side", gravity),
    Kind("fill", 2, "a cell changes by what surrounds it, and the colour must be looked up", fill),
    Kind("copy", 1, "cells stay as they are, and the answer's size tells the way", copy),
    Kind("count", 3, "the answer has a size that no cell shows", count),
)
TO_TRAIN = 2**20
"""numbers below are to train on, those from there on to validate on"""
FEWEST_SHOWN = 3
DRAWS = 200
"""of inputs, until another rule is taken"""
TELLING = 2
"""demonstrations that tell a rule from each other one of its kind: so one of them may be left out"""


def made_task(number: int) -> Task:
    """3 or 4 demonstrations and a query. Its kind is the number's remainder, so neighbours are of different kinds."""
    kind = KINDS[number % len(KINDS)]
    chance = Chance(mix(MADE_PUZZLES, number))
    shown = FEWEST_SHOWN + chance.below(2)
    while True:
        rule = kind.rule(chance)
        inputs = _different(rule, shown + 1, number >= TO_TRAIN)
        examples = tuple(Example(grid, rule.answer(grid)) for grid in inputs)
        if len(inputs) > shown and all(_told_from(other, examples[:shown]) for other in rule.others):
            return Task(f"embedded/{kind.name}/{number}", kind.name, examples[:shown], examples[shown:])


def _different(rule: Rule, count: int, to_validate: bool) -> list[Grid]:
    """Inputs of that part, none of them empty and no two alike. Fewer than `count` where the rule hardly has more: that
    few small grids are of the same part is a matter of chance."""
    found: dict[tuple[tuple[int, ...], bytes], Grid] = {}
    for _ in range(DRAWS):
        grid = rule.draw()
        if grid.any() and is_to_validate(grid) == to_validate:
            found[grid.shape, grid.tobytes()] = grid
        if len(found) == count:
            break
    return list(found.values())


def _told_from(other: Answer, demonstrations: tuple[Example, ...]) -> bool:
    telling = 0
    for example in demonstrations:
        telling += not np.array_equal(other(example.input), example.output)
        if telling == TELLING:
            return True
    return False
